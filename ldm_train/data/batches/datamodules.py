"""Lightning datamodules, which serve batches to the Trainer by their position in the run."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from fractions import Fraction
from typing import Literal, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ldm_train import draws
from ldm_train.data.batches.holding_out import choose_held_out
from ldm_train.data.batches.noise_thread import DrawNoise, NoiseThread
from ldm_train.data.batches.order import ExampleOrder, Pool
from ldm_train.data.batches.positions import BatchGeometry, build_endless_loader
from ldm_train.data.batches.tag_draws import TaggedCaptions
from ldm_train.data.cache.index import CacheIndex
from ldm_train.data.cache.reader import EncodedExamples
from ldm_train.types import CaptionBatch, Given, ImageBatch, LatentBatch, ReadCondition

EitherBatch = TypeVar("EitherBatch", bound=LatentBatch | ImageBatch)
JOINT = 0.5  # of the examples without a caption, the share that lacks the conditions, too
MicroBatchSize = int | Literal["auto"] | None


class EndlessData(pl.LightningDataModule):
    """One endless epoch of global batches of `batch_size`, continued at the Trainer's step.

    Args:
        batch_size: examples of one optimizer step, over all devices.
        micro_batch_size: examples of one forward pass; None for all of a device's share, "auto" if `divide` is called later
            with a size that fits into memory.
        seed: of the order.
        workers: processes that make batches; 0 makes them in the training's process.

    Raises:
        ValueError: `micro_batch_size` is none of these.
    """

    geometry: BatchGeometry

    def __init__(self, *, batch_size: int, micro_batch_size: MicroBatchSize, seed: int, workers: int) -> None:
        super().__init__()
        number = isinstance(micro_batch_size, int) and not isinstance(micro_batch_size, bool) and micro_batch_size >= 1
        if not number and micro_batch_size not in (None, "auto"):
            raise ValueError(f"micro_batch_size={micro_batch_size} must be a number of at least 1, auto or null")
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.workers = workers

    @abstractmethod
    def fetch(self, positions: Tensor) -> LatentBatch | ImageBatch:
        """Return the training examples at positions (B,) of the run."""

    def fetch_step(self, positions: Tensor) -> LatentBatch | ImageBatch:
        """Return what a training step at positions (B,) takes: the examples, and what is drawn ahead for them."""
        return self.fetch(positions)

    @abstractmethod
    def names(self, positions: Tensor) -> list[str]:
        """Return the names of the training examples at positions (B,), for messages."""

    def setup(self, stage: str) -> None:
        self.divide(None if self.micro_batch_size == "auto" else self.micro_batch_size)

    def divide(self, micro_batch_size: int | None) -> None:
        """Divide the global batch among the Trainer's devices into micro-batches of this size; None for one each."""
        trainer = self.trainer
        assert trainer is not None
        self.geometry = BatchGeometry(self.batch_size, trainer.world_size, trainer.global_rank, micro_batch_size)
        trainer.accumulate_grad_batches = self.geometry.accumulation

    def transfer_batch_to_device(self, batch: EitherBatch, device: torch.device, dataloader_idx: int) -> EitherBatch:
        """Move all but the positions: the CPU draws from them, and reading them from a GPU would synchronize."""
        positions = batch.positions
        if isinstance(batch, LatentBatch) and isinstance(batch.noise, Future):
            batch.noise = batch.noise.result()
        moved: EitherBatch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        moved.positions = positions
        return moved

    def train_dataloader(self) -> DataLoader[LatentBatch | ImageBatch]:
        trainer = self.trainer
        assert trainer is not None
        return build_endless_loader(self.fetch_step, self.geometry, lambda: trainer.global_step, workers=self.workers)


class CachedLatents(EndlessData):
    """Batches of encoded examples of one bucket. The view, the caption and whether it is dropped are drawn here.

    Args:
        latents: a cache, or several joined.
        caption_dropout: share of examples whose caption is replaced by the empty one, for classifier-free guidance.
        conditions: what else the network is conditioned on; whether one is dropped is drawn here, too.
        held_out: share of the entries that are held out, in each data set whose source does not say which are; None for the
            default of `choose_held_out`.
        repeats: how often an epoch contains each data set; by default once.
        shares: each data set's share of an epoch, instead of repeats.
        tagged: draws the tags of captions; None for captions as they are.
        loss_mask: name of the map of what counts in the loss; None for all of a picture.
        loss_weights: by what the loss of each example is multiplied, (N,); None for 1.

    Raises:
        ValueError: no example is left to train on, or the number of repeats or shares is not that of the data sets.
    """

    def __init__(
        self,
        latents: EncodedExamples,
        *,
        batch_size: int,
        micro_batch_size: MicroBatchSize = None,
        seed: int = 0,
        caption_dropout: float = 0.1,
        conditions: Sequence[ReadCondition] = (),
        held_out: float | None = 0.0,
        workers: int = 0,
        repeats: Sequence[float] | None = None,
        shares: Sequence[float] | None = None,
        tagged: TaggedCaptions | None = None,
        loss_mask: str | None = None,
        loss_weights: Tensor | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, micro_batch_size=micro_batch_size, seed=seed, workers=workers)
        self.latents = latents
        self.caption_dropout = caption_dropout
        self.tagged = tagged
        self.loss_mask = loss_mask
        self.loss_weights = loss_weights
        self.conditions = {condition.name: (condition, condition.read(latents)) for condition in conditions}
        self.train, self.held_out = split_held_out(latents, held_out)
        counts = [len(examples) for examples in self.train]
        if not sum(counts):
            raise ValueError(f"there is no example to train on: all {len(latents.index)} are held out; lower held_out")
        factors = compute_repeats(counts, repeats, shares)
        self.trained = torch.cat([part for part, factor in zip(self.train, factors, strict=True) if factor])
        buckets = build_pools(latents.index, self.train, factors)
        if not buckets:
            raise ValueError(
                "no data set with a share above 0 has an example to train on; check cache_repeats and cache_shares"
            )
        self.order = ExampleOrder(buckets, batch_size=batch_size, seed=seed)
        self.draw_noise: DrawNoise | NoiseThread | None = None

    def draw_ahead(self, draw: DrawNoise) -> None:
        """Have the workers draw the noise of training steps with the batches, or a thread if there are none."""
        self.draw_noise = draw if self.workers else NoiseThread(draw)

    def fetch_step(self, positions: Tensor) -> LatentBatch:
        batch = self.fetch(positions)
        if self.draw_noise is not None:
            batch.noise = self.draw_noise(positions, batch.moments)
        return batch

    def names(self, positions: Tensor) -> list[str]:
        return [self.latents.name(example) for example in self.readable(self.order(positions)).tolist()]

    def fetch(self, positions: Tensor) -> LatentBatch:
        examples = self.readable(self.order(positions))
        chosen = draws.uniform(self.seed, "caption", positions)
        dropped = draws.uniform(self.seed, "caption dropout", positions) < self.caption_dropout
        captions, views = self.captions(examples, chosen, dropped, positions), self.views(examples, positions)
        moments, conditions = self.latents.moments(examples, views), self.draw(examples, views, positions)
        conditions = {
            name: Given(given.values, given.kept & self.keeps(name, positions, dropped))
            for name, given in conditions.items()
        }
        weights = None if self.loss_weights is None else self.loss_weights[examples]
        return LatentBatch(positions, moments, captions, conditions, self.masks(examples, views), weights)

    def captions(self, examples: Tensor, chosen: Tensor, dropped: Tensor, positions: Tensor) -> CaptionBatch:
        """Return one caption of each example (B,), as `EncodedExamples.captions`, with its tags as drawn at its position."""
        if self.tagged is None:
            return self.latents.captions(examples, chosen, dropped)
        texts = zip(self.latents.pick_texts(examples, chosen), dropped.tolist(), strict=True)
        return CaptionBatch(self.tagged(["" if gone else text for text, gone in texts], positions, seed=self.seed))

    def masks(self, examples: Tensor, views: Tensor) -> Tensor | None:
        """Return what counts in the loss of views (B,) of examples (B,), as a batch has it."""
        return None if self.loss_mask is None else self.latents.maps(self.loss_mask, examples, views)

    def given(self, examples: Tensor, views: Tensor) -> dict[str, Given]:
        """Return what is known for each condition of views (B,) of examples (B,)."""
        return {name: read(examples, views) for name, (_, read) in self.conditions.items()}

    def draw(self, examples: Tensor, views: Tensor, positions: Tensor) -> dict[str, Given]:
        """Return what training uses of each condition at these positions (B,), with what is drawn of it."""
        return {
            name: one.read_step(read, examples, views, positions, seed=self.seed)
            for name, (one, read) in self.conditions.items()
        }

    def keeps(self, name: str, positions: Tensor, dropped: Tensor) -> Tensor:
        """Return whether the examples at these positions keep a condition, (B,); `dropped` (B,): without a caption.

        Those without a caption lack all conditions or none: guidance draws without any of them, however many there are.
        """
        share = self.conditions[name][0].dropout
        alone, together = (
            draws.uniform(self.seed, stream, positions) for stream in (f"condition {name} dropout", "conditions dropout")
        )
        return torch.where(dropped & (share > 0), together >= max(share, JOINT), alone >= share)

    def readable(self, examples: Tensor) -> Tensor:
        """Return the examples (B,), others for those that cannot be read; a cache can read all."""
        return examples

    def available(self, examples: Tensor) -> Tensor:
        """Return the same for examples that are read later."""
        return self.readable(examples)

    def views(self, examples: Tensor, positions: Tensor) -> Tensor:
        """Return which of its views each example (B,) has at these positions (B,)."""
        counts = self.latents.index.num_views[examples]
        if (counts == 1).all():
            return torch.zeros_like(examples)
        return (draws.uniform(self.seed, "view", positions) * counts).long()

    def fixed_batch(self, examples: Tensor, positions: Tensor) -> LatentBatch:
        """Return examples (B,) of one bucket as they are measured: first view, first caption, no dropout, no weights."""
        examples, first = self.readable(examples), torch.zeros(len(examples))
        captions, views = self.latents.captions(examples, first, first.bool()), first.long()
        moments, conditions = self.latents.moments(examples, views), self.draw(examples, views, positions)
        return LatentBatch(positions, moments, captions, conditions, self.masks(examples, views))

    def portions(self, examples: Tensor, count: int) -> Iterator[Tensor]:
        """Yield the indices of examples (N,) in portions of one bucket, at most (count,)."""
        buckets = self.latents.index.bucket[examples]
        for bucket in buckets.unique():
            yield from (buckets == bucket).nonzero()[:, 0].split(count)


def split_held_out(latents: EncodedExamples, share: float | None) -> tuple[list[Tensor], Tensor]:
    """Return the examples to train on of each data set, and all held-out ones.

    Examples are held out as the source says, otherwise by the picture's hash, so copies of a picture stay together.
    """
    index, train, held_out, start = latents.index, [], [], 0
    for count in latents.sets:
        own = slice(start, start + count)
        out = index.held_out[own] if index.held_out[own].any() else choose_held_out(index.picture[own], share)
        train.append(start + (~out).nonzero()[:, 0])
        held_out.append(start + out.nonzero()[:, 0])
        start += count
    return train, torch.cat(held_out)


def compute_repeats(
    counts: Sequence[int], repeats: Sequence[float] | None, shares: Sequence[float] | None
) -> list[Fraction]:
    """Return how often an epoch draws each example of the data sets with these counts.

    Raises:
        ValueError: repeats and shares are given, or they are not numbers of at least 0, one for each data set, not all 0.
    """
    given = repeats if shares is None else shares
    if given is None:
        return [Fraction(1)] * len(counts)
    name = "repeats" if shares is None else "shares"
    values = [float(value) for value in given] if isinstance(given, Sequence) else []
    fine = all(math.isfinite(value) and value >= 0 for value in values) and sum(values) > 0
    if (repeats is not None and shares is not None) or len(values) != len(counts) or not fine:
        raise ValueError(
            f"cache_{name}={given} must be a list of {len(counts)} numbers of at least 0, one for each cache, not all 0; "
            "set cache_repeats or cache_shares, not both"
        )
    exact = [Fraction(str(value)) for value in values]
    if shares is None:
        return exact
    return [share / sum(exact) * sum(counts) / max(1, count) for share, count in zip(exact, counts, strict=True)]


def build_pools(index: CacheIndex, train: Sequence[Tensor], factors: Sequence[Fraction]) -> list[tuple[str, list[Pool]]]:
    """Return the name of each bucket with training examples, and a pool for each data set that has some in it."""
    found: dict[int, list[Pool]] = {}
    for examples, factor in zip(train, factors, strict=True):
        buckets = index.bucket[examples]
        for bucket in buckets.unique().tolist() if factor else []:
            own = examples[buckets == bucket]
            found.setdefault(bucket, []).append(Pool(own, len(own) * factor))
    return [(str(bucket), found[bucket]) for bucket in sorted(found)]
