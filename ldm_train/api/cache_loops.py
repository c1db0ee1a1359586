"""Batches of a latent cache for a training loop of one's own."""

from collections.abc import Iterator, Sequence
from os import PathLike, fspath

import torch
from torch import Tensor

from ldm_train import draws
from ldm_train.assembly.cache_identity import restore_part
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.settings.composition import build
from ldm_train.settings.python_values import read_trust
from ldm_train.settings.trust import granted
from ldm_train.types import CaptionBatch


def iterate_latents(
    cache: LatentCache | str | PathLike[str], *, batch_size: int, steps: int, seed: int = 0, caption_dropout: float = 0.1
) -> Iterator[tuple[Tensor, CaptionBatch]]:
    """Yield the batches of a training: latents (B, C, H, W), float32 with a deviation near 1, and their captions.

    They are the batches that `train` has with this seed if `held_out=0`: which examples, their captions, and the samples of
    the autoencoder's posterior depend on the seed and the step only. The examples of a batch have one shape; those that the
    source holds out are left out. `load_conditioner` turns the captions into conditioning.

    Args:
        cache: an opened cache, or its folder.
        batch_size: examples of a batch, B.
        steps: number of batches.
        caption_dropout: share of examples with the empty caption, for classifier-free guidance.

    Raises:
        ValueError: no cache there, a number out of range, or all examples are held out.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("steps", steps, 0), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
    if not isinstance(caption_dropout, int | float) or not 0 <= caption_dropout <= 1:
        raise ValueError(f"caption_dropout={caption_dropout!r} must be from 0 to 1")
    cache = open_cache(cache)
    data = CachedLatents(cache, batch_size=batch_size, seed=seed, caption_dropout=caption_dropout)
    return _iterate(data, Scaling(cache.manifest.shift, cache.manifest.scale), steps)


def _iterate(data: CachedLatents, scaling: Scaling, steps: int) -> Iterator[tuple[Tensor, CaptionBatch]]:
    for step in range(steps):
        batch = data.fetch(torch.arange(step * data.batch_size, (step + 1) * data.batch_size))
        noise = draws.normal(data.seed, "posterior", batch.positions, batch.moments.mean.shape[1:])
        yield scaling.to_model(batch.moments.draw(noise)), batch.captions


def open_cache(cache: LatentCache | str | PathLike[str]) -> LatentCache:
    """Return a cache as it is, or the one in a folder.

    Raises:
        ValueError: it is neither, or cannot be opened.
    """
    if isinstance(cache, LatentCache):
        return cache
    if not isinstance(cache, str | PathLike):
        raise ValueError(f"cache takes a LatentCache or its folder, not a {type(cache).__name__}")
    return LatentCache(fspath(cache))


def load_conditioner(
    cache: LatentCache | str | PathLike[str], *, trust: str | Sequence[str] = ()
) -> TextEncoder | ClassLabels:
    """Build the text encoder, or the table of classes, that a cache was encoded with.

    It maps the captions of `iterate_latents` to a `Conditioning`. Its attributes `context_width` and `vector_width` are the
    widths of the tokens and of the vector, None if it has none; if `trained` is true, it learns together with the network.

    Args:
        cache: an opened cache, or its folder.
        trust: the package of a text encoder that is own code.

    Raises:
        ValueError: its weights are not where they were, or it is own code that is not trusted.
    """
    cache = open_cache(cache)
    with granted(read_trust(trust)):
        part = restore_part(cache.manifest, "text_encoder", cache=cache.folder)
        made: TextEncoder | ClassLabels = build(part, "text_encoder")
        return made
