"""Open the real pictures of an evaluation: decoded held-out latents of a cache, or the pictures of a folder."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.cache_identity import restore_part
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.prior import is_whole, with_class_pictures
from ldm_train.assembly.training_data import make_batches, refuse_unfit, verify_caches
from ldm_train.commands.evaluate.drawn_pictures import read_picture_batches
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.data.batches.datamodules import CachedLatents, split_held_out
from ldm_train.data.cache.reader import EncodedExamples, join_caches, open_caches
from ldm_train.run_dir.moved_paths import explaining_paths
from ldm_train.run_dir.record import PRIOR
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import HELD_OUT, TrainSettings
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder


@dataclass(frozen=True)
class RealPictures:
    """Real pictures.

    Args:
        read: yields them in batches (B, 3, H, W) in [-1, 1], with B at most the given number.
        captions: one per picture, or none.
    """

    read: Callable[[int], Iterator[Tensor]]
    count: int
    captions: list[str]


def open_folder_pictures(path: str) -> RealPictures:
    gallery = open_gallery("real", path)
    return RealPictures(lambda size: read_picture_batches(gallery.files, size), len(gallery.files), gallery.captions)


def open_latent_pictures(
    latents: EncodedExamples, held_out: Tensor, autoencoder: Autoencoder, device: torch.device
) -> RealPictures:
    """Return held-out examples of a cache, decoded when they are read.

    Args:
        held_out: indices of the examples, (N,).
    """

    @torch.no_grad()
    def read(size: int) -> Iterator[Tensor]:
        for bucket in latents.index.bucket[held_out].unique():
            for part in held_out[latents.index.bucket[held_out] == bucket].split(size):
                mean = latents.moments(part, torch.zeros_like(part)).mean
                images = autoencoder.decode(mean.to(device, torch.float32))
                if not images.isfinite().all():
                    raise ValueError(
                        "the autoencoder decodes held-out pictures to NaN or infinity; its weights may be damaged"
                    )
                yield images.clamp(-1, 1).cpu()

    return RealPictures(read, len(held_out), [latents.first_caption(example) for example in held_out.tolist()])


def open_run_pictures(data: CachedLatents, autoencoder: Autoencoder, device: torch.device) -> RealPictures:
    return open_latent_pictures(data.latents, data.held_out, autoencoder, device)


def open_cache_pictures(folders: str | list[str], device: torch.device) -> RealPictures | None:
    """Return the held-out examples of caches, decoded with the autoencoder that encoded them; None if there are none."""
    caches = open_caches(folders)
    verify_caches(caches)
    autoencoder: Autoencoder = build(
        restore_part(caches[0].manifest, "autoencoder", cache=caches[0].folder), "autoencoder"
    ).to(device)
    latents = join_caches(caches)
    held_out = split_held_out(latents, HELD_OUT)[1]
    return open_latent_pictures(latents, held_out, autoencoder, device) if len(held_out) > 0 else None


def open_held_out_data(settings: EvaluateSettings, trained: TrainSettings, parts: Parts) -> CachedLatents | None:
    """Return the batches of the cache that the settings name, else of the run's cache; None if there is neither.

    Raises:
        ValueError: the cache does not exist, or was encoded with another autoencoder or text encoder than the run's.
    """
    run_dir = Path(str(settings.run_dir))
    if settings.cache is None and trained.prior.prompts is not None and is_whole(run_dir / PRIOR):
        trained = with_class_pictures(trained, run_dir)
    cache = settings.cache or trained.cache
    if cache is None:
        return None
    with nullcontext() if settings.cache else explaining_paths(trained, run_dir):
        caches = open_caches(cache)
    verify_caches(caches)
    refuse_unfit(trained, parts, caches)
    return make_batches(trained, join_caches(caches))
