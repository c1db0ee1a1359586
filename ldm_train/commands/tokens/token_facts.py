"""What is worth knowing about the tokens of a text: words, places, neighbours, how far the training moved them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ldm_train.commands.tokens.opened_encoder import OpenedEncoder
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.token_pieces import (
    TokenPiece,
    embed_pieces,
    group_words,
    list_token_vectors,
    spell_tokens,
    split_text,
)


@dataclass(frozen=True)
class TokenFacts:
    """One token of a text.

    Args:
        place: its place in the context, counted from 0, where 0 is the start token; None if it is cut.
        word: the word that it is a part of, and the number of that word, from 1.
        neighbours: what the nearest tokens spell, and the cosine of the angle between their vectors and this one's.
        first_neighbours: the same before the training; none if that is not known.
        moved: how far the training moved its vector, as a share of the vector's length before, and the cosine of the angle
            between both; None if it is not known.
        learned: whether a caption of the run has it; None if that is not known.
    """

    piece: TokenPiece
    place: int | None
    word: tuple[int, str]
    neighbours: Sequence[tuple[str, float]]
    first_neighbours: Sequence[tuple[str, float]]
    moved: tuple[float, float] | None
    learned: bool | None


@dataclass(frozen=True)
class TextFacts:
    """A text and its tokens.

    Args:
        compared: what neighbours were looked for among.
        unlearned: how far tokens that no caption has were moved, half of them less; None if it is not known.
    """

    opened: OpenedEncoder
    text: str
    tokens: Sequence[TokenFacts]
    compared: str
    unlearned: float | None

    @property
    def encoder(self) -> TextEncoder:
        return self.opened.encoder

    @property
    def kept(self) -> list[TokenFacts]:
        return [token for token in self.tokens if token.place is not None]

    @property
    def words(self) -> int:
        return len({token.word for token in self.tokens})

    @cached_property
    def similarities(self) -> tuple[Tensor, Tensor]:
        """Cosines between the kept tokens' vectors, (N, N), before and after the transformer."""
        before = list_token_vectors(self.encoder)[[token.piece.number for token in self.kept]]
        return tuple(normalize(part) @ normalize(part).T for part in (before, embed_pieces(self.encoder, self.text)))  # type: ignore[return-value]


def examine_text(opened: OpenedEncoder, text: str, *, neighbours: int) -> TextFacts:
    """Return the tokens of a text with their `neighbours` nearest tokens."""
    encoder, pieces = opened.encoder, split_text(opened.encoder, text)
    vectors, inner = list_token_vectors(encoder), encoder.context_length - 2
    known = opened.learned if opened.trained else None
    candidates = torch.arange(len(vectors)) if known is None else known
    moved = None if opened.start is None else measure_moved(opened.start, vectors)
    numbers = [piece.number for piece in pieces]
    near = list_neighbours(encoder, vectors, numbers, candidates, count=neighbours)
    first: list[list[tuple[str, float]]] = [[] for _ in pieces]
    if opened.start is not None:
        first = list_neighbours(encoder, opened.start, numbers, candidates, count=neighbours)
    seen = None if known is None else set(known.tolist())
    words = [(number, word) for number, (word, own) in enumerate(group_words(pieces), start=1) for _ in own]
    tokens = [
        TokenFacts(
            piece,
            index // inner * encoder.context_length + 1 + index % inner if index < encoder.capacity else None,
            words[index],
            near[index],
            first[index],
            None if moved is None else (float(moved[0][piece.number]), float(moved[1][piece.number])),
            None if seen is None else piece.number in seen,
        )
        for index, piece in enumerate(pieces)
    ]
    compared = (
        f"all {len(vectors):,} tokens of the vocabulary"
        if known is None
        else f"the {len(known):,} tokens that the run's captions have"
    )
    return TextFacts(opened, text, tokens, compared, find_unlearned(moved, known))


def list_neighbours(
    encoder: TextEncoder, vectors: Tensor, numbers: Sequence[int], candidates: Tensor, *, count: int
) -> list[list[tuple[str, float]]]:
    """Return what the nearest candidates of each token spell, with the cosines; as `find_neighbours`."""
    return [
        [(one.text, cosine) for one, (_, cosine) in zip(spell_tokens(encoder, [n for n, _ in near]), near, strict=True)]
        for near in find_neighbours(vectors, numbers, candidates, count=count)
    ]


def find_neighbours(
    vectors: Tensor, numbers: Sequence[int], candidates: Tensor, *, count: int
) -> list[list[tuple[int, float]]]:
    """Return the candidates whose vectors (V, D) point most nearly the same way as each token's, with the cosines."""
    if not numbers or not count:
        return [[] for _ in numbers]
    cosines = normalize(vectors[list(numbers)]) @ normalize(vectors[candidates]).T
    cosines = cosines.masked_fill(candidates == torch.tensor(numbers)[:, None], -2)
    best = cosines.topk(min(count + 1, len(candidates)), dim=1)
    return [
        [(int(candidates[place]), cosine) for place, cosine in zip(places, values, strict=True) if cosine > -2][:count]
        for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def measure_moved(start: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each vector (V, D) moved, as a share of its first length, and the cosine between both, (V,)."""
    return (now - start).norm(dim=1) / start.norm(dim=1), torch.cosine_similarity(start, now)


def find_unlearned(moved: tuple[Tensor, Tensor] | None, learned: Tensor | None) -> float | None:
    """Return the median of how far tokens that no caption has were moved, as by weight decay."""
    if moved is None or learned is None:
        return None
    others = torch.ones(len(moved[0]), dtype=torch.bool)
    others[learned] = False
    return float(moved[0][others].median())
