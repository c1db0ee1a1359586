"""open_clip's tokenizer, with the byte-pair merges of the `tokenizers` library."""

from collections.abc import Mapping, Sequence

import open_clip
from tokenizers.models import BPE

TRANSFORMERS_SPECIAL = ("<|startoftext|>", "<|endoftext|>")  # the names that transformers has for start and end


class Tokenizer(open_clip.SimpleTokenizer):
    """open_clip's tokenizer for captions of any length, with the same ids.

    open_clip's own merges take quadratic time in a word's length, and a caption may be a single long word.
    """

    def __init__(self, *, context_length: int) -> None:
        super().__init__(context_length=context_length)
        merges = sorted(self.bpe_ranks, key=self.bpe_ranks.__getitem__)
        self._model = BPE(self.encoder, merges, end_of_word_suffix="</w>")

    def has_token(self, word: str) -> bool:
        """Return whether a word is one token of CLIP's vocabulary, at the end of a word or inside one."""
        letters = "".join(self.byte_encoder[byte] for byte in word.casefold().encode())
        return not {letters, f"{letters}</w>"}.isdisjoint(self.encoder) or word in TRANSFORMERS_SPECIAL

    def bpe(self, token: str) -> str:
        """Return the symbols of one word, separated by spaces; the word is in open_clip's letters for bytes."""
        if token not in self.cache:  # which has open_clip's special tokens from the start: they are not merged
            self.cache[token] = " ".join(symbol.value for symbol in self._model.tokenize(token))
        return self.cache[token]


def check_vocabulary(tokenizer: Tokenizer, begun: Mapping[str, Sequence[int]], *, capacity: int) -> None:
    """Raise for a word that a run cannot train as a new one.

    Args:
        begun: the tokens that each word starts as.
        capacity: how many tokens of a caption are kept.

    Raises:
        ValueError: the vocabulary has the word, or no caption could hold its vectors.
    """
    for word, ids in begun.items():
        if tokenizer.has_token(word):
            raise ValueError(
                f"text_encoder.new_words: {word} is in the tokenizer's vocabulary already, so other programs refuse its "
                f"vectors; choose a word that is not, such as <{word}>, also in the captions"
            )
        if len(ids) > capacity:
            assert tokenizer.context_length is not None
            chunks = -(-len(ids) // (tokenizer.context_length - 2))
            raise ValueError(
                f"text_encoder.new_words: {word} would get {len(ids)} vectors, one for each token of what it starts as, but "
                f"{capacity} tokens of a caption are kept; start it as fewer words, or set text_encoder.chunks={chunks}"
            )
