"""Autoencoders behind the `Autoencoder` protocol: published ones in diffusers' layout, shipped ones, and the identity."""

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, cast

import torch
from torch import Tensor, nn

from ldm_train.autoencoders.kl_network import KLConfig, KLNetwork, decode_latents, encode_moments, read_config
from ldm_train.types import Moments
from ldm_train.util.files import atomic_write
from ldm_train.util.memory import check_fits
from ldm_train.util.safe_json import Json
from ldm_train.weights.fingerprint import SHIPPED, digest_tensors
from ldm_train.weights.hub import locate_weights
from ldm_train.weights.layouts import autoencoder_layout
from ldm_train.weights.leftovers import describe_leftovers
from ldm_train.weights.module_loading import allocate_module, copy_into_module
from ldm_train.weights.part_folders import CONFIG, CONFIG_CHECKSUM, find_part_folder
from ldm_train.weights.published_parts import PublishedPart, find_autoencoder
from ldm_train.weights.tensor_files import write_tensor_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

RGB = 3  # channels
PIXELS_AT_ONCE = 512**2  # that are decoded together; Stable Diffusion's autoencoder needs 0.8 GB for them
KNOWN_SCALES = {(128, 256, 512, 512): 0.18215, (128, 256, 512): 0.08333}  # by channels: Stable Diffusion, its x4 upscaler


class _DiffusersConfig(Protocol):
    """The fields of an `AutoencoderKL`'s config that are used here."""

    latent_channels: int
    block_out_channels: list[int]
    scaling_factor: float
    shift_factor: float | None
    norm_num_groups: int
    act_fn: str
    in_channels: int


class KLAutoencoder(nn.Module):
    """An `AutoencoderKL` of this package or diffusers' (Rombach et al. 2022, arXiv 2112.10752, section 3.1).

    Args:
        model: the network, with `scaling_factor` (and `shift_factor`) in its config: latents = (raw - shift) * scale.

    Attributes:
        notes: messages about where its weights are from, for whoever starts a command.
    """

    def __init__(self, model: "KLNetwork | AutoencoderKL") -> None:
        super().__init__()
        self.notes: list[str] = []
        self.model = model
        config = cast(_DiffusersConfig, model.config)
        self.channels = config.latent_channels
        self.image_channels = config.in_channels
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.scale = float(config.scaling_factor)
        self.shift = float(config.shift_factor or 0.0)

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that decides raw latents: the encoder's weights, and the settings that no weight's shape shows.

        Autoencoders that differ only in their decoders share one identity, since their latents are the same.
        """
        config = cast(_DiffusersConfig, self.model.config)
        encoder = {n: tensor for n, tensor in self.model.state_dict().items() if n.startswith(("encoder.", "quant_conv."))}
        return {
            "kind": "kl_autoencoder",
            "activation": config.act_fn,
            "norm_groups": config.norm_num_groups,
            "fingerprint": digest_tensors(encoder),
        }

    def encode(self, images: Tensor) -> Moments:
        """Return the raw moments (B, C, H/factor, W/factor) of images (B, 3, H, W)."""
        return Moments(*encode_moments(self.model, images))

    def decode(self, raw_latents: Tensor) -> Tensor:
        """Return the images (B, 3, H*factor, W*factor) of raw latents (B, C, H, W)."""
        pixels = self.factor**2 * raw_latents[0, 0].numel()
        return torch.cat([decode_latents(self.model, one) for one in raw_latents.split(max(1, PIXELS_AT_ONCE // pixels))])

    def save(self, folder: Path, *, shift: float, scale: float) -> None:
        """Write diffusers' layout: `config.json` with this shift and scale, and the weights as safetensors."""
        self.model.register_to_config(scaling_factor=scale, shift_factor=shift)
        config = self.model.to_json_string().encode()
        metadata = {CONFIG_CHECKSUM: zlib.crc32(config)}
        write_tensor_file(
            folder / "diffusion_pytorch_model.safetensors", self.model.state_dict(), metadata, {"format": "pt"}
        )
        atomic_write(folder / CONFIG, config)


class IdentityAutoencoder(nn.Module):
    """Use images as latents: for tests without an autoencoder, and for diffusion in pixel space.

    Args:
        channels: of the images; None for RGB.
    """

    def __init__(self, *, channels: int | None = None) -> None:
        super().__init__()
        self.channels = self.image_channels = RGB if channels is None else channels
        self.factor = 1
        self.scale = 1.0
        self.shift = 0.0

    @property
    def identity(self) -> dict[str, Json]:
        channels: dict[str, Json] = {} if self.channels == RGB else {"channels": self.channels}
        return {"kind": "identity", **channels}

    def encode(self, images: Tensor) -> Moments:
        return Moments(images, None)

    def decode(self, raw_latents: Tensor) -> Tensor:
        return raw_latents


def pretrained(
    weights: str, *, subfolder: str | None = None, scale: float | None = None, shift: float | None = None
) -> KLAutoencoder:
    """Load a trained autoencoder.

    Args:
        weights: "general" or "openmoji" (shipped), a folder in diffusers' layout (also a pipeline's), a file in
            latent-diffusion's layout (also one with a whole model), or a name on the Hugging Face hub.
        subfolder: the autoencoder's folder in `weights`; by default "vae" in a pipeline.
        scale, shift: replace those in its config; a file has no config.

    Raises:
        ValueError: the weights cannot be loaded, or the scale of a file is not known.
    """
    path = _locate(weights, subfolder)
    try:
        found = find_autoencoder(path, subfolder=subfolder)
        config = dict(found.config) if found.config is not None else _config_of_file(found, scale)
        model = _empty(config)
        table = autoencoder_layout.map_autoencoder_from_diffusers(model.state_dict())
        copy_into_module(
            model.state_dict(), table, found.tensors, found.shapes
        )  # checks names and shapes: nothing is copied to "meta"
        allocate_module(model)
        copy_into_module(model.state_dict(), table, found.tensors, found.shapes)
    except ValueError as error:
        raise ValueError(f"autoencoder.weights={weights}: {error}") from error
    given = {"scaling_factor": scale, "shift_factor": shift}
    model.register_to_config(**{name: value for name, value in given.items() if value is not None})
    autoencoder = KLAutoencoder(model.requires_grad_(False)).eval()
    details = f"{found.layout}, factor {autoencoder.factor}, scale {autoencoder.scale:.6g}"
    lines = [details, *describe_leftovers(found.ignored)]
    autoencoder.notes = [] if path.parent == SHIPPED else [f"autoencoder.weights={weights}: {line}" for line in lines]
    return autoencoder


def _locate(weights: str, subfolder: str | None) -> Path:
    """Return the file or folder that `autoencoder.weights` names, after downloading it if it is on the hub."""
    shipped = {folder.name: folder for folder in sorted(SHIPPED.glob("*/"))}
    if weights in shipped:
        return shipped[weights]
    try:
        path = locate_weights(
            weights, setting="autoencoder.weights", subfolder=subfolder or "vae", name="diffusion_pytorch_model"
        )
        folder = path / subfolder if subfolder else find_part_folder(path, "vae")
        if not path.is_file() and not (folder / CONFIG).is_file():
            raise ValueError(f"{folder} has no config.json")
    except ValueError as error:
        raise ValueError(
            f"autoencoder.weights={weights} is neither shipped ({', '.join(shipped)}), nor a folder in diffusers' layout, "
            f"nor a file of weights, nor available on the Hugging Face hub: {error}"
        ) from error
    return path


def _config_of_file(found: PublishedPart, scale: float | None) -> dict[str, object]:
    """Return the config of a file's autoencoder from its tensors' shapes.

    Raises:
        ValueError: no scale is given, and the shapes are not those of a published autoencoder, whose scale is known.
    """
    config = autoencoder_layout.infer_autoencoder_config(found.shapes)
    known = KNOWN_SCALES.get(cast(tuple[int, ...], config["block_out_channels"]))
    if scale is None and known is None:
        raise ValueError("the scale of its latents is not in the file; set autoencoder.scale=…")
    return config | {"scaling_factor": scale or known}


def _empty(config: dict[str, object]) -> "KLNetwork | AutoencoderKL":
    """Build the network that a config describes on "meta", where a network of any size takes no memory."""
    try:
        with torch.device("meta"):
            if (own := read_config(config)) is not None:
                return KLNetwork(own)
            from diffusers import AutoencoderKL

            return cast("AutoencoderKL", AutoencoderKL.from_config(config))
    except Exception as error:  # neither network checks its arguments: whatever fails raises
        raise ValueError(f"no AutoencoderKL can be built from its config.json ({type(error).__name__}: {error})") from error


class NewKLAutoencoder(KLAutoencoder):
    """An untrained `AutoencoderKL` in which every residual block starts as the identity, which trains faster.

    Args:
        channels: width of each level, from the image resolution down; n levels reduce the side by 2^(n-1).
        latent_channels: C of the latents.
        blocks: residual blocks of each level of the encoder (the decoder has one more).
        groups: of the group normalisations; must divide every width.
        attention: whether there is one self-attention at the lowest resolution.
        image_channels: of the images, 3 for RGB.

    Raises:
        ValueError: it does not fit in memory.
    """

    def __init__(
        self,
        channels: list[int],
        *,
        latent_channels: int = 4,
        blocks: int = 1,
        groups: int = 8,
        attention: bool = False,
        image_channels: int = RGB,
    ) -> None:
        config = KLConfig(
            in_channels=image_channels,
            out_channels=image_channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=tuple(channels),
            layers_per_block=blocks,
            latent_channels=latent_channels,
            norm_num_groups=groups,
            mid_block_add_attention=attention,
            scaling_factor=1.0,
        )
        with torch.device("meta"):
            check_fits(sum(parameter.numel() for parameter in KLNetwork(config).parameters()), noun="architecture")
        model = KLNetwork(config)
        for name, module in model.named_modules():
            if name.endswith("conv2") and isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        super().__init__(model)

    def initialise(self, seed: int) -> Self:
        """Draw the weights from the layers' default distributions with a seed; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.any():
                    module.reset_parameters()
        return self
