"""All that `train` would build of a config, each part tried by itself, so that one look lists every contradiction."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from ldm_train.assembly.limits import duration
from ldm_train.assembly.new_words import untrained_words
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stored_run import build_recipe, build_weak
from ldm_train.assembly.stored_weights import load_first_weights
from ldm_train.assembly.trained_part import refuse_part
from ldm_train.assembly.trainer import refuse_absent, refuse_fused_scaling, refuse_sharding
from ldm_train.assembly.training_module import compile_network, training_module, warn_of_the_end
from ldm_train.assembly.watching import build_measuring, own_prompts
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.batches.positions import BatchGeometry
from ldm_train.data.pictures.crops import Size
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.generation import Generation
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import read_part
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.settings.validation import out_of_range
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.types import Autoencoder, CaptionBatch, Conditioning

P = ParamSpec("P")
T = TypeVar("T")
PARTS = ("autoencoder", "text_encoder", "schedule", "prediction", "weighting")
CPU = torch.device("cpu")
META = torch.device("meta")  # shapes without numbers


@dataclass
class Attempts:
    """Calls whose refusals are kept instead of ending everything.

    Args:
        told: of what published weights were recognised as.
        out_of_range: the settings that `ranges` refused, as `name=value`; what else refuses one tells nothing new.
    """

    reasons: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    out_of_range: set[str] = field(default_factory=set)

    def __call__(self, make: Callable[P, T], *args: P.args, **values: P.kwargs) -> T | None:
        """What the call gives; None where it refuses."""
        try:
            return make(*args, **values)
        except (ValueError, OSError) as error:
            if str(error) not in self.reasons and str(error).partition(" ")[0] not in self.out_of_range:
                self.reasons.append(str(error))
            return None


def try_settings(config: CheckSettings, attempt: Attempts) -> None:
    """What needs no part to be seen."""
    attempt.reasons += out_of_range(config)
    attempt.out_of_range = {reason.partition(" ")[0] for reason in attempt.reasons}
    attempt(refuse_absent, config.trainer)
    attempt(refuse_fused_scaling, config)
    attempt(refuse_sharding, config, shardable=True)
    attempt(duration, config.max_time)
    attempt(Keeping, **dict(config.checkpoint))
    attempt(build, config.ema, "ema")
    attempt(geometry, config)
    attempt(build_measuring, config)
    attempt(refuse_part, config)
    if config.compile is not None:
        attempt(compile_network, nn.Identity(), backend=config.compile)


def devices(config: CheckSettings) -> int:
    """How many share a batch; those of this machine where the config leaves it open."""
    named, here = config.trainer.devices, max(1, torch.cuda.device_count())
    count = named if isinstance(named, int) else len(named) if isinstance(named, list) else -1
    return config.trainer.num_nodes * (here if count < 1 else count)


def geometry(config: CheckSettings) -> BatchGeometry:
    size = config.micro_batch_size
    return BatchGeometry(config.batch_size, devices(config), 0, None if size == "auto" else size)


def try_parts(config: CheckSettings, attempt: Attempts) -> Parts | None:
    """The parts as training has them, but for the network, which is on the meta device; None where one is refused."""
    autoencoder, text_encoder, schedule, prediction, weighting = (
        attempt(build, getattr(config, name), name) for name in PARTS
    )
    attempt(build_parts, with_least(config))  # whether the weighting goes with the schedule
    attempt(build, config.timesteps, "timesteps")
    if not any(setting.startswith("optimizer.") for setting in attempt.out_of_range):  # torch names none
        attempt(refuse_optimization, config)
    network = None
    if autoencoder is not None and text_encoder is not None:
        network = attempt(build_network, config, autoencoder, text_encoder, device=META)
    if not (network and text_encoder and autoencoder and schedule and prediction and weighting):
        return None
    return Parts(network, text_encoder, autoencoder, schedule, prediction, weighting, config.image_size)


def with_least(config: CheckSettings) -> CheckSettings:
    """The config with the smallest encoders and network that there can be."""
    least = {
        "autoencoder": {"_target_": "ldm_train.autoencoders.autoencoder.IdentityAutoencoder"},
        "text_encoder": {"_target_": "ldm_train.conditioners.class_labels.ClassLabels", "classes": ["any"], "width": 1},
        "network": {"_target_": "ldm_train.networks.unet.UNet", "channels": [2], "attention": [False]},
    }
    return config.with_values(**{group: read_part(group, values) for group, values in least.items()})


def build_network(
    config: CheckSettings, autoencoder: Autoencoder, text_encoder: TextEncoder | ClassLabels, *, device: torch.device
) -> nn.Module:
    """The config's network, between these encoders."""
    widths = {"context_width": text_encoder.context_width, "vector_width": text_encoder.vector_width}
    with device:
        return build(config.network, "network", in_channels=autoencoder.channels, **widths)


def try_together(
    config: CheckSettings, parts: Parts, shapes: Iterable[Size], attempt: Attempts
) -> NoisePredictorTraining | None:
    """What only whole parts can refuse; the training module, its network on the meta device."""
    for shape in sorted({*shapes, (parts.size, parts.size)}):
        attempt(try_shape, parts, shape)
    prompts = attempt(own_prompts, config) or []
    recipe = attempt(build_recipe, config, steps=config.pictures.steps, seed=config.pictures.seed)
    weak = attempt(build_weak, config, parts, CPU)
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
        )
        attempt(generation.check, prompts, recipe)
    if config.network.get("weights") is not None:
        with warnings.catch_warnings(action="ignore"):  # that nothing is copied to the meta device
            attempt.told += attempt(load_first_weights, config, parts) or []
    return attempt(training_module, config, parts)


@torch.no_grad()
def try_shape(parts: Parts, shape: Size) -> None:
    """One forward pass of latents of pictures of this (height, width), in shapes alone."""
    factor, schedule = parts.autoencoder.factor, parts.schedule
    if any(side % factor for side in shape):
        raise ValueError(
            f"pictures of {shape[0]}x{shape[1]} pixels: the sides must be multiples of {factor}, the autoencoder's factor"
        )
    told = parts.text_encoder(CaptionBatch(parts.text_encoder.tokenize([""])))
    conditioning = Conditioning(**{name: None if part is None else part.to(META) for name, part in vars(told).items()})
    latents = torch.empty(1, parts.autoencoder.channels, *(side // factor for side in shape), device=META)
    try:
        Denoiser(parts.network, schedule, parts.prediction)(latents, torch.tensor([schedule.end]), conditioning)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"pictures of {shape[0]}x{shape[1]} pixels: {error}") from error


def warnings_of(config: CheckSettings, module: NoisePredictorTraining) -> list[str]:
    """What `train` warns of at its start."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        warn_of_the_end(module.objective)
    lines = [line.removeprefix("warning: ") for line in said.getvalue().splitlines()]
    return lines + untrained_words(module.text_encoder)
