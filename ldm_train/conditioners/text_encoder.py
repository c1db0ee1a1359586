"""Captions as the condition, by open_clip's tokenizer and text transformers: published and frozen, or small and trained."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor

from ldm_train.conditioners.caption_encoder import CaptionEncoder
from ldm_train.conditioners.new_tokens import ExtendedEmbedding, NewWords, parse_new_words
from ldm_train.conditioners.text_tower import VOCABULARY, SmallTower, describe_states
from ldm_train.conditioners.tokenizer import Tokenizer, check_vocabulary
from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.memory import check_fits
from ldm_train.util.safe_json import Json

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer as TextTower


class TextEncoder(CaptionEncoder):
    """A CLIP text transformer (Radford et al. 2021, arXiv 2103.00020, section 2.4) as a conditioner.

    Args:
        tower: a text transformer, this package's or open_clip's.
        context_length: tokens that the tower takes at once, including start and end.
        chunks: a caption is split into at most this many chunks of tokens, each with a start and an end token, and the
            chunks' hidden states are concatenated; a longer caption is cut. L = chunks * context_length.
        pad_token: id that fills a chunk; 0 as in Stable Diffusion 2, 49407 (the end token) as in Stable Diffusion 1.
        trained: whether a run trains it together with the network; a frozen one's embeddings are cached.
        pooled: whether the embedding of the first chunk's end token becomes the conditioning's vector.
        layer: which layer's hidden states become tokens, after the final norm.
        new_words: each with the words that it starts as, a vector for each of their tokens: ["<toy>=wooden toy"].

    Attributes:
        capacity: how many tokens of a caption are kept, not counting start and end.
    """

    def __init__(
        self,
        tower: "TextTower",
        *,
        context_length: int,
        pad_token: int,
        trained: bool,
        pooled: bool,
        layer: Literal["last", "penultimate"] = "last",
        chunks: int = 1,
        new_words: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if chunks < 1:
            raise ValueError(f"text_encoder.chunks={chunks} must be at least 1")
        if context_length < 3:
            raise ValueError(
                f"text_encoder.context_length={context_length} must be at least 3: start, end and a token between them"
            )
        if layer not in ("last", "penultimate"):
            raise ValueError(f"text_encoder.layer={layer} must be last or penultimate")
        self.tower: TextTower | None = tower
        self.context_length = context_length
        self.chunks = chunks
        self.capacity = chunks * (context_length - 2)
        self.pad_token = pad_token
        self.trained = trained
        self.context_width: int = tower.width
        self.vector_width = self.context_width if pooled else None
        self.layer = layer
        # It projects to CLIP's similarity space, which is not used here.
        tower.text_projection = None
        self.requires_grad_(trained)
        if layer == "penultimate":
            tower.transformer.resblocks[-1].requires_grad_(False)
        self._tokenizer = Tokenizer(context_length=context_length)
        self.words = NewWords({}, first=VOCABULARY)
        begun = {word: self._tokenizer.encode(text) for word, text in parse_new_words(new_words).items()}
        check_vocabulary(self._tokenizer, begun, capacity=self.capacity)
        if begun:
            self._extend({word: len(ids) for word, ids in begun.items()}, [id for ids in begun.values() for id in ids])

    def _extend(self, sizes: Mapping[str, int], starts: list[int], learned: Tensor | None = None) -> None:
        """Add words, with vectors after the existing ones."""
        assert self.tower is not None
        known = {word: len(ids) for word, ids in self.words.ids.items()}
        if twice := sorted(known.keys() & sizes.keys()):
            raise ValueError(f"the text encoder already has the word {', '.join(twice)}; rename the new one")
        self.words = NewWords({**known, **sizes}, first=VOCABULARY)
        before = self.tower.token_embedding
        if isinstance(before, ExtendedEmbedding):
            rows = torch.zeros(len(starts), before.learned.shape[1]) if learned is None else learned
            starts, learned = (
                [*before.starts.tolist(), *starts],
                torch.cat([before.learned.detach(), rows.to(before.learned)]),
            )
        self.tower.token_embedding = ExtendedEmbedding(before, starts, learned)

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that decides a caption's tokens and, if the text encoder is frozen, their embeddings."""
        tokens: dict[str, Json] = {
            "kind": "clip_text_transformer",
            "context_length": self.context_length,
            "pad_token": self.pad_token,
            "chunks": self.chunks,
            "new_words": [*self.words.describe()],
        }
        return tokens if self.trained else tokens | describe_states(self.tower, self.layer, self.new_vectors())

    @property
    def computation(self) -> dict[str, Json]:
        """Everything that decides the conditioning of a caption, with the weights as they are."""
        states = describe_states(self.tower, self.layer, self.new_vectors())
        return self.identity | states | {"width": self.context_width, "pooled": self.vector_width is not None}

    def add_words(self, vectors: Mapping[str, Tensor]) -> None:
        """Add words with vectors (N, D) that textual inversion trained.

        Raises:
            ValueError: a word exists already, or its vectors have another width, are not finite, or are more than a caption
                can have.
        """
        for word, rows in vectors.items():
            if rows.ndim != 2 or rows.shape[1] != self.context_width:
                raise ValueError(
                    f"the vectors of {word} have the shape {tuple(rows.shape)}; those of this text encoder have "
                    f"(N, {self.context_width}). Use vectors that were trained for it"
                )
            if len(rows) > self.capacity:
                raise ValueError(f"{word} has {len(rows)} vectors; a caption can have at most {self.capacity} tokens")
            if not rows.isfinite().all():
                raise ValueError(f"the vectors of {word} contain NaN or infinity: the run that trained them diverged")
        sizes = {word: len(rows) for word, rows in vectors.items()}
        self._extend(sizes, [-1] * sum(sizes.values()), torch.cat(list(vectors.values())))

    def new_vectors(self) -> dict[str, Tensor]:
        """Return the vectors (N, D) of each new word."""
        if self.tower is None or not isinstance(self.tower.token_embedding, ExtendedEmbedding):
            return {}
        rows = self.tower.token_embedding.vectors.detach()
        return {word: rows[[id - VOCABULARY for id in ids]] for word, ids in self.words.ids.items()}

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return token ids, (B, L) int64."""
        rows = [self._row(self._ids(caption)) for caption in captions]
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.chunks * self.context_length)

    def count(self, captions: list[str]) -> list[int]:
        """Return how many tokens each caption has before it is cut, without start and end."""
        return [len(self._ids(caption)) for caption in captions]

    def _ids(self, caption: str) -> list[int]:
        """Return all ids of a caption, without start and end; a caption ends at a text that spells the end token."""
        parts = self.words.split_caption(caption)
        ids = [id for text, own in parts for id in (self._tokenizer.encode(text) if own is None else own)]
        end = self._tokenizer.eot_token_id
        return ids[: ids.index(end)] if end in ids else ids

    def _row(self, ids: list[int]) -> list[int]:
        """Return the ids of all chunks of one caption, concatenated."""
        start, end, size = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, self.context_length - 2
        pieces = [ids[number * size : (number + 1) * size] for number in range(self.chunks)]
        rows = [[start, *piece, end] + [self.pad_token] * (size - len(piece)) for piece in pieces]
        return [token for row in rows for token in row]

    @property
    def embedding_shape(self) -> tuple[int, ...] | None:
        """(L, D) of the hidden states; None if it is trained."""
        return None if self.trained else (self.chunks * self.context_length, self.context_width)

    def compute(self, tokens: Tensor) -> Tensor:
        """Return the hidden states (B, L, D) of token ids (B, L) after the final norm; chunks don't attend to each other."""
        assert self.tower is not None
        last_layers = 1 if self.layer == "last" else 2
        states = self.tower.forward_intermediates(
            tokens.reshape(-1, self.context_length),
            indices=last_layers,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        return states["text_intermediates"][0].reshape(*tokens.shape, self.context_width)

    def free(self) -> None:
        """Free the tower."""
        self.tower = None

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Return the conditioning of token ids (B, L), or of their cached embeddings."""
        states = (
            self.embed(captions.tokens)
            if captions.embeddings is None
            else captions.embeddings.to(self.known_states.dtype if self.tower is None else self.tower.ln_final.weight.dtype)
        )
        if self.vector_width is None:
            return Conditioning(tokens=states)
        # argmax gives the first end token; padding and other chunks repeat it.
        ends = (captions.tokens == self._tokenizer.eot_token_id).int().argmax(dim=1)
        return Conditioning(tokens=states, vector=states[torch.arange(len(ends), device=ends.device), ends])


def small(
    *,
    width: int = 128,
    layers: int = 2,
    heads: int = 4,
    context_length: int = 16,
    chunks: int = 1,
    trained: bool = True,
    pooled: bool = True,
    new_words: Sequence[str] = (),
) -> TextEncoder:
    """Build a small untrained text transformer, to be trained with the network (as in arXiv 2112.10752, section 4.3.1).

    A frozen one gets the same weights each time, because a cache belongs to one text encoder.

    Raises:
        ValueError: it does not fit in memory.
    """
    check_fits(12 * layers * width**2 + (VOCABULARY + context_length + width) * width, noun="text_encoder")
    with nullcontext() if trained else torch.random.fork_rng(devices=[]):
        if not trained:
            torch.manual_seed(0)
        tower = SmallTower(context_length=context_length, vocab_size=VOCABULARY, width=width, heads=heads, layers=layers)
    return TextEncoder(
        cast("TextTower", tower),
        context_length=context_length,
        chunks=chunks,
        pad_token=0,
        trained=trained,
        pooled=pooled,
        new_words=new_words,
    )


def clip(
    *,
    model: str,
    weights: str,
    pad_token: int,
    chunks: int = 1,
    layer: Literal["last", "penultimate"] = "last",
    trained: bool = False,
    pooled: bool = False,
    new_words: Sequence[str] = (),
) -> TextEncoder:
    """Load a published text encoder into open_clip's text transformer.

    Args:
        model: open_clip's name of the architecture, such as "ViT-L-14-quickgelu".
        weights: open_clip's name of the weights ("openai"), which are downloaded; or a folder with transformers'
            `CLIPTextModel` (also a pipeline's), a file of open_clip or of a whole model, or a name on the Hugging Face hub.

    Raises:
        ValueError: the architecture or the weights are not known, cannot be loaded, or do not fit together.
    """
    from ldm_train.conditioners.clip_tower import open_tower  # open_clip takes seconds to import

    tower, layer, note = open_tower(model, weights, layer=layer, pad_token=pad_token)
    encoder = TextEncoder(
        tower,
        context_length=tower.context_length,
        chunks=chunks,
        pad_token=pad_token,
        trained=trained,
        pooled=pooled,
        layer=layer,
        new_words=new_words,
    )
    encoder.notes = [note]
    return encoder
