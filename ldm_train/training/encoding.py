"""Encoding as prediction: the Trainer shares batches of pictures and captions among devices; a callback writes the parts."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from os import cpu_count
from pathlib import Path
from typing import TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from ldm_train.conditioners.caption_encoder import CaptionEncoder, count_stored
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.data.cache.encoding_batches import CAPTIONS_PER_BATCH, EncodingBatch
from ldm_train.data.cache.writer import write_part
from ldm_train.data.pictures.decoding import DECODE_ERRORS, describe_decode_error
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.pictures.maps import MapError, MapSpec, key_of
from ldm_train.data.pictures.picture_views import empty_views
from ldm_train.training.rendering import MASKED, Rendering, UnreadError
from ldm_train.types import Autoencoder
from ldm_train.util.own_tokens import tokenize

CHUNK = 2
Result = TypeVar("Result")
NOT_FINITE = "its output is not finite as stored; dtype=bfloat16 or float32 holds larger values, else the weights are broken"


@dataclass
class Loaded:
    """A batch to encode: its rows' names, and either images (B, V, C, H, W) or texts; some rows may be padding.

    `maps` have the maps (B, V, C, h, w) float32 of the images, by name. `problems` are those of pictures that could not be
    decoded, by name, `unread` those of pictures whose bytes could not be had; their rows are black.
    """

    name: str
    names: list[str]
    images: Tensor | None
    texts: list[str]
    maps: dict[str, Tensor] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)


class Batches(Dataset[Loaded]):
    """Batches of pictures of one shape, and of captions, each padded to one size."""

    def __init__(self, batches: Sequence[EncodingBatch], rendering: Rendering, *, pictures: int) -> None:
        self.batches = batches
        self.rendering = rendering
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Loaded:
        batch = self.batches[number]
        if not batch.pictures:
            texts = [row.text for row in batch.captions]
            return Loaded(batch.name, batch.names, None, texts + [""] * (CAPTIONS_PER_BATCH - len(texts)))
        first = self.rendering.views(batch.pictures[0])
        images = empty_views(self.pictures, first, self.rendering.pixels)
        maps = {spec.name: self._empty(spec, images) for spec in self.rendering.specs}
        problems, unread = {}, {}
        for place, row in enumerate(batch.pictures):
            try:
                images[place] = self.rendering(row)
                for name, values in self.rendering.maps(row, images[place]).items():
                    maps[name][place] = values
            except MapError as error:
                problems[row.name] = str(error)
            except MemoryError as error:  # says nothing of the picture: there may be more memory another time
                unread[row.name] = f"{describe_decode_error(error)}; encode again"
            except DECODE_ERRORS as error:
                problems[row.name] = describe_decode_error(error)
            except UnreadError as error:
                unread[row.name] = f"{error}; encode again"
        return Loaded(batch.name, batch.names, images, [], maps, problems, unread)

    def _empty(self, spec: MapSpec, images: Tensor) -> Tensor:
        """Return a map's values for images (B, V, 3, H, W), all 0."""
        factor = spec.pixels_each(self.rendering.factor)
        sides = [side // factor for side in images.shape[3:]]
        return torch.zeros(*images.shape[:2], spec.num_read, *sides)


class Encoding(pl.LightningModule):
    """Pictures to raw moments, captions to tokens and, where the text encoder is frozen, embeddings.

    On a CPU the pictures go through in chunks of one size, each on one thread: as fast as any way, and the same bits for
    any number of threads and processes.

    Args:
        text_encoder: None where only pictures are encoded.
        dtype: of the moments, as stored.
        at_once: rows of one forward pass on a GPU; None for all that are asked for.
        specs: the maps of pictures that are stored.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        text_encoder: CaptionEncoder | ClassLabels | None,
        *,
        dtype: torch.dtype,
        at_once: int | None = None,
        specs: Sequence[MapSpec] = (),
    ) -> None:
        super().__init__()
        self.specs = {spec.name: spec for spec in specs}
        self.towers = nn.ModuleDict(open_towers(specs))
        self.autoencoder = autoencoder
        self.text_encoder = text_encoder
        self.kept = dtype
        self.at_once = at_once

    def predict_step(self, batch: Loaded, batch_idx: int) -> dict[str, Tensor]:
        if batch.images is None:
            return self.captions(batch.texts)
        rows, views = batch.images.shape[:2]
        encoded = self.pictures(to_signed(batch.images.flatten(0, 1)))
        encoded |= {key_of(name): self.map_values(name, values.flatten(0, 1)) for name, values in batch.maps.items()}
        return {key: tensor.unflatten(0, (rows, views)) for key, tensor in encoded.items()}

    def pictures(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] to mean and, where there is a posterior, log_variance, (B, C, H, W) as stored."""
        chunks = self._each(self._moments, images)
        return {key: torch.cat([chunk[key] for chunk in chunks])[: len(images)] for key in chunks[0]}

    def map_values(self, name: str, values: Tensor) -> Tensor:
        """Return a map (B, C, h, w) in [-1, 1] as it is stored: unchanged, the mean of what the autoencoder encodes,
        or the embedding (B, D, 1, 1) of a vision tower.

        Masks and the pictures that they leave (`mask_views`), any number of them, are both stored at the latents' size.
        """
        spec = self.specs[name]
        if spec.tower is not None:
            embedded = torch.cat(self._each(partial(self._embedded, self.towers[name]), values))[: len(values)]
            return embedded[:, :, None, None]
        if not spec.masks:
            return self.pictures(values)["mean"] if spec.encoded else values.to(self.kept)
        stored: list[Tensor] = []
        for masked in values.split(MASKED, dim=1):
            mean = self.pictures(masked[:, 1:].contiguous())["mean"]
            stored += [interpolate(masked[:, :1], mean.shape[2:], mode="nearest").to(mean), mean]
        return torch.cat(stored, dim=1)

    def decode(self, means: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) of raw latents (B, C, H, W) as stored."""
        return torch.cat(self._each(self._decoded, means.float()))[: len(means)]

    def captions(self, texts: list[str]) -> dict[str, Tensor]:
        """Tokens (B, L) int32, and a frozen text encoder's embeddings (B, ...) float16."""
        assert self.text_encoder is not None
        tokens = tokenize(self.text_encoder, texts)
        encoded = {"tokens": tokens.int()}
        if isinstance(self.text_encoder, CaptionEncoder) and count_stored(self.text_encoder):
            embed = self.text_encoder.embed
            encoded["embeddings"] = torch.cat(
                self._each(lambda part: self._embeddings(embed, part), tokens.to(self.device))
            )[: len(tokens)]
        return encoded

    def _each(self, work: Callable[[Tensor], Result], rows: Tensor) -> list[Result]:
        """The work on all rows, on a CPU in chunks, the last of them padded."""
        if rows.is_cuda:
            return [work(some) for some in rows.split(self.at_once or len(rows))]
        padded = torch.cat([rows, rows.new_zeros(-len(rows) % CHUNK, *rows.shape[1:])])
        return list(self._threads.map(work, padded.split(CHUNK)))

    @torch.inference_mode()
    def _moments(self, images: Tensor) -> dict[str, Tensor]:
        moments = self.autoencoder.encode(images)
        kept = {"mean": moments.mean, "log_variance": moments.log_variance}
        return {key: tensor.to(self.kept) for key, tensor in kept.items() if tensor is not None}

    @torch.inference_mode()
    def _embedded(self, tower: nn.Module, images: Tensor) -> Tensor:
        embeddings: Tensor = tower(images)
        return embeddings.to(self.kept)

    @torch.inference_mode()
    def _decoded(self, means: Tensor) -> Tensor:
        return self.autoencoder.decode(means)

    @torch.inference_mode()
    def _embeddings(self, embed: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        return embed(tokens).half()

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        count = max(1, (cpu_count() or 1) // world)
        return ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))


def open_towers(specs: Sequence[MapSpec]) -> dict[str, nn.Module]:
    """Return the vision towers that embed maps, by the maps' names."""
    needed = {spec.name: spec.tower for spec in specs if spec.tower is not None}
    if not needed:
        return {}
    from ldm_train.conditioners.vision_tower import open_vision_tower  # open_clip takes seconds to import

    return {name: open_vision_tower(tower.model, tower.weights) for name, tower in needed.items()}


class EncodingData(pl.LightningDataModule):
    """Every rank's share of the batches: one in world size.

    Args:
        batches: read once all ranks are there, when the first has said what there is to do.
    """

    def __init__(self, batches: Callable[[], Batches], *, workers: int) -> None:
        super().__init__()
        self.read = batches
        self.workers = workers

    def predict_dataloader(self) -> DataLoader[Loaded]:
        assert self.trainer is not None
        batches = self.read()
        # Lightning wants a batch for every process: a spare one encodes one again.
        first = self.trainer.global_rank % max(1, len(batches))
        mine = range(first, len(batches), self.trainer.world_size)
        return DataLoader(batches, batch_size=None, sampler=mine, num_workers=self.workers)


def is_spare(trainer: pl.Trainer) -> bool:
    """Return whether there are fewer batches than processes, and this one encodes another one's."""
    loader = trainer.predict_dataloaders
    assert isinstance(loader, DataLoader)
    assert isinstance(loader.dataset, Batches)
    return trainer.global_rank >= len(loader.dataset)


def not_finite(rows: Mapping[str, Tensor], names: Sequence[str]) -> list[str]:
    """The names of rows that hold a value that is no number, or too large for the type in which they are stored."""
    finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in rows.values()]).all(0)
    return [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine]


class WriteParts(BasePredictionWriter):
    """Writes each encoded batch as a part, and shows progress.

    Args:
        judge: called with the first batch's means, (B, V, C, H, W); what is far off should not wait for the end.
    """

    def __init__(self, folder: Path, *, total: int, judge: Callable[[Tensor], None]) -> None:
        super().__init__(write_interval="batch")
        self.folder = folder
        self.total = total
        self.judge = judge
        self._progress = Progress()
        self._task = self._progress.add_task("encoding", total=total)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.total:
            self._progress.start()

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Loaded,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        rows = {key: tensor[: len(batch.names)].cpu() for key, tensor in prediction.items()}
        infinite = not_finite(rows, batch.names)
        if batch.texts and infinite:
            text = batch.texts[batch.names.index(infinite[0])]
            raise ValueError(f"the text encoder's {NOT_FINITE.removeprefix('its ')} for the caption {text[:100]!r}")
        unread = dict.fromkeys(infinite, NOT_FINITE) | batch.unread  # not the picture's fault, either
        good = [place for place, name in enumerate(batch.names) if name not in batch.problems.keys() | unread.keys()]
        kept = {key: tensor[good].contiguous() for key, tensor in rows.items()}
        if not is_spare(trainer):  # or another process writes this part
            write_part(self.folder, batch.name, kept, [batch.names[place] for place in good], batch.problems, unread)
        if batch.images is not None and trainer.is_global_zero and batch_idx == 0 and good:
            self.judge(kept["mean"])
        self._progress.update(self._task, completed=min(self.total, (batch_idx + 1) * trainer.world_size))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.stop()
        trainer.strategy.barrier()
