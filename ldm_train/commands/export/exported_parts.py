"""Convert a run's parts to diffusers' configs and names, tensor by tensor, and list what the layout does not support."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.enlarging import find_low_resolution
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.pipeline_layouts import PLAIN, UPSCALE, UPSCALER_SCALE, find_layout, list_condition_problems
from ldm_train.assembly.stored_weights import complete_weights
from ldm_train.assembly.trained_for import refuse_other_purpose
from ldm_train.assembly.trained_part import is_partial
from ldm_train.assembly.weights_match import describe_own_unet
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.commands.export.ddim_scheduler import list_scheduler_problems
from ldm_train.commands.export.encoder_configs import ExportedEncoder, export_autoencoder, export_text_encoder
from ldm_train.conditioners.low_resolution import LEVELS
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.networks.unet import UNet
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.optimization.parameter_groups import TEXT_ENCODER_PREFIX
from ldm_train.util.safe_json import Json
from ldm_train.weights.layouts import text_layout
from ldm_train.weights.layouts.unet_config import build_unet_config, list_unsupported_settings
from ldm_train.weights.layouts.unet_layout import map_unet_to_diffusers
from ldm_train.weights.lazy_tensors import LazyTensors
from ldm_train.weights.tensor_mapping import Piece, check_shapes, get_shapes

UNET, VAE, TEXT, SCHEDULER = "unet", "vae", "text_encoder", "scheduler"


@dataclass(frozen=True)
class ExportedPart:
    """The config and the tensors of a network, under their published names."""

    config: dict[str, Json]
    tensors: LazyTensors


@dataclass
class ExportedParts:
    """The parts of a run in the published layout.

    Args:
        parts: the built parts; the network is on the meta device if its weights are read from a file.
        linear_projection: whether the network has the layout of Stable Diffusion 2.x rather than 1.x.
        unet, vae, text: None if the published class does not support the part; text tensors have open_clip's names.
        problems: why a part is not supported, by part.
        pipeline: the class in diffusers that passes what the run's conditions give.
        differences: how a pipeline conditions the network otherwise than the run, though it has all parts.
        notes: for the model card.
    """

    trained: TrainSettings
    parts: Parts
    linear_projection: bool
    pipeline: str = PLAIN
    unet: ExportedPart | None = None
    vae: ExportedEncoder | None = None
    text: ExportedEncoder | None = None
    problems: dict[str, list[str]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        return [reason for reasons in self.problems.values() for reason in reasons] + self.differences


def export_parts(trained: TrainSettings, run_dir: Path, weights: Mapping[str, Tensor]) -> ExportedParts:
    """Convert the parts of a run with these weights.

    Raises:
        ValueError: the weights do not fit the run's network, or its base weights do not exist.
    """
    parts = build_parts(trained, empty_network=not is_partial(trained))
    refuse_other_purpose(run_dir, trained, parts)
    state = complete_weights(weights, run_dir, parts)
    layout = find_layout(parts.conditions)
    exported = ExportedParts(
        trained, parts, has_linear_projection(parts, trained), PLAIN if layout is None else layout.pipeline
    )
    side = parts.size // parts.autoencoder.factor
    network = select_module(state, "network.", parts.network.state_dict())
    exported.problems[UNET] = list_network_problems(parts, trained)
    if not exported.problems[UNET]:
        exported.unet = export_unet(exported, network, side)
    add_autoencoder(exported)
    add_text_encoder(exported, state)
    exported.problems[SCHEDULER] = list_scheduler_problems(parts.schedule, parts.prediction)
    exported.differences += list_pipeline_differences(parts)
    if trained.pixels.channels not in (None, 3):
        exported.differences.append(f"pixels.channels={trained.pixels.channels}: {exported.pipeline} draws RGB pictures")
    return exported


def has_linear_projection(parts: Parts, trained: TrainSettings) -> bool:
    """Return whether the network has linear projections, as Stable Diffusion 2.x, and not convolutions, as 1.x.

    A `UNet` is written as 2.x if its heads are given by size, and as 1.x if they are given by number.
    """
    if isinstance(parts.network, UNet):
        return trained.network.get("heads") is None
    return isinstance(parts.network, DiffusersUNet) and bool(parts.network.unet.config.use_linear_projection)


def list_network_problems(parts: Parts, trained: TrainSettings) -> list[str]:
    if not isinstance(parts.network, UNet | DiffusersUNet):
        return [f"network._target_={trained.network.target} is code of your own, for which no published layout has a place"]
    return list_unsupported_settings(describe_own_unet(trained.network, parts)) if isinstance(parts.network, UNet) else []


def select_module(state: Mapping[str, Tensor], prefix: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of one module, without the prefix of their names.

    Raises:
        ValueError: the names or shapes differ from those of the module, `like`.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    check_shapes({name: Piece((name,)) for name in like}, get_shapes(own), get_shapes(like))
    return own


def export_unet(exported: ExportedParts, state: Mapping[str, Tensor], side: int) -> ExportedPart:
    """Return a `UNet` or a published network as UNet2DConditionModel."""
    network = exported.parts.network
    if not isinstance(network, UNet):
        plain = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
        config = {name: value for name, value in network.unet.config.items() if not name.startswith("_")}  # type: ignore
        config |= {"_class_name": "UNet2DConditionModel", "sample_size": side}
        return ExportedPart(config, LazyTensors(get_shapes(plain), lambda name: plain[name]))
    own, linear = describe_own_unet(exported.trained.network, exported.parts), exported.linear_projection
    like, levels = network.state_dict(), find_low_resolution(exported.parts.conditions)
    if exported.pipeline != UPSCALE.pipeline or levels is None:
        config = build_unet_config(own, linear_projection=linear, sample_size=side)
        return ExportedPart(config, map_lazily(map_unet_to_diffusers(state, linear_projection=linear), state, like))
    # The published network looks up a vector for each noise level: what the weights make of the features of each.
    features = levels.embed_levels(torch.arange(LEVELS))
    state = {**state, "vector.weight": state["vector.weight"].float() @ features.T}
    like = like | {"vector.weight": torch.empty(state["vector.weight"].shape, device="meta")}
    table = map_unet_to_diffusers(state, linear_projection=linear, noise_levels=True)
    config = build_unet_config(own, linear_projection=linear, sample_size=side, noise_levels=LEVELS)
    return ExportedPart(config, map_lazily(table, state, like))


def map_lazily(table: Mapping[str, Piece], state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> LazyTensors:
    """Return the tensors that a table maps the weights to, each computed when it is read."""
    return LazyTensors({name: piece(like).shape for name, piece in table.items()}, lambda name: table[name](state))


def add_autoencoder(exported: ExportedParts) -> None:
    autoencoder = exported.parts.autoencoder
    if not isinstance(autoencoder, KLAutoencoder):
        exported.problems[VAE] = [f"autoencoder={type(autoencoder).__name__}: it is not an AutoencoderKL"]
        return
    try:
        scale = UPSCALER_SCALE if exported.pipeline == UPSCALE.pipeline else None
        exported.vae = export_autoencoder(autoencoder, scale=scale)
        exported.notes += exported.vae.notes
    except ValueError as error:
        exported.problems[VAE] = [str(error)]


def add_text_encoder(exported: ExportedParts, state: Mapping[str, Tensor]) -> None:
    encoder = exported.parts.text_encoder
    if not isinstance(encoder, TextEncoder):
        exported.problems[TEXT] = [f"text_encoder={type(encoder).__name__}: it is not a CLIPTextModel"]
        return
    own = {
        name.removeprefix(TEXT_ENCODER_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(TEXT_ENCODER_PREFIX)
    }
    encoder.load_state_dict(own, strict=False)
    exported.text = export_text_encoder(encoder)


def list_pipeline_differences(parts: Parts) -> list[str]:
    """Return the conditions of a run's network that a Stable Diffusion pipeline does not pass."""
    messages = []
    if parts.text_encoder.vector_width is not None:
        messages.append("text_encoder.pooled=true: StableDiffusionPipeline passes tokens to the network, but no vector")
    messages += list_condition_problems(parts)
    if find_layout(parts.conditions) is UPSCALE and not isinstance(parts.network, UNet):
        messages.append(
            f"network={type(parts.network).__name__}: {UPSCALE.pipeline} passes numbers of noise levels, it takes vectors"
        )
    if getattr(parts.network, "map_channels", 0) and not parts.conditions.map_channels:
        messages.append("network.map_channels: StableDiffusionPipeline passes latents to the network, but no maps")
    if getattr(parts.text_encoder, "chunks", 1) > 1:
        messages.append("text_encoder.chunks: StableDiffusionPipeline cuts a prompt at the text encoder's length")
    return messages


def map_text_to_transformers(text: ExportedEncoder) -> LazyTensors:
    """Return the tensors of CLIPTextModel, under transformers' names."""
    return map_lazily(text_layout.map_text_encoder_to_transformers(text.tensors), text.tensors, text.tensors)


def as_lazy_tensors(tensors: Mapping[str, Tensor]) -> LazyTensors:
    return LazyTensors(get_shapes(tensors), lambda name: tensors[name])


def join_tensors(*several: LazyTensors) -> LazyTensors:
    """Return several mappings of lazy tensors as one."""
    shapes = {name: shape for tensors in several for name, shape in tensors.shapes.items()}
    places = {name: tensors for tensors in several for name in tensors}
    return LazyTensors(shapes, lambda name: places[name][name])
