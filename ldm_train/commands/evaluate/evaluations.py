"""The evaluations of `ldm-train evaluate`: each names the prompts to draw and returns numbers about the pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.commands.evaluate.measured import Numbers, Resampling
from ldm_train.commands.evaluate.output_files import SHEET
from ldm_train.data.pictures.images import read_image, save_png, to_bytes, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.items import Item
from ldm_train.metrics.drawings import find_nearest, measure_corner_colours, psnr
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Autoencoder


@dataclass(frozen=True)
class DrawnPictures:
    """The pictures drawn from the prompts of an evaluation.

    Args:
        pictures: (B, 3, H, W) in [-1, 1], in the order of the prompts.
        autoencoder: the model's autoencoder on `device`, or None if it is unknown.
        sheet: the file for an overview of the pictures, or None if none is wanted.
    """

    pictures: Tensor
    autoencoder: Autoencoder | None
    device: torch.device
    sheet: Path | None


class Evaluation(Protocol):
    """Name the prompts to draw and measure the pictures; it is not called if it names no prompts."""

    def prompts(self) -> list[str]:
        """Return the prompts to draw, in order."""

    def __call__(self, drawn: DrawnPictures, resampling: Resampling) -> Numbers:
        """Return numbers about the pictures of the prompts."""


class HeldOut:
    """Measure nothing beyond what every model gets: losses of held-out examples, and comparisons of sets of pictures."""

    def prompts(self) -> list[str]:
        return []

    def __call__(self, drawn: DrawnPictures, resampling: Resampling) -> Numbers:
        return Numbers()


class Drawings:
    """Draw held-out drawings on named backgrounds from their captions and compare them with the originals.

    `retrieval_at_1`: share of pictures for which the requested drawing is the nearest of all on the requested background;
    `background_accuracy`: share of pictures with corners nearest to the colour of the requested background;
    `drawing_psnr`: mean PSNR to the original drawing, dB; its upper bound is about `autoencoder_psnr`.

    Args:
        source: a folder of pictures; its metadata names the `background` of each.
        seeds: number of pictures of each held-out drawing.
        batch_size: number of pictures that the autoencoder encodes at once.
    """

    def __init__(self, *, source: str, seeds: int = 3, batch_size: int = 40) -> None:
        self.source = source
        self.seeds = seeds
        self.batch_size = batch_size

    @cached_property
    def items(self) -> list[Item]:
        """Return all usable drawings of the source.

        Raises:
            ValueError: no picture is held out, or one has no background.
        """
        items = [item for item in Folder(self.source) if item.problem is None]
        if not any(item.held_out for item in items) or any("background" not in item.fields for item in items):
            raise ValueError(
                f"evaluation.source={self.source} needs held-out pictures, and a background for each picture; "
                'add "split" and "background" to its metadata.jsonl'
            )
        return items

    @property
    def held_out(self) -> list[int]:
        """Return the indices of the held-out drawings among `items`."""
        return [index for index, item in enumerate(self.items) if item.held_out]

    def prompts(self) -> list[str]:
        return [self.items[index].captions[0] for index in self.held_out * self.seeds]

    def __call__(self, drawn: DrawnPictures, resampling: Resampling) -> Numbers:
        pictures, truth = drawn.pictures, self._read(self.items, (drawn.pictures.shape[2], drawn.pictures.shape[3]))
        order = torch.tensor(self.held_out * self.seeds)
        backgrounds = [item.fields["background"] for item in self.items]
        numbers = Numbers()
        numbers.add_share("retrieval_at_1", self._is_nearest(pictures, order, truth, backgrounds), resampling)
        numbers.add_share("background_accuracy", self._has_background(pictures, order, truth, backgrounds), resampling)
        numbers.add_mean("drawing_psnr", psnr(pictures, truth[order]), resampling)
        if drawn.autoencoder is not None:
            originals = truth[torch.tensor(self.held_out)]
            numbers.add_mean("autoencoder_psnr", psnr(self._reconstruct(originals, drawn), originals), resampling)
        numbers.add("pictures", len(pictures))
        numbers.add("held_out_pairs", len(self.held_out))
        if drawn.sheet is not None:
            self._write_sheet(pictures, truth[order], drawn.sheet)
        return numbers

    @torch.no_grad()
    def _reconstruct(self, images: Tensor, drawn: DrawnPictures) -> Tensor:
        """Encode and decode images (B, 3, H, W)."""
        assert drawn.autoencoder is not None
        raw = [drawn.autoencoder.encode(part.to(drawn.device)).mean for part in images.split(self.batch_size)]
        return torch.cat([drawn.autoencoder.decode(part).cpu() for part in raw])

    def _read(self, items: Sequence[Item], size: tuple[int, int]) -> Tensor:
        return to_signed(torch.stack([read_image(item.picture.read(), size) for item in items if item.picture]))

    def _is_nearest(self, pictures: Tensor, order: Tensor, truth: Tensor, backgrounds: list[str]) -> Tensor:
        """Return whether the requested drawing is the nearest of all on its background, per picture, (B,) bool.

        Args:
            order: index of the requested drawing of each picture, (B,).
            truth: all drawings, (N, 3, H, W); `backgrounds` names the background of each.
        """
        is_nearest = torch.zeros(len(pictures), dtype=torch.bool)
        for background in sorted(set(backgrounds)):
            candidates = torch.tensor([index for index, name in enumerate(backgrounds) if name == background])
            chosen = torch.isin(order, candidates)
            if chosen.any():
                is_nearest[chosen] = candidates[find_nearest(pictures[chosen], truth[candidates])] == order[chosen]
        return is_nearest

    def _has_background(self, pictures: Tensor, order: Tensor, truth: Tensor, backgrounds: list[str]) -> Tensor:
        """Return whether the corners are nearest to the colour of the requested background, per picture, (B,) bool."""
        names = sorted(set(backgrounds))
        colours = torch.stack([measure_corner_colours(truth[[n == name for n in backgrounds]]).mean(0) for name in names])
        nearest_names = torch.cdist(measure_corner_colours(pictures), colours).argmin(1)
        return nearest_names == torch.tensor([names.index(backgrounds[index]) for index in order.tolist()])

    def _write_sheet(self, pictures: Tensor, references: Tensor, path: Path) -> None:
        """Write a picture of up to 20 drawings in columns: pairs of rows, an original above the picture of a seed."""
        columns = min(20, len(pictures) // self.seeds)
        rows = [
            part for i in range(0, 3 * columns, columns) for part in (references[i : i + columns], pictures[i : i + columns])
        ]
        save_png(make_grid_picture(to_bytes(torch.cat(rows)), columns=columns), path, SHEET)
