"""Find the weights of a part in a folder or file of any published layout, and rename them to one layout for each part.

A layout is recognized by its names. A single file may contain all parts; the weights of the other parts are skipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Size

from ldm_train.util.text import list_names
from ldm_train.weights.layouts import autoencoder_layout, text_layout, unet_single_file
from ldm_train.weights.lazy_tensors import LazyTensors, open_tensor_file
from ldm_train.weights.leftovers import drop_leftovers, suggest_removal
from ldm_train.weights.part_folders import VARIANTS, find_part_folder, open_part_folder

# What single files contain next to a part: the other parts, and the tables of the noise schedule.
OTHER_PREFIXES = (
    *("model.diffusion_model.", "model_ema.", "first_stage_model.", "cond_stage_model.", "depth_model.", "low_scale_model."),
    *("betas", "alphas_cumprod", "sqrt_", "log_one_minus_alphas_cumprod", "posterior_", "logvar", "scale_factor"),
)
RAW_VARIANT = "non_ema"  # a folder's weights that were not averaged
PICTURE_PREFIXES = ("vision_model.", "visual_projection.")
LOSS_PREFIXES = ("loss.", "model_ema.")  # an autoencoder's own training file also has its discriminator and its average
ACCEPTED_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "controlnet": ("ControlNetModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
}


@dataclass(frozen=True)
class PublishedPart:
    """A part's weights, renamed to diffusers' names (a text encoder's to those of transformers or open_clip).

    Args:
        path: the part's folder, or the file.
        layout: its layout, for messages.
        config: the content of a folder's `config.json`; None for a file.
        averaged: whether these are the averages of a file that has raw weights too.
        ignored: names of tensors that are left over from other programs.
    """

    path: Path
    layout: str
    tensors: LazyTensors
    config: Mapping[str, Any] | None = None
    averaged: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def shapes(self) -> Mapping[str, Size]:
        return self.tensors.shapes


def find_unet(path: Path, *, averaged: bool = True) -> PublishedPart:
    """Return a U-Net's weights under diffusers' names.

    Args:
        averaged: whether to take the averages if there are averages and raw weights.

    Raises:
        ValueError: there is no U-Net, or it cannot be read.
    """
    if path.is_dir():
        variants = VARIANTS if averaged else (RAW_VARIANT,)
        folder = find_part_folder(path, "unet")
        if not averaged and not any(folder.glob(f"*.{RAW_VARIANT}*")):
            raise ValueError(
                f"{folder} has no raw weights next to averages (*.{RAW_VARIANT}.safetensors); set network.averaged=true"
            )
        tensors, config = open_part_folder(
            folder, name="diffusion_pytorch_model", classes=ACCEPTED_CLASSES["unet"], variants=variants
        )
        return PublishedPart(folder, "diffusers' layout", tensors, config)
    tensors, ignored = drop_leftovers(open_tensor_file(path).tensors())
    check_is_model(path, tensors, "a U-Net")
    if "conv_in.weight" in tensors and any(name.startswith("down_blocks.") for name in tensors):
        return PublishedPart(path, "diffusers' layout", tensors, ignored=ignored)
    prefix = unet_single_file.UNET_PREFIX if any(name.startswith(unet_single_file.UNET_PREFIX) for name in tensors) else ""
    if f"{prefix}input_blocks.0.0.weight" not in tensors and not prefix:
        raise ValueError(
            describe_unknown(path, tensors, "a U-Net", "model.diffusion_model.…, input_blocks.… or down_blocks.…")
        )
    own = select_below(path, tensors, prefix)
    averages = {name: unet_single_file.format_average_name(f"{prefix}{name}") for name in own}
    takes_averages = bool(prefix) and averaged and any(name in tensors for name in averages.values())
    if takes_averages:
        if lacking := [name for name in averages.values() if name not in tensors]:
            raise ValueError(
                f"{path} lacks {list_names(lacking)} of its averages; network.averaged=false takes its raw weights"
            )
        own = tensors.rename({old: new for new, old in averages.items()})
    renamed = own.rename(unet_single_file.rename_unet_to_diffusers(own))
    return PublishedPart(path, "latent-diffusion's layout", renamed, averaged=takes_averages, ignored=ignored)


def find_controlnet(path: Path) -> PublishedPart:
    """Return a ControlNet's weights under diffusers' names.

    Raises:
        ValueError: there is no ControlNet in diffusers' layout, or it cannot be read.
    """
    if path.is_dir():
        folder = find_part_folder(path, "controlnet")
        tensors, config = open_part_folder(folder, name="diffusion_pytorch_model", classes=ACCEPTED_CLASSES["controlnet"])
        return PublishedPart(folder, "diffusers' layout", tensors, config)
    tensors, ignored = drop_leftovers(open_tensor_file(path).tensors())
    if "controlnet_mid_block.weight" not in tensors:
        raise ValueError(describe_unknown(path, tensors, "a ControlNet", "diffusers' controlnet_mid_block.…"))
    return PublishedPart(path, "diffusers' layout", tensors, ignored=ignored)


def find_autoencoder(path: Path, *, subfolder: str | None = None) -> PublishedPart:
    """Return an autoencoder's weights under AutoencoderKL's names.

    Raises:
        ValueError: there is no autoencoder, or it cannot be read.
    """
    if path.is_dir():
        folder = path / subfolder if subfolder else find_part_folder(path, "vae")
        tensors, config = open_part_folder(folder, name="diffusion_pytorch_model", classes=ACCEPTED_CLASSES["vae"])
        renewed = tensors.rename({name: autoencoder_layout.update_attention_name(name) for name in tensors})
        return PublishedPart(folder, "diffusers' layout", renewed, config)
    tensors, ignored = drop_leftovers(open_tensor_file(path).tensors())
    prefix = next(
        (p for p in (autoencoder_layout.AUTOENCODER_PREFIX, "vae.") if any(name.startswith(p) for name in tensors)), ""
    )
    check_is_model(path, tensors, "an autoencoder")
    if f"{prefix}encoder.conv_in.weight" not in tensors:
        raise ValueError(describe_unknown(path, tensors, "an autoencoder", "first_stage_model.… or encoder.…"))
    own = select_below(path, tensors, prefix)
    own = own.rename({name: name for name in own if not name.startswith(LOSS_PREFIXES)})
    names = {
        old: autoencoder_layout.update_attention_name(new)
        for old, new in autoencoder_layout.rename_autoencoder_to_diffusers(own).items()
    }
    single = any(name.startswith("encoder.down.") for name in own)
    layout = "latent-diffusion's layout" if single else "diffusers' layout"
    return PublishedPart(path, layout, own.rename(names), ignored=ignored)


def find_text_encoder(path: Path) -> PublishedPart:
    """Return a text transformer's weights under the names of transformers' CLIPTextModel or of open_clip's.

    Raises:
        ValueError: there is no text transformer, or it cannot be read.
    """
    if path.is_dir():
        folder = find_part_folder(path, "text_encoder")
        tensors, config = open_part_folder(folder, name="model", classes=ACCEPTED_CLASSES["text_encoder"])
        return PublishedPart(folder, "transformers' layout", drop_unused(tensors), config)
    tensors, ignored = drop_leftovers(open_tensor_file(path).tensors())
    prefixes = (text_layout.PREFIX_1, text_layout.PREFIX_2, "module.", "text.")
    check_is_model(path, tensors, "a text encoder")
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            strict = prefix in prefixes[:2]
            tensors = select_below(path, tensors, prefix) if strict else _without(tensors, prefix)
    own = drop_unused(tensors)
    transformers = text_layout.has_transformers_names(own)
    if not transformers and "token_embedding.weight" not in own:
        raise ValueError(
            describe_unknown(path, tensors, "a text encoder", "cond_stage_model.…, text_model.… or token_embedding")
        )
    return PublishedPart(path, "transformers' layout" if transformers else "open_clip's layout", own, ignored=ignored)


def drop_unused(tensors: LazyTensors) -> LazyTensors:
    """Return only the tensors of a text transformer that its hidden states depend on."""
    kept = [name for name in tensors if not text_layout.UNUSED.fullmatch(name) and not name.startswith(PICTURE_PREFIXES)]
    return tensors.rename({name: name for name in kept})


def select_below(path: Path, tensors: LazyTensors, prefix: str) -> LazyTensors:
    """Return the tensors whose names start with the prefix, under names without it.

    Raises:
        ValueError: other tensors belong to no known part of a model.
    """
    if not prefix:
        return tensors
    strange = [name for name in tensors if not name.startswith((prefix, *OTHER_PREFIXES))]
    if strange:
        raise ValueError(
            f"{path} contains tensors that belong to no known part of a model: {list_names(strange)}; "
            + suggest_removal(path, strange)
        )
    return tensors.rename({name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)})


def check_is_model(path: Path, tensors: LazyTensors, wanted: str) -> None:
    """Raise for published files that are not a model of the supported kinds.

    Args:
        wanted: what the file should contain, for messages: "a U-Net".

    Raises:
        ValueError: it is a LoRA, a ControlNet or Stable Diffusion XL.
    """
    if any("lora_" in name for name in tensors):
        raise ValueError(f"{path} is a LoRA and not {wanted}; a LoRA is applied to a model, not loaded as one")
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise ValueError(f"{path} is a Stable Diffusion XL model, which is not supported; use Stable Diffusion 1.x or 2.x")
    if any(name.startswith("control_model.") for name in tensors):
        raise ValueError(f"{path} is a ControlNet and not {wanted}")


def describe_unknown(path: Path, tensors: LazyTensors, wanted: str, known: str) -> str:
    """Return the message for a file in which no layout is recognized."""
    return f"{path} contains no names of {wanted} in a known layout ({known}), but {list_names(sorted(tensors), most=3)}"


def _without(tensors: LazyTensors, prefix: str) -> LazyTensors:
    names = {name: name.removeprefix(prefix) for name in tensors}
    return tensors.rename(names)
