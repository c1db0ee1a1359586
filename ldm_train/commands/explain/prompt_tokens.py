"""The tokens of the picture's prompt: how a text encoder splits it, and what is cut."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.token_pieces import TokenPiece, group_words, split_text


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of a prompt.

    Args:
        words: each word with its tokens.
        capacity: how many tokens are read; further ones are cut.
        places: of the context, with the start and the end tokens.
        width: numbers of the vector that stands for a token.
    """

    words: Sequence[tuple[str, Sequence[TokenPiece]]]
    capacity: int
    places: int
    width: int

    @property
    def count(self) -> int:
        return sum(len(pieces) for _, pieces in self.words)

    @property
    def rows(self) -> list[list[str]]:
        """What the page's table shows of each token: it, its number, its word, whether it is read."""
        pieces = [(word, piece) for word, pieces in self.words for piece in pieces]
        return [
            [piece.text, str(piece.number), word, "yes" if index < self.capacity else "no: cut"]
            for index, (word, piece) in enumerate(pieces)
        ]


def read_tokens(conditioner: nn.Module, prompt: str) -> PromptTokens | None:
    """Return the tokens of a prompt; None if the conditioner reads no text."""
    if not isinstance(conditioner, TextEncoder):
        return None
    words = group_words(split_text(conditioner, prompt))
    places = conditioner.chunks * conditioner.context_length
    return PromptTokens(words, conditioner.capacity, places, conditioner.context_width)
