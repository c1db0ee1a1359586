"""A run as a pipeline's folder in diffusers' layout, or as much of one as diffusers' classes can hold."""

from importlib.metadata import version
from pathlib import Path

import torch

from ldm_train.commands.export.ddim_scheduler import scheduler_config, told_spacing
from ldm_train.commands.export.encoder_configs import tokenizer_files
from ldm_train.commands.export.export_folder import write_json, write_tensors
from ldm_train.commands.export.exported_parts import SCHEDULER, TEXT, UNET, VAE, Leaving, as_transformers, plain_tensors
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.diffusion.schedules.schedule import VariancePreserving
from ldm_train.settings.composition import build
from ldm_train.util.files import atomic_write

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX: dict[str, object] = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_pipeline(folder: Path, found: Leaving, dtype: torch.dtype) -> list[str]:
    """Write the parts, and where all are held the pipeline's index; the parts that are written.

    Raises:
        ValueError: no part of it can be held.
    """
    stamp = {"_diffusers_version": version("diffusers")}
    written = []
    if found.unet is not None:
        written.append(UNET)
        write_json(folder / UNET / "config.json", {**found.unet.config, **stamp})
        write_tensors(folder / UNET / WEIGHTS, found.unet.tensors, dtype=dtype)
    if found.vae is not None:
        written.append(VAE)
        write_json(folder / VAE / "config.json", {**found.vae.config, **stamp})
        write_tensors(folder / VAE / WEIGHTS, plain_tensors(found.vae.tensors), dtype=dtype)
    written += write_text(folder, found, dtype)
    if not found.lacking[SCHEDULER]:
        written.append(SCHEDULER)
        assert isinstance(found.parts.schedule, VariancePreserving)
        config = scheduler_config(found.trained, found.parts.schedule, found.parts.prediction)
        write_json(folder / SCHEDULER / "scheduler_config.json", config | stamp)
        found.notes += told_spacing(build(found.trained.spacing, "spacing"))
    if not {UNET, VAE, TEXT} & set(written):
        raise ValueError(f"diffusers' classes can hold no part of this run: {'; '.join(found.reasons)}")
    if not found.reasons:
        write_json(folder / "model_index.json", INDEX | stamp)
    return written


def write_text(folder: Path, found: Leaving, dtype: torch.dtype) -> list[str]:
    """The text encoder and its tokenizer."""
    if found.text is None:
        return []
    encoder = found.parts.text_encoder
    assert isinstance(encoder, TextEncoder)
    # What transformers loads it in unless it is told: as diffusers does the other parts, whatever the file has.
    stamp = {"transformers_version": version("transformers"), "torch_dtype": "float32"}
    write_json(folder / TEXT / "config.json", found.text.config | stamp)
    write_tensors(folder / TEXT / "model.safetensors", as_transformers(found.text), dtype=dtype)
    for name, text in tokenizer_files(encoder).items():
        atomic_write(folder / "tokenizer" / name, text)
    return [TEXT, "tokenizer"]
