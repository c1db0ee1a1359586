"""A run as one file in latent-diffusion's layout, as the web UIs load it: network, autoencoder and text encoder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.autoencoders.autoencoder import KNOWN_SCALES
from ldm_train.commands.export.encoder_configs import Left
from ldm_train.commands.export.export_folder import write_tensors
from ldm_train.commands.export.exported_parts import Leaving, Part, joined, made, plain_tensors
from ldm_train.weights.layouts import autoencoder_layout, text_layout, unet_single_file
from ldm_train.weights.lazy_tensors import LazyTensors


def write_single_file(path: Path, found: Leaving, dtype: torch.dtype) -> None:
    """Write it; what the file cannot tell is added to the notes.

    Raises:
        ValueError: the layout cannot hold all of the run.
    """
    if found.reasons:
        raise ValueError(f"latent-diffusion's layout cannot hold this run: {'; '.join(found.reasons)}")
    assert found.unet is not None
    assert found.vae is not None
    assert found.text is not None
    write_tensors(path, joined(of_unet(found.unet), autoencoder(found.vae), text(found)), dtype=dtype)
    found.notes += told(found)


def of_unet(unet: Part) -> LazyTensors:
    names = unet_single_file.rename_unet_to_single_file(unet.tensors)
    return unet.tensors.rename(names)


def autoencoder(vae: Left) -> LazyTensors:
    return made(autoencoder_layout.map_autoencoder_to_single_file(vae.tensors), vae.tensors, vae.tensors)


def text(found: Leaving) -> LazyTensors:
    """transformers' names as in 1.x; open_clip's as in 2.x, with a last layer that nothing uses and its readers ask for."""
    assert found.text is not None
    own = found.text.tensors
    if not found.linear_projection:
        table = text_layout.map_text_encoder_to_transformers(own)
        return made({text_layout.PREFIX_1 + name: piece for name, piece in table.items()}, own, own)
    unused: Mapping[str, Tensor] = found.text.unused
    assert found.trained.text_encoder is not None
    if not unused and found.trained.text_encoder.get("layer") == "penultimate":  # it came without one
        count = text_layout.infer_text_architecture({name: tensor.shape for name, tensor in own.items()}).layers
        last, more = (f"transformer.resblocks.{number}." for number in (count - 1, count))
        unused = {name.replace(last, more): tensor for name, tensor in own.items() if name.startswith(last)}
    return plain_tensors({text_layout.PREFIX_2 + name: tensor for name, tensor in {**own, **unused}.items()})


def untold_scale(found: Leaving) -> float | None:
    """The latents' scale, unless a reader takes it from the autoencoder's shape."""
    scale = found.parts.autoencoder.scale
    widths = tuple(found.vae.config["block_out_channels"]) if found.vae else ()  # type: ignore[arg-type]
    return None if KNOWN_SCALES.get(widths) == scale else scale


def told(found: Leaving) -> list[str]:
    """What a reader has to be told beside the file."""
    notes = []
    if (scale := untold_scale(found)) is not None:
        notes.append(f"a file does not tell the scale of its latents: load it with autoencoder.scale={scale:.8g}")
    if type(found.parts.prediction).__name__ != "Noise":
        name = type(found.parts.prediction).__name__.lower()
        notes.append(f"a file does not tell what its network predicts, {name}: tell the web UI so")
    return notes
