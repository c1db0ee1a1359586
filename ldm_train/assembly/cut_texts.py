"""Report captions and prompts that are longer than a text encoder reads: the rest of them is lost."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from ldm_train.util.safe_json import Json
from ldm_train.util.text import list_names, shorten


class TokenCounter(Protocol):
    """A conditioner that counts the tokens of texts, and keeps so many of each."""

    capacity: int

    @property
    def identity(self) -> dict[str, Json]: ...

    def count(self, captions: list[str]) -> list[int]: ...


Count = Callable[[list[str]], list[int]]  # tokens of each text, before it is cut
MOST = 3  # texts that are described; of further ones there is the number


@dataclass(frozen=True)
class CutText:
    """A text of more tokens than are read.

    Args:
        number, word: the first word of which tokens are lost; its number counts from 1.
    """

    text: str
    tokens: int
    number: int
    word: str

    def __str__(self) -> str:
        return (
            f"{shorten(self.text)!r} ({self.tokens:,} tokens), cut before {shorten(self.word)!r}, its word {self.number:,}"
        )


def find_cut_texts(texts: Iterable[str], count: Count, capacity: int) -> list[CutText]:
    """Return the distinct texts of more tokens than `capacity`, the longest first."""
    distinct = sorted({*texts})
    sizes = {text: size for text, size in zip(distinct, count(distinct), strict=True) if size > capacity}
    return [
        describe_cut(text, sizes[text], count, capacity) for text in sorted(sizes, key=lambda text: (-sizes[text], text))
    ]


def describe_cut(text: str, tokens: int, count: Count, capacity: int) -> CutText:
    """Return where a text is cut, found by halving: a prefix of more words has more tokens."""
    words = text.split() or [text]
    lost = bisect_left(range(1, len(words)), True, key=lambda n: count([" ".join(words[:n])])[0] > capacity)
    return CutText(text, tokens, lost + 1, words[lost])


def warn_of_cut_prompts(conditioner: TokenCounter, prompts: Iterable[str], *, setting: str = "prompts") -> list[str]:
    """Return a warning if prompts are cut."""
    return warn_of_cuts(prompts, conditioner.count, conditioner.capacity, setting=setting)


def warn_of_cuts(prompts: Iterable[str], count: Count, capacity: int, *, setting: str) -> list[str]:
    """Return a warning if a tokenizer that counts and keeps so many tokens cuts prompts."""
    cut = find_cut_texts(prompts, count, capacity)
    return [f"{setting}: only {capacity} tokens of a text fit; cut: {list_names([*map(str, cut)], MOST)}"] if cut else []


def warn_of_cut_captions(conditioner: TokenCounter, captions: Sequence[str]) -> list[str]:
    """Return a warning with the number of captions that are cut and the longest of them."""
    sizes = dict(zip(captions, conditioner.count([*captions]), strict=True))
    cut = [text for text, size in sizes.items() if size > conditioner.capacity]
    if not cut:
        return []
    longest = max(cut, key=lambda text: (sizes[text], text))
    example = describe_cut(longest, sizes[longest], conditioner.count, conditioner.capacity)
    length = conditioner.identity.get("context_length")
    chunks = f"; text_encoder.chunks={ceil(sizes[longest] / (length - 2))} keeps all" if isinstance(length, int) else ""
    return [
        f"{len(cut):,} of {len(sizes):,} captions are cut, since only {conditioner.capacity} tokens of a text fit; "
        f"the longest, {example}{chunks}"
    ]
