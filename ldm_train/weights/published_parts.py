"""Each part's weights from whatever holds them, a folder or a file in any published layout, under the names of one.

The layout is told by the names. A single file may hold all parts: what belongs to the others is left to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Size

from ldm_train.util.text import list_names
from ldm_train.weights.layouts import autoencoder_layout, text_layout, unet_single_file
from ldm_train.weights.lazy_tensors import Tensors, open_file
from ldm_train.weights.part_folders import VARIANTS, open_folder, part_of

OTHERS = (
    *("model.diffusion_model.", "model_ema.", "first_stage_model.", "cond_stage_model.", "depth_model.", "low_scale_model."),
    *("betas", "alphas_cumprod", "sqrt_", "log_one_minus_alphas_cumprod", "posterior_", "logvar", "scale_factor"),
)
RAW = "non_ema"  # a variant
PICTURES = ("vision_model.", "visual_projection.")
LOSS = ("loss.", "model_ema.")  # beside an autoencoder that was trained by itself: its discriminator, and its average
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
}


@dataclass(frozen=True)
class Found:
    """A part's weights under the names of diffusers (or, for the text, of either layout), and what is told of them.

    Args:
        layout: in words.
        config: a folder's `config.json`; None for a file.
        scheduler: a pipeline's `scheduler_config.json`, beside the network.
    """

    path: Path
    layout: str
    tensors: Tensors
    config: Mapping[str, Any] | None = None
    averaged: bool = False

    @property
    def shapes(self) -> Mapping[str, Size]:
        return self.tensors.shapes


def find_unet(path: Path, *, averaged: bool = True) -> Found:
    """A U-Net's weights under diffusers' names.

    Args:
        averaged: of what holds averages and raw weights, the averages.

    Raises:
        ValueError: there is none, or what holds it cannot be read.
    """
    if path.is_dir():
        variants = VARIANTS if averaged else (RAW,)
        folder = part_of(path, "unet")
        if not averaged and not any(folder.glob(f"*.{RAW}*")):
            raise ValueError(f"{folder} has no raw weights beside others (*.{RAW}.safetensors); take network.averaged=true")
        stored = open_folder(folder, name="diffusion_pytorch_model", classes=CLASSES["unet"], variants=variants)
        return Found(folder, "diffusers' layout", stored.tensors, stored.config)
    tensors = open_file(path).tensors()
    refuse_others(path, tensors, "a U-Net")
    if "conv_in.weight" in tensors and any(name.startswith("down_blocks.") for name in tensors):
        return Found(path, "diffusers' layout", tensors)
    prefix = unet_single_file.PREFIX if any(name.startswith(unet_single_file.PREFIX) for name in tensors) else ""
    if f"{prefix}input_blocks.0.0.weight" not in tensors and not prefix:
        raise ValueError(unknown(path, tensors, "a U-Net", "model.diffusion_model.…, input_blocks.… or down_blocks.…"))
    own = below(path, tensors, prefix)
    averages = {name: unet_single_file.averaged_name(f"{prefix}{name}") for name in own}
    takes_averages = bool(prefix) and averaged and any(name in tensors for name in averages.values())
    if takes_averages:
        if lacking := [name for name in averages.values() if name not in tensors]:
            raise ValueError(
                f"{path} lacks {list_names(lacking)} of its averages; network.averaged=false takes its raw weights"
            )
        own = tensors.renamed({old: new for new, old in averages.items()})
    renamed = own.renamed(unet_single_file.to_diffusers_names(own))
    return Found(path, "latent-diffusion's layout", renamed, averaged=takes_averages)


def find_autoencoder(path: Path, *, subfolder: str | None = None) -> Found:
    """An autoencoder's weights under the names of AutoencoderKL.

    Raises:
        ValueError: there is none, or what holds it cannot be read.
    """
    if path.is_dir():
        folder = path / subfolder if subfolder else part_of(path, "vae")
        stored = open_folder(folder, name="diffusion_pytorch_model", classes=CLASSES["vae"])
        renewed = stored.tensors.renamed({name: autoencoder_layout.renewed(name) for name in stored.tensors})
        return Found(folder, "diffusers' layout", renewed, stored.config)
    tensors = open_file(path).tensors()
    prefix = next((p for p in (autoencoder_layout.PREFIX, "vae.") if any(name.startswith(p) for name in tensors)), "")
    refuse_others(path, tensors, "an autoencoder")
    if f"{prefix}encoder.conv_in.weight" not in tensors:
        raise ValueError(unknown(path, tensors, "an autoencoder", "first_stage_model.… or encoder.…"))
    own = below(path, tensors, prefix)
    own = own.renamed({name: name for name in own if not name.startswith(LOSS)})
    names = {old: autoencoder_layout.renewed(new) for old, new in autoencoder_layout.to_diffusers_names(own).items()}
    single = any(name.startswith("encoder.down.") for name in own)
    return Found(path, "latent-diffusion's layout" if single else "diffusers' layout", own.renamed(names))


def find_text_encoder(path: Path) -> Found:
    """A text transformer's weights under the names of transformers' CLIPTextModel, or of open_clip's.

    Raises:
        ValueError: there is none, or what holds it cannot be read.
    """
    if path.is_dir():
        folder = part_of(path, "text_encoder")
        stored = open_folder(folder, name="model", classes=CLASSES["text_encoder"])
        return Found(folder, "transformers' layout", used(stored.tensors), stored.config)
    tensors = open_file(path).tensors()
    prefixes = (text_layout.PREFIX_1, text_layout.PREFIX_2, "module.", "text.")
    refuse_others(path, tensors, "a text encoder")
    for prefix in prefixes:
        if any(name.startswith(prefix) for name in tensors):
            strict = prefix in prefixes[:2]
            tensors = below(path, tensors, prefix) if strict else _without(tensors, prefix)
    own = used(tensors)
    transformers = text_layout.is_transformers(own)
    if not transformers and "token_embedding.weight" not in own:
        raise ValueError(unknown(path, tensors, "a text encoder", "cond_stage_model.…, text_model.… or token_embedding"))
    return Found(path, "transformers' layout" if transformers else "open_clip's layout", own)


def used(tensors: Tensors) -> Tensors:
    """Those that the hidden states depend on."""
    kept = [name for name in tensors if not text_layout.UNUSED.fullmatch(name) and not name.startswith(PICTURES)]
    return tensors.renamed({name: name for name in kept})


def below(path: Path, tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names begin so, without it; all others must be of parts that are known.

    Raises:
        ValueError: something else is left over.
    """
    if not prefix:
        return tensors
    strange = [name for name in tensors if not name.startswith((prefix, *OTHERS))]
    if strange:
        raise ValueError(f"{path} holds what belongs to no part of a model that is known: {list_names(strange)} (left over)")
    return tensors.renamed({name: name.removeprefix(prefix) for name in tensors if name.startswith(prefix)})


def refuse_others(path: Path, tensors: Tensors, wanted: str) -> None:
    """Refuse what is published beside whole models, and models of another kind.

    Raises:
        ValueError: it is one.
    """
    if any("lora_" in name for name in tensors):
        raise ValueError(f"{path} is a LoRA and not {wanted}: it is applied to a model, not loaded as one")
    if any(name.startswith("conditioner.embedders.") for name in tensors):
        raise ValueError(f"{path} is a Stable Diffusion XL model, whose two text encoders are not read here")
    if any(name.startswith("control_model.") for name in tensors):
        raise ValueError(f"{path} is a ControlNet and not {wanted}")


def unknown(path: Path, tensors: Tensors, wanted: str, known: str) -> str:
    """What to say of names in which no layout is recognised."""
    return (
        f"{path} holds not {wanted} in a layout that is known ({known}): its names are {list_names(sorted(tensors), most=3)}"
    )


def _without(tensors: Tensors, prefix: str) -> Tensors:
    names = {name: name.removeprefix(prefix) for name in tensors}
    return tensors.renamed(names)
