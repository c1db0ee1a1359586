"""Open the real pictures of an evaluation: decoded held-out latents of a cache, or the pictures of a folder."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
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
from ldm_train.data.batches.holding_out import spread_evenly
from ldm_train.data.cache.joined_caches import join_caches
from ldm_train.data.cache.reader import EncodedExamples, open_caches
from ldm_train.data.pictures.images import as_rgb
from ldm_train.generation import Generation
from ldm_train.metrics.sets import MIN_PICTURES
from ldm_train.run_dir.moved_paths import explaining_paths
from ldm_train.run_dir.record import PRIOR
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder, Given

MOST_OTHERS = 1000  # trained pictures among which the nearest one to a drawn picture is looked for


@dataclass(frozen=True)
class RealPictures:
    """Real pictures.

    Args:
        read: yields them in batches (B, 3, H, W) in [-1, 1], with B at most the given number.
        captions: one per picture, or none.
        given: what is known for the conditions of the pictures, by name, a row for each.
    """

    read: Callable[[int], Iterator[Tensor]]
    count: int
    captions: list[str]
    given: dict[str, Given] = field(default_factory=dict)


def open_folder_pictures(path: str) -> RealPictures:
    gallery = open_gallery("real", path)
    return RealPictures(lambda size: read_picture_batches(gallery.files, size), len(gallery.files), gallery.captions)


@dataclass(frozen=True)
class TrainedPictures:
    """Pictures that a run was trained on.

    Args:
        taught: a sample of which the captions are drawn.
        others: up to `MOST_OTHERS`, with the sample among them: what a drawn picture may be a copy of.
    """

    taught: RealPictures
    others: RealPictures


def open_latent_pictures(
    latents: EncodedExamples,
    examples: Tensor,
    autoencoder: Autoencoder,
    device: torch.device,
    given_of: Callable[[Tensor], dict[str, Given]] = lambda examples: {},
) -> RealPictures:
    """Return examples of a cache, decoded when they are read, ordered by their shapes.

    Args:
        examples: their indices, (N,).
        given_of: returns what is known for their conditions.
    """
    examples = examples[latents.index.bucket[examples].argsort(stable=True)]

    @torch.no_grad()
    def read(size: int) -> Iterator[Tensor]:
        for bucket in latents.index.bucket[examples].unique():
            for part in examples[latents.index.bucket[examples] == bucket].split(size):
                mean = latents.moments(part, torch.zeros_like(part)).mean
                images = autoencoder.decode(mean.to(device, torch.float32))
                if not images.isfinite().all():
                    raise ValueError("the autoencoder decodes pictures to NaN or infinity; its weights may be damaged")
                yield as_rgb(images.clamp(-1, 1).cpu())

    return RealPictures(
        read, len(examples), [latents.first_caption(example) for example in examples.tolist()], given_of(examples)
    )


def open_run_pictures(data: CachedLatents, examples: Tensor, generation: Generation) -> RealPictures:
    """Return examples of the data that a run was trained with, with what is known for its conditions."""
    return open_latent_pictures(
        data.latents,
        examples,
        generation.autoencoder,
        generation.device,
        lambda chosen: generation.given_of(data.given, chosen),
    )


def open_trained_pictures(data: CachedLatents, count: int, generation: Generation) -> TrainedPictures | None:
    """Return `count` trained examples to draw, and more to compare with; None if there are too few."""
    taught = spread_evenly(data.trained, count)
    if len(taught) < MIN_PICTURES:
        return None
    others = torch.cat([spread_evenly(data.trained, MOST_OTHERS), taught]).unique()
    return TrainedPictures(
        open_run_pictures(data, taught, generation),
        open_latent_pictures(data.latents, others, generation.autoencoder, generation.device),
    )


def open_cache_pictures(folders: str | list[str], device: torch.device) -> RealPictures | None:
    """Return the held-out examples of caches, decoded with the autoencoder that encoded them; None if there are none."""
    caches = open_caches(folders)
    verify_caches(caches)
    autoencoder: Autoencoder = build(
        restore_part(caches[0].manifest, "autoencoder", cache=caches[0].folder), "autoencoder"
    ).to(device)
    latents = join_caches(caches)
    held_out = split_held_out(latents, None)[1]
    return open_latent_pictures(latents, held_out, autoencoder, device) if len(held_out) > 0 else None


def open_held_out_data(settings: EvaluateSettings, trained: TrainSettings, parts: Parts) -> CachedLatents | None:
    """Return the batches of the cache that the settings name, else of the run's cache; None if there is neither.

    Raises:
        ValueError: the cache does not exist, or was encoded with another autoencoder or text encoder than the run's.
    """
    run_dir = Path(str(settings.run_dir))
    if settings.cache is None and trained.prior.prompts is not None and is_whole(run_dir / PRIOR):
        trained = with_class_pictures(trained, run_dir)
    unweighted: dict[str, None] = dict.fromkeys(("loss_weight", "cache_loss_weights"))  # for training only
    trained = trained.with_values(**unweighted)
    cache = settings.cache or trained.cache
    if cache is None:
        return None
    with nullcontext() if settings.cache else explaining_paths(trained, run_dir):
        caches = open_caches(cache)
    verify_caches(caches)
    refuse_unfit(trained, parts, caches)
    return make_batches(trained, join_caches(caches), parts)
