"""A cache's entries as columns of numbers, memory-mapped: all that training reads of them."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from ldm_train.data.cache.entries import Entry


@dataclass(frozen=True)
class CacheIndex:
    """Columns with a value for each of N entries, in the order of their keys.

    Args:
        bucket: number of the bucket, (N,).
        row: number of the row in the bucket, (N,).
        caption_ends: where each entry's captions end in `captions`, (N,).
        captions: numbers of all entries' captions in the cache.
        held_out: whether the entry is held out from training, (N,) bool.
        picture: the first 32 bits of the picture's digest, (N,).
        size: (height, width) of the original, pixels, (N, 2).
        num_views: number of views, (N,).
        views: how each view was cut, as in `Entry`, (N, V, 5).
    """

    bucket: Tensor
    row: Tensor
    caption_ends: Tensor
    captions: Tensor
    held_out: Tensor
    picture: Tensor
    size: Tensor
    num_views: Tensor
    views: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def caption_of(self, entries: Tensor, chosen: Tensor) -> Tensor:
        """Return the number of one caption of each entry (B,), which `chosen` (B,) in [0, 1) picks among its captions."""
        ends = self.caption_ends[entries]
        starts = torch.where(entries > 0, self.caption_ends[entries - 1], 0)
        return self.captions[starts + (chosen.double() * (ends - starts)).long()].long()

    def captions_of(self, entry: int) -> Tensor:
        """Return the numbers of all captions of an entry."""
        return self.captions[int(self.caption_ends[entry - 1]) if entry else 0 : int(self.caption_ends[entry])]


def build_columns(entries: Iterable[Entry], buckets: Sequence[str]) -> dict[str, Tensor]:
    """Return the columns of a `CacheIndex` by name; entries are read one by one."""
    numbers = {bucket: number for number, bucket in enumerate(buckets)}
    bucket, row, caption_ends, captions = array("i"), array("q"), array("q"), array("i")
    held_out, picture, size, num_views, views = array("b"), array("q"), array("i"), array("i"), array("i")
    for entry in entries:
        bucket.append(numbers[entry.bucket])
        row.append(entry.row)
        captions.extend(entry.captions)
        caption_ends.append(len(captions))
        held_out.append(entry.held_out)
        picture.append(int(entry.picture[:8], 16))
        size.extend(entry.size)
        num_views.append(len(entry.views))
        views.extend(chain.from_iterable(entry.views))
    count = len(row)
    return {
        "bucket": torch.from_numpy(np.array(bucket)),
        "row": torch.from_numpy(np.array(row)),
        "caption_ends": torch.from_numpy(np.array(caption_ends)),
        "captions": torch.from_numpy(np.array(captions)),
        "held_out": torch.from_numpy(np.array(held_out, bool)),
        "picture": torch.from_numpy(np.array(picture)),
        "size": torch.from_numpy(np.array(size).reshape(count, 2)),
        "num_views": torch.from_numpy(np.array(num_views)),
        "views": torch.from_numpy(np.array(views).reshape(count, max(num_views, default=0), 5)),
    }


def join_indices(parts: Sequence[tuple[CacheIndex, Sequence[str]]], buckets: Sequence[str]) -> CacheIndex:
    """Concatenate indices, each given with the names of its buckets, into one with numbers of all `buckets`."""
    places = [torch.tensor([buckets.index(name) for name in names]) for _, names in parts]
    indices = [index for index, _ in parts]
    ends, captions, count = [], [], 0
    for index in indices:
        ends.append(index.caption_ends + count)
        captions.append(index.captions)
        count += len(index.captions)
    most = max(index.views.shape[1] for index in indices)
    return CacheIndex(
        bucket=torch.cat([place[index.bucket.long()] for place, index in zip(places, indices, strict=True)]),
        row=torch.cat([index.row for index in indices]),
        caption_ends=torch.cat(ends),
        captions=torch.cat(captions),
        held_out=torch.cat([index.held_out for index in indices]),
        picture=torch.cat([index.picture for index in indices]),
        size=torch.cat([index.size for index in indices]),
        num_views=torch.cat([index.num_views for index in indices]),
        views=torch.cat([index.views[:, torch.arange(most).clamp(max=index.views.shape[1] - 1)] for index in indices]),
    )
