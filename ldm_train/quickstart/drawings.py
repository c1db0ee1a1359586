"""The quick start's evaluation: held-out drawings on named backgrounds."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ldm_train.data.pictures.images import read_image, to_bytes, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.items import Item
from ldm_train.metrics.evaluation import DrawnPictures, PictureMetric
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.metrics.pixel_distance import find_nearest, psnr
from ldm_train.quickstart.backgrounds import BackgroundAccuracy, has_background
from ldm_train.training.callbacks.picture_grids import make_grid_picture


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

    metrics: Sequence[PictureMetric] = (BackgroundAccuracy(),)

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
        requested = [backgrounds[index] for index in order.tolist()]
        numbers.add_share("background_accuracy", has_background(pictures, requested, truth, backgrounds), resampling)
        numbers.add_mean("drawing_psnr", psnr(pictures, truth[order]), resampling)
        if drawn.autoencoder is not None:
            originals = truth[torch.tensor(self.held_out)]
            numbers.add_mean("autoencoder_psnr", psnr(self._reconstruct(originals, drawn), originals), resampling)
        numbers.add("pictures", len(pictures))
        numbers.add("held_out_pairs", len(self.held_out))
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

    def overview(self, drawn: DrawnPictures) -> Tensor:
        """Return up to 20 drawings in columns: pairs of rows, an original above the picture of a seed."""
        pictures, columns = drawn.pictures, min(20, len(self.held_out))
        size = pictures.shape[2], pictures.shape[3]
        originals = self._read([self.items[index] for index in self.held_out[:columns]], size)
        per_seed = pictures.split(len(self.held_out))[:3]
        rows = [part for seed in per_seed for part in (originals, seed[:columns])]
        return make_grid_picture(to_bytes(torch.cat(rows)), columns=columns)
