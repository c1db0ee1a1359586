"""Add words to a text transformer's vocabulary: textual inversion (Gal et al. 2022, arXiv 2208.01618, section 3).

A new word starts as existing words: it gets a vector v = start + learned for each of their tokens, where `learned` starts
at zero.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class ExtendedEmbedding(nn.Module):
    """A token embedding with additional rows.

    Args:
        embedding: the original, whose `weight` (V, D) keeps its name in the state dict.
        starts: for each additional row, the original row that it starts as, or -1 for zeros.
        learned: what is added to the start, (N, D); zeros by default.
    """

    starts: Tensor

    def __init__(self, embedding: nn.Module, starts: list[int], learned: Tensor | None = None) -> None:
        super().__init__()
        weight = embedding.weight
        assert isinstance(weight, nn.Parameter)
        self.weight = weight
        rows = torch.zeros(len(starts), weight.shape[1]) if learned is None else learned
        self.learned = nn.Parameter(rows.to(weight), requires_grad=weight.requires_grad)
        self.register_buffer("starts", torch.tensor(starts), persistent=False)

    @property
    def vectors(self) -> Tensor:
        """The additional rows, (N, D)."""
        begun = self.weight[self.starts.clamp_min(0)] * (self.starts >= 0)[:, None]
        return begun + self.learned

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (..., D) of token ids (...), int64."""
        count = len(self.weight)
        own = nn.functional.embedding(tokens.clamp_max(count - 1), self.weight)
        if not len(self.learned):
            return own
        new = self.vectors[(tokens - count).clamp_min(0)]
        return torch.where((tokens >= count)[..., None], new, own)


def parse_new_words(new_words: Sequence[str]) -> dict[str, str]:
    """Return the words that each new word starts as, from settings such as "<toy>=wooden toy".

    Raises:
        ValueError: a setting has another form, or a word occurs twice.
    """
    found = {}
    for setting in new_words:
        word, equals, begins = setting.partition("=")
        if not equals or not begins.strip() or word in found:
            raise ValueError(
                f"text_encoder.new_words={list(new_words)} must be distinct new words, each with the words that it starts "
                "as, such as 'text_encoder.new_words=[\"<toy>=wooden toy\"]'"
            )
        found[word] = begins
    return found


class NewWords:
    """The token ids of new words. Captions are split at new words, so that adjacent letters don't change their tokens.

    Upper and lower case are the same, as they are for the tokenizer.

    Args:
        sizes: number of vectors of each word.
        first: id of the first vector.

    Raises:
        ValueError: a word is empty, contains spaces, has no vector, or equals another one.
    """

    def __init__(self, sizes: Mapping[str, int], *, first: int) -> None:
        self.ids: dict[str, list[int]] = {}
        for word, count in sizes.items():
            if not word or word != word.strip() or any(letter.isspace() for letter in word):
                raise ValueError(f"the new word {word!r} must be one word without spaces, such as <toy>")
            if count < 1:
                raise ValueError(f"the new word {word} has no vector; give the words that it starts as, such as {word}=toy")
            start = first + sum(map(len, self.ids.values()))
            self.ids[word] = list(range(start, start + count))
        self._by_letters = {word.casefold(): ids for word, ids in self.ids.items()}
        if len(self._by_letters) < len(self.ids):
            raise ValueError(f"two of the new words {', '.join(self.ids)} differ only in upper and lower case; rename one")
        longest = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("(" + "|".join(map(re.escape, longest)) + ")", re.IGNORECASE) if longest else None

    def split_caption(self, caption: str) -> list[tuple[str, list[int] | None]]:
        """Return a caption's parts in order: texts with None, and new words with their ids."""
        if self.pattern is None:
            return [(caption, None)]
        return [(part, self._by_letters.get(part.casefold())) for part in self.pattern.split(caption) if part]

    def describe(self) -> list[str]:
        """Return each word with its number of vectors, for the identity of a text encoder."""
        return [f"{word}={len(ids)}" for word, ids in self.ids.items()]
