"""Words that a text transformer's vocabulary lacks, with vectors of their own in its token embedding.

Textual inversion (Gal et al. 2022, arXiv 2208.01618, section 3). A word begins as others: one vector for each of their
tokens, v = start + learned, where `learned` begins at zero.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class ExtendedEmbedding(nn.Module):
    """A token embedding with further rows after its own.

    Args:
        embedding: whose `weight` (V, D) keeps its name.
        starts: for each further row the own one that it begins as, or -1 for zeros.
        learned: what is added to these, (N, D); zeros unless given.
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
        """The further rows, (N, D)."""
        begun = self.weight[self.starts.clamp_min(0)] * (self.starts >= 0)[:, None]
        return begun + self.learned

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) of token ids (...), int64."""
        count = len(self.weight)
        own = nn.functional.embedding(tokens.clamp_max(count - 1), self.weight)
        if not len(self.learned):
            return own
        new = self.vectors[(tokens - count).clamp_min(0)]
        return torch.where((tokens >= count)[..., None], new, own)


def beginnings(new_words: Sequence[str]) -> dict[str, str]:
    """Words to what each begins as, of settings such as "<toy>=wooden toy".

    Raises:
        ValueError: another form.
    """
    found = {}
    for setting in new_words:
        word, equals, begins = setting.partition("=")
        if not equals or not begins.strip() or word in found:
            raise ValueError(
                f"text_encoder.new_words={list(new_words)} must be words, each once and with what it begins as, "
                'such as ["<toy>=wooden toy"]'
            )
        found[word] = begins
    return found


class Words:
    """Which ids new words have; a caption is cut at them, so that what stands beside one changes nothing.

    Small and capital letters are the same, as they are to the tokenizer.

    Raises:
        ValueError: a word that is none, or there twice.
    """

    def __init__(self, sizes: Mapping[str, int], *, first: int) -> None:
        self.ids: dict[str, list[int]] = {}
        for word, count in sizes.items():
            if not word or word != word.strip() or any(letter.isspace() for letter in word):
                raise ValueError(f"a new word must be one word, such as <toy>, and is {word!r}")
            if count < 1:
                raise ValueError(f"the new word {word} has no vector; name a word that it begins as")
            start = first + sum(map(len, self.ids.values()))
            self.ids[word] = list(range(start, start + count))
        self._by_letters = {word.casefold(): ids for word, ids in self.ids.items()}
        if len(self._by_letters) < len(self.ids):
            raise ValueError(f"of the new words {', '.join(self.ids)} two differ in capital letters alone; rename one")
        longest = sorted(self.ids, key=len, reverse=True)
        self.pattern = re.compile("(" + "|".join(map(re.escape, longest)) + ")", re.IGNORECASE) if longest else None

    def pieces(self, caption: str) -> list[tuple[str, list[int] | None]]:
        """A caption's parts: texts, with None, and new words, with their ids."""
        if self.pattern is None:
            return [(caption, None)]
        return [(part, self._by_letters.get(part.casefold())) for part in self.pattern.split(caption) if part]

    @property
    def told(self) -> list[str]:
        """The words and their numbers of vectors in plain values."""
        return [f"{word}={len(ids)}" for word, ids in self.ids.items()]
