"""Write a run as a pipeline's folder in diffusers' layout, or the parts of it that diffusers' classes support."""

from importlib.metadata import version
from pathlib import Path

import torch

from ldm_train.assembly.enlarging import find_low_resolution
from ldm_train.assembly.pipeline_layouts import DEPTH, UPSCALE
from ldm_train.commands.export.ddim_scheduler import build_scheduler_config, build_small_noise_config, list_spacing_notes
from ldm_train.commands.export.encoder_configs import build_tokenizer_files
from ldm_train.commands.export.export_folder import write_json, write_tensors
from ldm_train.commands.export.exported_parts import (
    SCHEDULER,
    TEXT,
    UNET,
    VAE,
    ExportedParts,
    as_lazy_tensors,
    map_text_to_transformers,
)
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.diffusion.schedules.schedule import VariancePreserving
from ldm_train.settings.composition import build
from ldm_train.util.files import atomic_write

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX: dict[str, object] = {
    "feature_extractor": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
WITHOUT: dict[str, object] = {
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
}
WITHOUT_DEPTH: dict[str, object] = {"depth_estimator": [None, None]}  # which the caller computes

SMALL_NOISE = "low_res_scheduler"
WITHOUT_MARK: dict[str, object] = {
    SMALL_NOISE: ["diffusers", "DDPMScheduler"],
    "safety_checker": [None, None],
    "watermarker": [None, None],
}


def write_pipeline(folder: Path, exported: ExportedParts, dtype: torch.dtype) -> list[str]:
    """Write the supported parts, and the pipeline's index if all are supported; return the names of the written parts.

    Raises:
        ValueError: diffusers' classes support no part of the run.
    """
    stamp = {"_diffusers_version": version("diffusers")}
    written = []
    if exported.unet is not None:
        written.append(UNET)
        write_json(folder / UNET / "config.json", {**exported.unet.config, **stamp})
        write_tensors(folder / UNET / WEIGHTS, exported.unet.tensors, dtype=dtype)
    if exported.vae is not None:
        written.append(VAE)
        write_json(folder / VAE / "config.json", {**exported.vae.config, **stamp})
        write_tensors(folder / VAE / WEIGHTS, as_lazy_tensors(exported.vae.tensors), dtype=dtype)
    written += write_text(folder, exported, dtype)
    if not exported.problems[SCHEDULER]:
        written.append(SCHEDULER)
        assert isinstance(exported.parts.schedule, VariancePreserving)
        config = build_scheduler_config(exported.trained, exported.parts.schedule, exported.parts.prediction)
        write_json(folder / SCHEDULER / "scheduler_config.json", config | stamp)
        exported.notes += list_spacing_notes(build(exported.trained.spacing, "spacing"))
    if not {UNET, VAE, TEXT} & set(written):
        raise ValueError(
            f"diffusers' classes support no part of this run: {'; '.join(exported.reasons)}; "
            "layout=null writes ldm-train's own file"
        )
    if not exported.reasons:
        more = WITHOUT_DEPTH if exported.pipeline == DEPTH.pipeline else WITHOUT
        condition = find_low_resolution(exported.parts.conditions)
        if exported.pipeline == UPSCALE.pipeline and condition is not None:
            more = WITHOUT_MARK | {"max_noise_level": condition.max_noise_level}
            write_json(folder / SMALL_NOISE / "scheduler_config.json", build_small_noise_config(condition) | stamp)
            written.append(SMALL_NOISE)
        write_json(folder / "model_index.json", {"_class_name": exported.pipeline, **INDEX, **more, **stamp})
    return written


def write_text(folder: Path, exported: ExportedParts, dtype: torch.dtype) -> list[str]:
    """Write the text encoder and its tokenizer; return the names of the written parts."""
    if exported.text is None:
        return []
    encoder = exported.parts.text_encoder
    assert isinstance(encoder, TextEncoder)
    # The dtype that transformers loads by default; diffusers loads its parts as float32 too, whatever the file has.
    stamp = {"transformers_version": version("transformers"), "torch_dtype": "float32"}
    write_json(folder / TEXT / "config.json", exported.text.config | stamp)
    write_tensors(folder / TEXT / "model.safetensors", map_text_to_transformers(exported.text), dtype=dtype)
    for name, text in build_tokenizer_files(encoder).items():
        atomic_write(folder / "tokenizer" / name, text)
    return [TEXT, "tokenizer"]
