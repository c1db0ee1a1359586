"""Write a run as one file in latent-diffusion's layout, as web UIs load it: network, autoencoder and text encoder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.autoencoders.autoencoder import KNOWN_SCALES
from ldm_train.commands.export.encoder_configs import ExportedEncoder
from ldm_train.commands.export.export_folder import write_tensors
from ldm_train.commands.export.exported_parts import ExportedPart, ExportedParts, as_lazy_tensors, join_tensors, map_lazily
from ldm_train.weights.layouts import autoencoder_layout, text_layout, unet_single_file
from ldm_train.weights.lazy_tensors import LazyTensors


def write_single_file(path: Path, exported: ExportedParts, dtype: torch.dtype) -> None:
    """Write the file, and add a note for everything that the layout cannot state.

    Raises:
        ValueError: the layout does not support a part of the run.
    """
    if exported.reasons:
        raise ValueError(
            f"layout=single_file does not support this run: {'; '.join(exported.reasons)}; "
            "layout=null writes ldm-train's own file"
        )
    assert exported.unet is not None
    assert exported.vae is not None
    assert exported.text is not None
    tensors = join_tensors(map_unet(exported.unet), map_autoencoder(exported.vae), map_text_encoder(exported))
    write_tensors(path, tensors, dtype=dtype)
    exported.notes += list_reader_notes(exported)


def map_unet(unet: ExportedPart) -> LazyTensors:
    names = unet_single_file.rename_unet_to_single_file(unet.tensors)
    return unet.tensors.rename(names)


def map_autoencoder(vae: ExportedEncoder) -> LazyTensors:
    return map_lazily(autoencoder_layout.map_autoencoder_to_single_file(vae.tensors), vae.tensors, vae.tensors)


def map_text_encoder(exported: ExportedParts) -> LazyTensors:
    """Return the text encoder's tensors: with transformers' names as in 1.x, or open_clip's as in 2.x.

    Readers of 2.x require a last layer even if the output of the penultimate one is used.
    """
    assert exported.text is not None
    own = exported.text.tensors
    if not exported.linear_projection:
        table = text_layout.map_text_encoder_to_transformers(own)
        return map_lazily({text_layout.PREFIX_1 + name: piece for name, piece in table.items()}, own, own)
    unused: Mapping[str, Tensor] = exported.text.unused
    assert exported.trained.text_encoder is not None
    if (
        not unused and exported.trained.text_encoder.get("layer") == "penultimate"
    ):  # its weights were published without the last layer
        count = text_layout.infer_text_architecture({name: tensor.shape for name, tensor in own.items()}).layers
        last, more = (f"transformer.resblocks.{number}." for number in (count - 1, count))
        unused = {name.replace(last, more): tensor for name, tensor in own.items() if name.startswith(last)}
    return as_lazy_tensors({text_layout.PREFIX_2 + name: tensor for name, tensor in {**own, **unused}.items()})


def find_unknown_scale(exported: ExportedParts) -> float | None:
    """Return the latents' scale, or None if readers know it from the autoencoder's shape."""
    scale = exported.parts.autoencoder.scale
    widths = tuple(exported.vae.config["block_out_channels"]) if exported.vae else ()  # type: ignore[arg-type]
    return None if KNOWN_SCALES.get(widths) == scale else scale


def list_reader_notes(exported: ExportedParts) -> list[str]:
    """Return what a reader of the file must set by hand."""
    notes = []
    if (scale := find_unknown_scale(exported)) is not None:
        notes.append(f"the file does not state the scale of its latents: load it with autoencoder.scale={scale:.8g}")
    if type(exported.parts.prediction).__name__ != "Noise":
        name = type(exported.parts.prediction).__name__.lower()
        notes.append(f"the file does not state that its network predicts {name}: select {name} prediction in the web UI")
    return notes
