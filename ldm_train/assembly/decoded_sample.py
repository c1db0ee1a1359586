"""Encode and decode a small sample of pictures, to see what latents keep of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.cache.manifest import Manifest
from ldm_train.data.cache.plan import CachePlan, describe_row
from ldm_train.data.cache.quality import QUALITY, RECONSTRUCTIONS, Quality
from ldm_train.data.pictures.decoding import DECODE_ERRORS
from ldm_train.data.pictures.images import save_png, to_display_bytes, to_signed
from ldm_train.data.pictures.labelled_grid import draw_captioned_grid
from ldm_train.data.scan.ordered_pictures import ItemsByKey
from ldm_train.metrics.pixel_distance import psnr
from ldm_train.training.callbacks.picture_grids import fit_on_white
from ldm_train.training.encoding import Encoding
from ldm_train.training.rendering import Rendering, UnreadError
from ldm_train.util.files import atomic_write
from ldm_train.util.text import shorten

SAMPLE = 32  # pictures at most
FEWEST = 2
PIXELS = 32 * 64**2  # of a sample, so that large pictures take no longer than small ones
DRAWN, COLUMNS = 16, 8  # pairs in the picture of the reconstructions
LINE = 2  # white pixels between an original and its reconstruction


@dataclass(frozen=True)
class DecodedPicture:
    """A picture, (3, H, W) uint8, and what an autoencoder makes of it."""

    key: str
    caption: str
    original: Tensor
    decoded: Tensor
    psnr: float

    @property
    def pair(self) -> Tensor:
        """The original above its reconstruction, (3, 2 H + 2, W) uint8."""
        line = torch.full_like(self.original[:, :LINE], 255)
        return torch.cat([self.original, line, self.decoded], dim=1)


def choose_sample(plan: CachePlan, count: int) -> list[PictureRow]:
    """Return a sample of the pictures that can be read again, sorted by shape.

    The order of digests is as good as random, and the same every time.
    """
    readable = (scanned for scanned in plan.distinct if scanned.item.picture is not None)
    chosen = nsmallest(count, readable, key=lambda scanned: (scanned.digest, scanned.item.key))
    return sorted(map(describe_row, chosen), key=lambda row: plan.shape((row.size[0], row.size[1]), row.digest))


def count_sample(shapes: Iterable[tuple[int, int]]) -> int:
    """Return how many pictures of these (height, width) a sample has: fewer large ones than small ones."""
    largest = max((height * width for height, width in shapes), default=1)
    return max(FEWEST, min(SAMPLE, PIXELS // largest))


def batch_by_shape(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield batches of images of one shape, (B, 3, H, W), with B at most `size`; images must be sorted by shape."""
    for _, same in groupby(images, key=lambda image: image.shape):
        yield from torch.stack(list(same)).split(size)


def decode_sample(plan: CachePlan, rendering: Rendering, encoding: Encoding) -> list[DecodedPicture]:
    """Encode and decode a sample of the pictures of a plan; none without an autoencoder."""
    if encoding.autoencoder.factor == 1:
        return []
    rows, images = [], []
    for row in choose_sample(plan, count_sample(plan.rows)):
        try:
            images.append(to_signed(rendering(row)[0]))
        except (UnreadError, *DECODE_ERRORS):  # what is left out is reported elsewhere
            continue
        rows.append(row)
    decoded = [
        image
        for batch in batch_by_shape(images, SAMPLE)
        for image in encoding.decode(encoding.pictures(batch.to(encoding.device))["mean"]).float().cpu()
    ]
    return pair_pictures(plan, rows, images, decoded)


def pair_pictures(
    plan: CachePlan, rows: Sequence[PictureRow], images: Sequence[Tensor], decoded: Sequence[Tensor]
) -> list[DecodedPicture]:
    """Return the pictures of a plan's rows with their reconstructions; images (3, H, W) are in [-1, 1]."""
    found, items = [], ItemsByKey(plan.scanned)
    for row, image, again in zip(rows, images, decoded, strict=True):
        captions = items[row.key].captions
        shown = to_display_bytes(torch.stack([image, again]))
        value = psnr(again[None].nan_to_num(0, 0, 0), image[None]).item()
        found.append(DecodedPicture(row.key, captions[0] if captions else "", shown[0], shown[1], round(value, 2)))
    return found


def measure_psnr(pictures: Sequence[DecodedPicture]) -> float:
    """Return the PSNR of all pictures together, dB: that of their mean squared error."""
    errors = torch.tensor([10 ** (-picture.psnr / 10) for picture in pictures], dtype=torch.float64)
    return round(-10 * errors.mean().log10().item(), 2)


def draw_reconstructions(pictures: Sequence[DecodedPicture]) -> Tensor:
    """Return one image (3, H, W) with originals above their reconstructions, from the worst to the best, and their PSNR."""
    drawn = sorted(pictures, key=lambda picture: picture.psnr)[:: max(1, -(-len(pictures) // DRAWN))]
    height, width = (max(picture.pair.shape[side] for picture in drawn) for side in (1, 2))
    texts = [f"{picture.psnr:.1f} dB {shorten(picture.caption or picture.key)}" for picture in drawn]
    pairs = torch.stack([fit_on_white(picture.pair, (height, width)) for picture in drawn])
    return draw_captioned_grid(pairs, texts, columns=min(COLUMNS, len(drawn)))


def describe_quality(plan: CachePlan, pictures: Sequence[DecodedPicture], manifest: Manifest | None = None) -> Quality:
    """Return what latents keep of the pictures of a plan."""
    lost = list(plan.lost().values())
    total = sum(count for count, _ in lost)
    deviation = None
    if manifest is not None and manifest.factor > 1:
        deviation = round(Scaling(manifest.shift, manifest.scale).deviation(manifest.mean, manifest.std), 4)
    return Quality(
        measure_psnr(pictures) if pictures else None,
        {picture.key: picture.psnr for picture in sorted(pictures, key=lambda one: one.key)},
        deviation,
        round(sum(count * share for count, share in lost) / max(1, total), 4),
    )


def write_quality(folder: Path, quality: Quality, pictures: Sequence[DecodedPicture]) -> None:
    """Write `quality.json` and, if there are pictures, `reconstructions.png` into a folder."""
    if pictures:
        save_png(draw_reconstructions(pictures), folder / RECONSTRUCTIONS)
    atomic_write(folder / QUALITY, quality.text())
