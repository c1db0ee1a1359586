"""The real pictures of an evaluation: held-out ones of a cache, as the autoencoder gives them back, or those of a folder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.cache_identity import restore
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.prior import is_whole, with_class_pictures
from ldm_train.assembly.training_data import batches, refuse_unfit, verify
from ldm_train.commands.evaluate.drawn_pictures import in_batches
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.data.batches.datamodules import CachedLatents, split_held_out
from ldm_train.data.cache.reader import EncodedExamples, join_caches, open_caches
from ldm_train.run_dir.record import PRIOR
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder

HELD_OUT = 0.05  # share of a cache that names none, for a model that is not a run: as `train` has it


@dataclass(frozen=True)
class Real:
    """Real pictures, (B, 3, H, W) in [-1, 1] in batches of at most so many, and a caption of each, or none."""

    read: Callable[[int], Iterator[Tensor]]
    count: int
    captions: list[str]


def of_folder(path: str) -> Real:
    gallery = open_gallery("real", path)
    return Real(lambda size: in_batches(gallery.files, size), len(gallery.files), gallery.captions)


def of_latents(latents: EncodedExamples, held_out: Tensor, autoencoder: Autoencoder, device: torch.device) -> Real:
    """Held-out examples by number, (N,)."""

    @torch.no_grad()
    def read(size: int) -> Iterator[Tensor]:
        for bucket in latents.index.bucket[held_out].unique():
            for part in held_out[latents.index.bucket[held_out] == bucket].split(size):
                mean = latents.moments(part, torch.zeros_like(part)).mean
                images = autoencoder.decode(mean.to(device, torch.float32))
                if not images.isfinite().all():
                    raise ValueError(
                        "the autoencoder gives back held-out pictures with NaN or infinity; look at its weights"
                    )
                yield images.clamp(-1, 1).cpu()

    return Real(read, len(held_out), [latents.first_caption(example) for example in held_out.tolist()])


def of_run(data: CachedLatents, autoencoder: Autoencoder, device: torch.device) -> Real:
    return of_latents(data.latents, data.held_out, autoencoder, device)


def of_cache(folders: str | list[str], device: torch.device) -> Real | None:
    """Return the held-out examples of a cache or several, with the autoencoder that made them; None if there are none."""
    caches = open_caches(folders)
    verify(caches)
    autoencoder: Autoencoder = build(restore(caches[0].manifest, "autoencoder", cache=caches[0].folder), "autoencoder").to(
        device
    )
    latents = join_caches(caches)
    held_out = split_held_out(latents, HELD_OUT)[1]
    return of_latents(latents, held_out, autoencoder, device) if len(held_out) > 0 else None


def held_out_data(config: EvaluateSettings, trained: TrainSettings, parts: Parts) -> CachedLatents | None:
    """The batches of the cache that a command names, or of the run's own; None where the run was encoded on the fly.

    Raises:
        ValueError: there is no cache, or another autoencoder or text encoder than the run's made it.
    """
    run_dir = Path(str(config.run_dir))
    if config.cache is None and trained.prior.prompts is not None and is_whole(run_dir / PRIOR):
        trained = with_class_pictures(trained, run_dir)
    cache = config.cache or trained.cache
    if cache is None:
        return None
    caches = open_caches(cache)
    verify(caches)
    refuse_unfit(trained, parts, caches)
    return batches(trained, join_caches(caches))
