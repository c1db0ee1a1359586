"""Captions that are lists of tags: drawn anew for each example of each step, so that their order and number mean nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train import draws

SEPARATOR = ","


@dataclass(frozen=True)
class Tags:
    """How the tags of a caption, which commas separate, are drawn.

    Args:
        shuffle: whether they are put into another order.
        keep: so many tags at the start stay there, and are never left out.
        dropout: share of the other tags that are left out; of a caption with nothing but these, one stays.
    """

    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0

    @property
    def drawn(self) -> bool:
        """Whether anything is drawn; else captions stay as they are."""
        return self.shuffle or self.dropout > 0

    def __call__(self, caption: str, position: int, *, seed: int) -> str:
        """Return the caption of the example at a position of the run."""
        tags = [tag for text in caption.split(SEPARATOR) if (tag := text.strip())]
        first, rest = tags[: self.keep], tags[self.keep :]
        if not self.drawn or not rest:
            return caption
        at, shape = torch.tensor([position]), (len(rest),)
        chances, order = (draws.uniform(seed, stream, at, shape)[0] for stream in ("tag dropout", "tag order"))
        left = chances >= self.dropout
        if not first and not left.any():
            left[chances.argmax()] = True
        places = order.argsort() if self.shuffle else torch.arange(len(rest))
        return f"{SEPARATOR} ".join([*first, *(rest[place] for place in places.tolist() if left[place])])


@dataclass(frozen=True)
class TaggedCaptions:
    """Captions with drawn tags, as token ids: a cache has the embeddings of the captions as they were, and none of these."""

    tags: Tags
    tokenize: Callable[[list[str]], Tensor]

    def __call__(self, captions: list[str], positions: Tensor, *, seed: int) -> Tensor:
        """Return the ids (B, L) of the captions of the examples at positions (B,)."""
        places = zip(captions, positions.tolist(), strict=True)
        return self.tokenize([self.tags(caption, position, seed=seed) for caption, position in places])
