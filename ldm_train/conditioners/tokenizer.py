"""CLIP's tokenizer, as open_clip has it, with the byte-pair merges of the `tokenizers` library.

Importing open_clip takes seconds, so only its file of merges is read here.
"""

import gzip
import html
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import regex
from tokenizers.models import BPE

TRANSFORMERS_SPECIAL = ("<|startoftext|>", "<|endoftext|>")  # the names that transformers has for start and end
SPECIAL = ("<start_of_text>", "<end_of_text>")
END_OF_WORD = "</w>"  # with which CLIP's vocabulary marks tokens that end a word
MOST_CACHED = 2**18  # words that need not be merged again
LONGEST_CACHED = 100  # bytes of such a word
NUM_MERGES = 49152 - 256 - 2  # that CLIP uses of its file
PRINTED = (range(ord("!"), ord("~") + 1), range(ord("¡"), ord("¬") + 1), range(ord("®"), ord("ÿ") + 1))


def letters_of_bytes() -> dict[int, str]:
    """Return the letter that stands for each byte: its own if it can be printed, or else one after U+00FF."""
    printed = list(chain(*PRINTED))
    others = [byte for byte in range(256) if byte not in printed]
    return {byte: chr(byte) for byte in printed} | {byte: chr(256 + number) for number, byte in enumerate(others)}


def read_merges() -> list[tuple[str, str]]:
    """Return CLIP's merges in their order, from the file in open_clip's package."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    content = gzip.decompress((Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes())
    pairs = (line.split() for line in content.decode().split("\n")[1 : NUM_MERGES + 1])
    return [(first, second) for first, second in pairs]


def repair_text(text: str) -> str:
    """Return a text with wrong encodings, quotes and HTML's entities replaced; most captions have none of them."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    import ftfy

    return html.unescape(html.unescape(ftfy.fix_text(text)))


class Tokenizer:
    """CLIP's tokenizer for captions of any length. One that merges in Python takes quadratic time in a word's length.

    Attributes:
        encoder, decoder: the vocabulary, from token to number and back.
        merges: pairs of symbols that are merged into one, the first of them first.
        byte_encoder, byte_decoder: the letters that tokens are spelled in, from bytes and back.
    """

    def __init__(self, *, context_length: int) -> None:
        self.context_length = context_length
        self.byte_encoder = letters_of_bytes()
        self.merges = read_merges()
        letters = list(self.byte_encoder.values())
        merged = [first + second for first, second in self.merges]
        vocabulary = [*letters, *(f"{letter}{END_OF_WORD}" for letter in letters), *merged, *SPECIAL]
        self.encoder = {token: number for number, token in enumerate(vocabulary)}
        self.sot_token_id, self.eot_token_id = self.all_special_ids = [self.encoder[token] for token in SPECIAL]
        self._pattern = regex.compile(
            "|".join(SPECIAL) + r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE
        )
        self._cache = {token: [self.encoder[token]] for token in SPECIAL}  # which are not merged

    @cached_property
    def decoder(self) -> dict[int, str]:
        return {number: token for token, number in self.encoder.items()}

    @cached_property
    def byte_decoder(self) -> dict[str, int]:
        return {letter: byte for byte, letter in self.byte_encoder.items()}

    @cached_property
    def _model(self) -> BPE:
        return BPE(self.encoder, self.merges, end_of_word_suffix=END_OF_WORD)

    def encode(self, text: str) -> list[int]:
        """Return the numbers of a text's tokens, without start and end: repaired, unescaped, in lower case."""
        words = self._pattern.findall(" ".join(repair_text(text).split()).lower())
        return [number for word in words for number in self._merge("".join(self.byte_encoder[b] for b in word.encode()))]

    def _merge(self, word: str) -> list[int]:
        """Return the tokens of one word in letters for bytes."""
        found = self._cache.get(word)
        if found is None:
            found = [symbol.id for symbol in self._model.tokenize(word)]
            if len(word) <= LONGEST_CACHED and len(self._cache) < MOST_CACHED:
                self._cache[word] = found
        return found

    def has_token(self, word: str) -> bool:
        """Return whether a word is one token of CLIP's vocabulary, at the end of a word or inside one."""
        letters = "".join(self.byte_encoder[byte] for byte in word.casefold().encode())
        return not {letters, f"{letters}{END_OF_WORD}"}.isdisjoint(self.encoder) or word in TRANSFORMERS_SPECIAL


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
            chunks = -(-len(ids) // (tokenizer.context_length - 2))
            raise ValueError(
                f"text_encoder.new_words: {word} would get {len(ids)} vectors, one for each token of what it starts as, but "
                f"{capacity} tokens of a caption are kept; start it as fewer words, or set text_encoder.chunks={chunks}"
            )
