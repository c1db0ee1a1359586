"""The base of text encoders whose embeddings of captions can be stored: a cache has those of every frozen one."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ldm_train.util.safe_json import Json


class CaptionEncoder(nn.Module):
    """A conditioner that embeds token ids, so that the embeddings of each caption are computed once and stored.

    It is a `ldm_train.types.Conditioner`. A derived class has that protocol's attributes and methods, `embedding_shape`,
    `compute` and `free`, and takes `CaptionBatch.embeddings`, where they are given, for what `compute` returns.

    Attributes:
        freed: whether its weights were freed, so that only the captions that `keep_only` got have embeddings.
        notes: messages about where its weights are from, for whoever starts a command.
    """

    capacity: int
    context_width: int | None
    vector_width: int | None
    trained: bool
    known_tokens: Tensor
    known_states: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.freed = False
        self.notes: list[str] = []

    @property
    def embedding_shape(self) -> tuple[int, ...] | None:
        """The shape of what is stored of one caption; None if nothing is, because it is trained."""
        raise NotImplementedError

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that the cached part of a caption depends on, in plain values."""
        raise NotImplementedError

    @property
    def computation(self) -> dict[str, Json]:
        """Everything that the conditioning depends on, in plain values."""
        raise NotImplementedError

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return token ids, (B, L) int64."""
        raise NotImplementedError

    def count(self, captions: list[str]) -> list[int]:
        """Return how many tokens each caption has before it is cut to `capacity`."""
        raise NotImplementedError

    def compute(self, tokens: Tensor) -> Tensor:
        """Return what is stored of captions with these token ids (B, L), (B, *embedding_shape)."""
        raise NotImplementedError

    def free(self) -> None:
        """Free the weights."""
        raise NotImplementedError

    def embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of token ids (B, L), (B, *embedding_shape); once freed, those of known captions.

        Raises:
            ValueError: it was freed, and does not know a caption.
        """
        if not self.freed:
            return self.compute(tokens)
        matches = (tokens[:, None] == self.known_tokens).all(-1)
        if not matches.any(1).all():
            raise ValueError("the text encoder was freed by keep_only, which did not get one of these captions")
        return self.known_states[matches.int().argmax(1)]

    @torch.no_grad()
    def keep_only(self, captions: Sequence[str]) -> None:
        """Embed these captions and free the weights: from then on, other captions need embeddings from a cache."""
        tokens = self.tokenize([*dict.fromkeys(["", *captions])])
        self.register_buffer("known_states", self.embed(tokens), persistent=False)
        self.register_buffer("known_tokens", tokens, persistent=False)
        self.free()
        self.freed = True


def find_stored_shape(conditioner: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of what a cache stores of one caption besides its token ids; None if it stores nothing."""
    return conditioner.embedding_shape if isinstance(conditioner, CaptionEncoder) else None


def count_stored(conditioner: nn.Module) -> int:
    """Return how many numbers a cache stores of one caption besides its token ids."""
    shape = find_stored_shape(conditioner)
    return 0 if shape is None else math.prod(shape)
