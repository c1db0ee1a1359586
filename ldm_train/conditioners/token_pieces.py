"""What tokens spell: the pieces into which a text encoder splits the words of a text, and their vectors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.conditioners.new_tokens import ExtendedEmbedding
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.conditioners.tokenizer import END_OF_WORD


@dataclass(frozen=True)
class TokenPiece:
    """One token.

    Args:
        number: its place in the vocabulary.
        spelling: the text that it stands for, in UTF-8; it may begin or end inside a letter. Of a new word with several
            vectors only the first token has one.
        ends_word: whether the next token begins another word.
    """

    number: int
    spelling: bytes
    ends_word: bool

    @property
    def text(self) -> str:
        """What it spells, with "…" if the word goes on."""
        return self.spelling.decode("utf-8", errors="replace") + ("" if self.ends_word else "…")


def split_text(encoder: TextEncoder, text: str) -> list[TokenPiece]:
    """Return all tokens of a text without start and end, also those after the encoder's `capacity`, which are cut."""
    return spell_tokens(encoder, encoder._ids(text))


def spell_tokens(encoder: TextEncoder, numbers: Iterable[int]) -> list[TokenPiece]:
    """Return what tokens spell, those of new words too."""
    own = {
        number: TokenPiece(number, word.encode() if place == 0 else b"", place == len(ids) - 1)
        for word, ids in encoder.words.ids.items()
        for place, number in enumerate(ids)
    }
    return [own.get(number) or _spell(encoder, number) for number in numbers]


def _spell(encoder: TextEncoder, number: int) -> TokenPiece:
    tokenizer = encoder._tokenizer
    letters = tokenizer.decoder[number]
    ends = letters.endswith(END_OF_WORD) or number in tokenizer.all_special_ids
    return TokenPiece(number, bytes(tokenizer.byte_decoder[letter] for letter in letters.removesuffix(END_OF_WORD)), ends)


def group_words(pieces: Sequence[TokenPiece]) -> list[tuple[str, list[TokenPiece]]]:
    """Return the words that tokens make up, each with its tokens, as the tokenizer separates words."""
    groups: list[list[TokenPiece]] = []
    begins = True
    for piece in pieces:
        if begins:
            groups.append([])
        groups[-1].append(piece)
        begins = piece.ends_word
    return [(b"".join(piece.spelling for piece in word).decode("utf-8", errors="replace"), word) for word in groups]


def list_token_vectors(encoder: TextEncoder) -> Tensor:
    """Return the vector of each token before the transformer, (V, D); those of new words come last."""
    assert encoder.tower is not None
    embedding = encoder.tower.token_embedding
    own = [embedding.vectors] if isinstance(embedding, ExtendedEmbedding) else []
    return torch.cat([embedding.weight, *own]).detach()


@torch.no_grad()
def embed_pieces(encoder: TextEncoder, text: str) -> Tensor:
    """Return the vectors of a text's tokens after the transformer, (N, D): those that are kept, without start and end."""
    count, inner = min(len(split_text(encoder, text)), encoder.capacity), encoder.context_length - 2
    [states] = encoder.embed(encoder.tokenize([text]))
    places = torch.arange(count)
    return states[places // inner * encoder.context_length + 1 + places % inner]
