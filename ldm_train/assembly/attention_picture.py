"""Draw the attention to each word of a prompt as one picture: a row a word, averaged over steps, and by step."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ldm_train.assembly.word_attention import WordAttention
from ldm_train.data.pictures.labelled_grid import draw_labelled_grid
from ldm_train.util.colour_scale import colour_shares

STRIP = 6  # steps that are drawn one by one, at most


def draw_attention(attention: WordAttention, picture: Tensor) -> Tensor:
    """Return one image (3, H', W') of a drawn picture, uint8 (3, H, W), with maps of the attention to each word.

    Each row is as bright as its own largest value allows; its label has the word's share of all attention.
    """
    size, combined = (picture.shape[1], picture.shape[2]), attention.combined
    steps = sorted({round(place) for place in np.linspace(0, len(combined) - 1, min(STRIP, len(combined))).tolist()})
    several = {shape: maps.mean(0) for shape, maps in sorted(attention.maps.items(), reverse=True)}
    several = several if len(several) > 1 else {}
    columns = ["the picture", "all steps", *(f"{height} x {width}" for height, width in several)]
    columns += [f"step {step + 1}" for step in steps]
    rows, labels = [], []
    for number, word in enumerate(attention.words):
        maps = [combined[:, number].mean(0), *(one[number] for one in several.values())]
        maps += [combined[step, number] for step in steps]
        highest = max(float(one.max()) for one in maps)
        rows.append([picture, *(colour_map(one, size, highest=highest) for one in maps)])
        labels.append(f"{word} {float(combined[:, number].mean()):.1%}")
    return draw_labelled_grid(rows, columns, labels)


def colour_map(values: Tensor, size: tuple[int, int], *, highest: float) -> Tensor:
    """Return a map (h, w) at a size (H, W) in the colours of heatmaps, from 0 to `highest`, uint8 (3, H, W)."""
    [[large]] = interpolate(values[None, None], size, mode="nearest-exact")
    return torch.from_numpy(colour_shares((large / (highest or 1)).clamp(0, 1).numpy()))
