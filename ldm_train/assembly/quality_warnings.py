"""Warn about latents that keep little of the pictures, with what to do as commands for the settings at hand."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ldm_train.data.cache.quality import LOW_PSNR, choose_worst, read_quality, warn_of_low_psnr
from ldm_train.run_dir.reading import read_data
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import words
from ldm_train.settings.quoting import quote
from ldm_train.settings.schema.commands import default_values
from ldm_train.settings.schema.training import CheckSettings, TrainSettings
from ldm_train.settings.schema.using import EncodeSettings

USUAL_CROP = ["crop=centre"]


def warn_of_lossy_latents(config: EncodeSettings | CheckSettings | TrainSettings, psnr: float | None) -> list[str]:
    """Return a warning if the autoencoder of these settings decodes the pictures badly.

    Args:
        psnr: of decoded pictures, dB; None if it is unknown.
    """
    weights = None if config.autoencoder is None else config.autoencoder.get("weights")
    crop = words("crop", config.crop)
    return warn_of_low_psnr(
        psnr,
        image_size=config.image_size,
        weights=weights,
        source=quote_all([*words("source", config.source), *list_background(config.background)]),
        crop=quote_all([] if crop == USUAL_CROP else crop),
    )


def list_background(background: str) -> list[str]:
    """Return the word that sets the colour behind pictures; none if it is the usual one."""
    return [] if background == default_values("encode")["background"] else [f"background={quote(background)}"]


def quote_all(words: Sequence[str]) -> list[str]:
    """Return words as a shell takes them."""
    return [shlex.quote(word) for word in words]


def warn_of_lossy_run(run_dir: str) -> list[str]:
    """Return a warning if a run was trained on latents that keep little of its pictures, as its directory says."""
    psnr = read_data(Path(run_dir)).get("psnr")
    return warn_of_lossy_latents(read_trained(run_dir), psnr) if isinstance(psnr, float) and psnr < LOW_PSNR else []


def warn_of_lossy_caches(caches: str | Sequence[str]) -> list[str]:
    """Return a warning if a cache among these keeps little of its pictures."""
    folders = [caches] if isinstance(caches, str) else caches
    qualities = [read_quality(Path(folder)) for folder in folders]
    return warn_of_low_psnr(choose_worst(qualities).psnr, image_size=None, weights=None)
