"""Try everything that `train` would build, each part by itself, so that one check lists all problems."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from ldm_train.assembly.control_start import load_first_control
from ldm_train.assembly.drawn_tags import draw_tags
from ldm_train.assembly.limits import parse_duration
from ldm_train.assembly.new_words import warn_of_untrained_words
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.own_objects import build_callbacks
from ldm_train.assembly.own_part_probes import probe_parts
from ldm_train.assembly.parts import Parts, build_conditions, build_parts, is_shipped, network_widths
from ldm_train.assembly.prior import given_caches, refuse_prior_settings, share_epoch
from ldm_train.assembly.stored_run import build_recipe, build_weak
from ldm_train.assembly.stored_weights import load_first_weights
from ldm_train.assembly.trained_part import refuse_part
from ldm_train.assembly.trainer import build_loggers, refuse_absent, refuse_fused_scaling, refuse_sharding
from ldm_train.assembly.training_module import compile_network, list_sampling_warnings, training_module
from ldm_train.assembly.watching import build_measuring, check_prompts, guidance_scales, own_prompts, warn_of_own_prompts
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.condition import Conditions
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.batches.datamodules import compute_repeats
from ldm_train.data.batches.loss_weights import check_factors, read_loss_weights
from ldm_train.data.batches.positions import BatchGeometry
from ldm_train.data.pictures.crops import Size, format_size
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.generation import Generation
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import read_part
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.settings.validation import out_of_range
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.on_the_fly import PlannedExamples
from ldm_train.types import Autoencoder, CaptionBatch, Conditioning
from ldm_train.util.messages import Caution

P = ParamSpec("P")
T = TypeVar("T")
PARTS = ("autoencoder", "text_encoder", "schedule", "prediction", "weighting")
CPU = torch.device("cpu")
META = torch.device("meta")  # shapes without numbers


@dataclass
class Attempts:
    """Make calls and keep the messages of those that raise, instead of ending the check.

    Args:
        reasons: messages of calls that raised.
        notes: how published weights were recognised, and warnings.
        out_of_range: names of settings outside their ranges; a second message about one of them is left out.
    """

    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    out_of_range: set[str] = field(default_factory=set)

    def __call__(self, make: Callable[P, T], *args: P.args, **values: P.kwargs) -> T | None:
        """Return the result of the call, or None if it raises ValueError or OSError."""
        try:
            return make(*args, **values)
        except (ValueError, OSError) as error:
            if str(error) not in self.reasons and str(error).partition("=")[0] not in self.out_of_range:
                self.reasons.append(str(error))
            return None


def try_settings(settings: CheckSettings, attempt: Attempts) -> None:
    """Try what depends on the settings only, before any part is built."""
    attempt.reasons += out_of_range(settings)
    attempt.out_of_range = {reason.partition("=")[0] for reason in attempt.reasons}
    attempt(refuse_absent, settings.trainer)
    attempt(refuse_fused_scaling, settings)
    attempt(refuse_sharding, settings, shardable=True)
    attempt(parse_duration, settings.max_time)
    attempt(Keeping, **dict(settings.checkpoint))
    attempt(build, settings.ema, "ema")
    attempt(build_geometry, settings)
    attempt(build_measuring, settings)
    attempt(guidance_scales, settings)
    attempt(build_callbacks, settings)
    attempt(build_loggers, settings if settings.run_dir else settings.with_values(run_dir="run"))
    attempt(refuse_part, settings)
    count = len(given_caches(settings))
    if settings.prior.prompts is not None:
        attempt(refuse_prior_settings, settings)
        attempt(share_epoch, settings, count)
    else:  # the caches may be named later, one for each number
        given = settings.cache_repeats or settings.cache_shares or [1]
        sets = [1] * (count if settings.cache is not None else len(given))
        attempt(compute_repeats, sets, settings.cache_repeats, settings.cache_shares)
    if settings.cache is not None:
        attempt(check_factors, settings.cache_loss_weights, count)
    if settings.compile is not None:
        attempt(compile_network, nn.Identity(), backend=settings.compile)


def count_devices(settings: CheckSettings) -> int:
    """Return how many devices share a batch; as many as this machine has if the settings leave it open."""
    devices, here = settings.trainer.devices, max(1, torch.cuda.device_count())
    count = devices if isinstance(devices, int) else len(devices) if isinstance(devices, list) else -1
    return settings.trainer.num_nodes * (here if count < 1 else count)


def build_geometry(settings: CheckSettings) -> BatchGeometry:
    size = settings.micro_batch_size
    return BatchGeometry(settings.batch_size, count_devices(settings), 0, None if size == "auto" else size)


def try_parts(settings: CheckSettings, attempt: Attempts) -> Parts | None:
    """Return the parts of training, with the network on the meta device, or None if one cannot be built."""
    autoencoder, text_encoder, schedule, prediction, weighting = (
        attempt(build, getattr(settings, name), name) for name in PARTS
    )
    attempt(build_parts, with_smallest_parts(settings))  # raises if the weighting does not fit the schedule
    attempt(build, settings.timesteps, "timesteps")
    # torch's messages name no setting, so they would repeat the message about the range
    if not any(setting.startswith("optimizer.") for setting in attempt.out_of_range):
        attempt(refuse_optimization, settings)
    network, conditions = None, None
    if text_encoder is not None:
        attempt(draw_tags, settings, text_encoder)
    if autoencoder is not None and text_encoder is not None:
        conditions = attempt(build_conditions, settings, autoencoder, text_encoder.context_width)
    if autoencoder is not None and text_encoder is not None and conditions is not None:
        device = META if is_shipped(settings.network) else CPU  # own code may need numbers where it is built
        network = attempt(build_network_on, settings, autoencoder, text_encoder, conditions, device=device)
    if conditions is None or not (network and text_encoder and autoencoder and schedule and prediction and weighting):
        return None
    parts = Parts(network, text_encoder, autoencoder, schedule, prediction, weighting, settings.image_size, conditions)
    before = len(attempt.reasons)
    attempt(probe_parts, parts, settings)
    return parts if len(attempt.reasons) == before else None


def with_smallest_parts(settings: CheckSettings) -> CheckSettings:
    """Return the settings with the smallest possible encoders and network."""
    least = {
        "autoencoder": {"_target_": "ldm_train.autoencoders.autoencoder.IdentityAutoencoder"},
        "text_encoder": {"_target_": "ldm_train.conditioners.class_labels.ClassLabels", "classes": ["any"], "width": 1},
        "network": {"_target_": "ldm_train.networks.unet.UNet", "channels": [2], "attention": [False]},
    }
    return settings.with_values(conditions=[], **{group: read_part(group, values) for group, values in least.items()})


def build_network_on(
    settings: CheckSettings,
    autoencoder: Autoencoder,
    text_encoder: TextEncoder | ClassLabels,
    conditions: Conditions,
    *,
    device: torch.device,
) -> nn.Module:
    """Build the network with the widths and channels of these encoders and conditions."""
    with device:
        widths = network_widths(settings, autoencoder, text_encoder, conditions)  # type: ignore[arg-type]
        return build(settings.network, "network", **widths)


def try_together(
    settings: CheckSettings, parts: Parts, examples: PlannedExamples, attempt: Attempts
) -> NoisePredictorTraining | None:
    """Try what needs several parts; return the training module with its network on the meta device, or None."""
    for shape in sorted({*map(tuple, examples.shapes.unique(dim=0).tolist()), (parts.size, parts.size)}):
        attempt(try_shape, parts, shape)
    attempt(read_loss_weights, examples, settings.loss_weight, None)
    prompts = [prompt.text for prompt in attempt(own_prompts, settings) or []]
    attempt.notes += map(Caution, attempt(warn_of_own_prompts, settings, parts) or [])
    recipe = attempt(build_recipe, settings, steps=settings.pictures.steps, seed=settings.pictures.seed)
    weak = attempt(build_weak, settings, parts, CPU)
    if recipe is not None:
        generation = Generation(
            parts.network,
            parts.text_encoder,  # type: ignore[arg-type]
            parts.autoencoder,
            parts.schedule,
            parts.prediction,
            parts.size,
            CPU,
            weak,
            parts.conditions,
        )
        attempt(generation.check, prompts, recipe)
        attempt(check_prompts, settings, generation)
    for condition in parts.conditions.each:
        attempt(condition.read, examples)
    with warnings.catch_warnings(action="ignore"):  # torch warns that nothing is copied to the meta device
        if settings.network.get("weights") is not None:
            attempt.notes += attempt(load_first_weights, settings, parts) or []
        module = attempt(training_module, settings, parts)
        attempt.notes += (attempt(load_first_control, settings, parts) or []) if module is not None else []
    return module


@torch.no_grad()
def try_shape(parts: Parts, shape: Size) -> None:
    """Run one forward pass for pictures of this (height, width) on the network's device, such as meta: shapes only.

    Raises:
        ValueError: the autoencoder or the network cannot take this shape.
    """
    factor, schedule = parts.autoencoder.factor, parts.schedule
    if any(side % factor for side in shape):
        raise ValueError(
            f"pictures of {format_size(shape)} pixels: both sides must be multiples of {factor}, the autoencoder's factor"
        )
    latent_size = (shape[0] // factor, shape[1] // factor)
    encoded = parts.conditions(
        parts.text_encoder(CaptionBatch(parts.text_encoder.tokenize([""]))),
        parts.conditions.absent(1, size=shape, latent_size=latent_size),
    )
    device = next((parameter.device for parameter in parts.network.parameters()), META)
    conditioning = Conditioning(**{name: None if part is None else part.to(device) for name, part in vars(encoded).items()})
    latents = torch.zeros(1, parts.autoencoder.channels, *(side // factor for side in shape), device=device)
    try:
        Denoiser(parts.network, schedule, parts.prediction)(latents, torch.tensor([schedule.end]), conditioning)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"pictures of {format_size(shape)} pixels: {error}") from error


def collect_start_warnings(module: NoisePredictorTraining) -> list[str]:
    """Return the warnings that `train` prints at its start."""
    return list_sampling_warnings(module.objective) + warn_of_untrained_words(module.text_encoder)
