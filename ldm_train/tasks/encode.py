"""`ldm-train encode`: captioned pictures to a latent cache."""

import json
from pathlib import Path

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ldm_train.data.cache import Json, Manifest
from ldm_train.data.cache_writer import CacheWriter
from ldm_train.data.inspection import usable
from ldm_train.encoders.class_labels import ClassLabels
from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.encoders.fingerprint import fingerprint
from ldm_train.tasks.config import at_least_one, build
from ldm_train.tasks.lightning import options, quiet
from ldm_train.training.encoding import Encoding, EncodingData, PictureBatches, WriteParts

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def run(config: DictConfig) -> int:
    at_least_one(config, "batch_size")
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype={config.dtype} is not a type to store latents in; accepted: {', '.join(DTYPES)}")
    items, problems = usable(list(build(config.source)))
    if not items:
        listed = "\n".join(f"  {key}: {problem}" for key, problem in list(problems.items())[:10])
        raise ValueError(f"nothing in the source can be used:\n{listed}")
    for key, problem in problems.items():
        print(f"left out {key}: {problem}")
    captions = sorted({caption for item in items for caption in item.captions})
    name_classes(config.text_encoder, captions)
    autoencoder, text_encoder = build(config.autoencoder), build(config.text_encoder)
    if config.image_size % autoencoder.factor:
        raise ValueError(
            f"image_size={config.image_size} must be a multiple of {autoencoder.factor}, the autoencoder's factor"
        )
    batches = [items[i : i + config.batch_size] for i in range(0, len(items), config.batch_size)]
    cache = Path(config.cache)
    cache.parent.mkdir(parents=True, exist_ok=True)
    writer = CacheWriter(cache)
    quiet()
    trainer = pl.Trainer(
        logger=False,
        callbacks=[WriteParts(writer, dtype=DTYPES[config.dtype], total=len(batches))],
        enable_progress_bar=False,
        use_distributed_sampler=False,
        inference_mode=True,
        **options(config.trainer),  # type: ignore[arg-type]
    )
    pictures = PictureBatches(batches, rows=config.batch_size, size=config.image_size)
    trainer.predict(Encoding(autoencoder), EncodingData(pictures, workers=config.workers), return_predictions=False)
    if not trainer.is_global_zero:
        return 0
    captions = ["", *captions]
    made_by: dict[str, Json] = {
        "image_size": config.image_size,
        "autoencoder": describe(config.autoencoder, fingerprint=fingerprint(autoencoder)),
        "text_encoder": describe_text(config.text_encoder, text_encoder),
        "shift": autoencoder.shift,
        "scale": autoencoder.scale,
    }
    manifest = writer.finish(batches, problems, captions, encode_captions(text_encoder, captions), made_by)
    return summarise(cache, manifest, strict=config.strict)


def name_classes(config: DictConfig, captions: list[str]) -> None:
    """Where captions are labels, and the config names no classes: those of the source."""
    if "classes" in config and config.classes is None:
        config.classes = captions
        print(f"{len(captions)} classes: {', '.join(captions[:20])}{', …' if len(captions) > 20 else ''}")


def describe(config: DictConfig, **more: Json) -> dict[str, Json]:
    """A part's settings for the manifest."""
    return {"config": OmegaConf.to_container(config), **more}  # type: ignore[dict-item]


def describe_text(config: DictConfig, text_encoder: TextEncoder | ClassLabels) -> dict[str, Json]:
    """How captions become tokens, and what embedded them where that is frozen."""
    frozen = None if text_encoder.trained else fingerprint(text_encoder)
    return describe(config, **text_encoder.tokenization, fingerprint=frozen)


@torch.inference_mode()
def encode_captions(
    text_encoder: TextEncoder | ClassLabels, captions: list[str], *, batch_size: int = 64
) -> dict[str, Tensor]:
    """Tokens (N, L) int32, and a frozen text encoder's embeddings (N, L, D) float16."""
    tokens = text_encoder.tokenize(captions)
    tensors = {"tokens": tokens.int()}
    if isinstance(text_encoder, TextEncoder) and not text_encoder.trained:
        text_encoder.eval()
        tensors["embeddings"] = torch.cat([text_encoder.embed(part).half() for part in tokens.split(batch_size)])
    return tensors


def summarise(cache: Path, manifest: Manifest, *, strict: bool) -> int:
    """Tell what was encoded; the exit code."""
    left_out = json.loads((cache / "report.json").read_text(encoding="utf-8"))["left_out"]
    deviation = manifest.scale * torch.tensor(manifest.std).square().mean().sqrt().item()
    print(
        f"{manifest.entries} pictures in {cache} ({manifest.held_out} held out, {manifest.captions - 1} captions); "
        f"the latents' deviation after scaling is {deviation:.2f}"
    )
    if left_out:
        print(
            f"{len(left_out)} left out; {cache / 'report.json'} names them"
            + (" (strict=true: exit code 1)" if strict else "")
        )
    return 1 if strict and left_out else 0
