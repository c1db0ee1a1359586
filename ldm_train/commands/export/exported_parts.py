"""A run's parts on their way out: each under the names of diffusers, read tensor by tensor, and what cannot be held."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stored_weights import complete_weights
from ldm_train.assembly.trained_for import refuse_other_purpose
from ldm_train.assembly.trained_part import is_partial
from ldm_train.assembly.weights_match import own_settings
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.commands.export.ddim_scheduler import not_held as not_held_by_scheduler
from ldm_train.commands.export.encoder_configs import Left, autoencoder_out, text_out
from ldm_train.conditioners.text_encoder import TextEncoder
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
class Part:
    """Settings and tensors under their published names."""

    config: dict[str, Json]
    tensors: LazyTensors


@dataclass
class Leaving:
    """What of a run leaves.

    Args:
        parts: built; the network, where its weights are read from a file, without memory.
        unet, vae, text: None where the published class cannot hold it; the text's tensors are under open_clip's names.
        linear_projection: whether the network is laid out as Stable Diffusion 2.x, and not as 1.x.
        lacking: why a part is not held, by the part.
        unheard: why a pipeline of Stable Diffusion does not do what the run does, though its parts are held.
        notes: what else is to be told.
    """

    trained: TrainSettings
    parts: Parts
    linear_projection: bool
    unet: Part | None = None
    vae: Left | None = None
    text: Left | None = None
    lacking: dict[str, list[str]] = field(default_factory=dict)
    unheard: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        return [reason for reasons in self.lacking.values() for reason in reasons] + self.unheard


def leaving(trained: TrainSettings, run_dir: Path, weights: Mapping[str, Tensor]) -> Leaving:
    """The parts of a run with these weights.

    Raises:
        ValueError: the weights are not those of its network, or what it stands on is not there.
    """
    parts = build_parts(trained, empty_network=not is_partial(trained))
    refuse_other_purpose(run_dir, trained, parts)
    state = complete_weights(weights, run_dir, parts)
    found = Leaving(trained, parts, projects_linearly(parts, trained))
    side = parts.size // parts.autoencoder.factor
    network = below(state, "network.", parts.network.state_dict())
    found.lacking[UNET] = list(lacking_of_network(parts, trained))
    if not found.lacking[UNET]:
        found.unet = unet_of(found, network, side)
    take_autoencoder(found)
    take_text(found, state)
    found.lacking[SCHEDULER] = not_held_by_scheduler(parts.schedule, parts.prediction)
    found.unheard += unheard(parts)
    return found


def projects_linearly(parts: Parts, trained: TrainSettings) -> bool:
    """As diffusers' own network does; ours as 2.x, where its heads have a size, and as 1.x, where they have a number."""
    if isinstance(parts.network, UNet):
        return trained.network.get("heads") is None
    return bool(parts.network.unet.config.use_linear_projection)  # type: ignore[union-attr]


def lacking_of_network(parts: Parts, trained: TrainSettings) -> list[str]:
    return list_unsupported_settings(own_settings(trained.network, parts)) if isinstance(parts.network, UNet) else []


def below(state: Mapping[str, Tensor], prefix: str, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of one module, which must be all of its.

    Raises:
        ValueError: they are not.
    """
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    check_shapes({name: Piece((name,)) for name in like}, get_shapes(own), get_shapes(like))
    return own


def unet_of(found: Leaving, state: Mapping[str, Tensor], side: int) -> Part:
    """The network as UNet2DConditionModel, of ours or its own."""
    network = found.parts.network
    if not isinstance(network, UNet):
        plain = {name.removeprefix("unet."): tensor for name, tensor in state.items()}
        config = {name: value for name, value in network.unet.config.items() if not name.startswith("_")}  # type: ignore
        config |= {"_class_name": "UNet2DConditionModel", "sample_size": side}
        return Part(config, LazyTensors(get_shapes(plain), lambda name: plain[name]))
    table = map_unet_to_diffusers(state, linear_projection=found.linear_projection)
    own = own_settings(found.trained.network, found.parts)
    config = build_unet_config(own, linear_projection=found.linear_projection, sample_size=side)
    return Part(config, made(table, state, network.state_dict()))


def made(table: Mapping[str, Piece], state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> LazyTensors:
    """What a table makes of the weights, each when it is asked for."""
    return LazyTensors({name: piece(like).shape for name, piece in table.items()}, lambda name: table[name](state))


def take_autoencoder(found: Leaving) -> None:
    autoencoder = found.parts.autoencoder
    if not isinstance(autoencoder, KLAutoencoder):
        found.lacking[VAE] = [f"autoencoder={type(autoencoder).__name__}: it is no AutoencoderKL"]
        return
    try:
        found.vae = autoencoder_out(autoencoder)
        found.notes += found.vae.notes
    except ValueError as error:
        found.lacking[VAE] = [str(error)]


def take_text(found: Leaving, state: Mapping[str, Tensor]) -> None:
    encoder = found.parts.text_encoder
    if not isinstance(encoder, TextEncoder):
        found.lacking[TEXT] = [f"text_encoder={type(encoder).__name__}: it is no CLIPTextModel"]
        return
    own = {
        name.removeprefix(TEXT_ENCODER_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(TEXT_ENCODER_PREFIX)
    }
    encoder.load_state_dict(own, strict=False)
    found.text = text_out(encoder)


def unheard(parts: Parts) -> list[str]:
    """What a run's network is told that a pipeline of Stable Diffusion does not tell it."""
    found = []
    if parts.text_encoder.vector_width is not None:
        found.append("text_encoder.pooled=true: StableDiffusionPipeline gives the network tokens, and no vector beside them")
    if getattr(parts.network, "map_channels", 0):
        found.append("network.map_channels: StableDiffusionPipeline gives the network latents, and no maps beside them")
    if getattr(parts.text_encoder, "chunks", 1) > 1:
        found.append("text_encoder.chunks: StableDiffusionPipeline cuts a prompt at the text encoder's length")
    return found


def as_transformers(text: Left) -> LazyTensors:
    """CLIPTextModel's tensors."""
    return made(text_layout.map_text_encoder_to_transformers(text.tensors), text.tensors, text.tensors)


def plain_tensors(tensors: Mapping[str, Tensor]) -> LazyTensors:
    return LazyTensors(get_shapes(tensors), lambda name: tensors[name])


def joined(*several: LazyTensors) -> LazyTensors:
    """All of them as one."""
    shapes = {name: shape for tensors in several for name, shape in tensors.shapes.items()}
    places = {name: tensors for tensors in several for name in tensors}
    return LazyTensors(shapes, lambda name: places[name][name])
