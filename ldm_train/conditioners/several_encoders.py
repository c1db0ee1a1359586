"""Captions as the condition, by several text encoders at once, as in SDXL and Stable Diffusion 3."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ldm_train.conditioners.caption_encoder import CaptionEncoder, count_stored, find_stored_shape
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.own_tokens import tokenize
from ldm_train.util.safe_json import Json

FINGERPRINT = "fingerprint"  # of an encoder's weights, in its computation


class SeveralEncoders(CaptionEncoder):
    """Several text encoders, each of which reads every caption; their tokens are joined.

    - Joined along the tokens (as in Esser et al. 2024, arXiv 2403.03206, appendix B): L is the sum of theirs, D the
      largest; narrower tokens are filled with zeros.
    - Joined along the width (as in SDXL, Podell et al. 2023, arXiv 2307.01952, section 2.1): D is the sum of theirs, and
      all must have the same L.

    The vectors of those that have one are concatenated. Frozen ones are cached, and others are trained with the network.

    Args:
        encoders: the text encoders.
        join: what their tokens are joined along.

    Raises:
        ValueError: there is none, one of them is no text encoder or has new words, or they cannot be joined.
    """

    def __init__(self, *, encoders: Sequence[CaptionEncoder], join: Literal["tokens", "width"] = "tokens") -> None:
        super().__init__()
        for number, encoder in enumerate(encoders):
            check_encoder(encoder, f"text_encoder.encoders[{number}]")
        if not encoders:
            raise ValueError("text_encoder.encoders=[] names no text encoder, as in [clip_vit_l_14,clip_vit_h_14]")
        if join not in ("tokens", "width"):
            raise ValueError(f"text_encoder.join={join} must be tokens or width")
        self.join = join
        self.encoders = nn.ModuleList(encoders)
        self.notes = [note for encoder in encoders for note in encoder.notes]
        self.lengths = [encoder.tokenize([""]).shape[1] for encoder in encoders]
        if join == "width" and len(set(self.lengths)) > 1:
            raise ValueError(
                f"text_encoder.join=width needs as many tokens of each encoder, and they have {self.lengths}; set their "
                "max_length, context_length or chunks, or text_encoder.join=tokens"
            )
        self.sizes = [count_stored(encoder) for encoder in encoders]
        self.trained = any(encoder.trained for encoder in encoders)
        widths = [encoder.context_width or 0 for encoder in encoders]
        self.context_width: int = max(widths) if join == "tokens" else sum(widths)
        self.vector_width = sum(encoder.vector_width or 0 for encoder in encoders) or None
        self.capacity = min(encoder.capacity for encoder in encoders)

    @property
    def each(self) -> list[CaptionEncoder]:
        """The encoders in their order."""
        return [encoder for encoder in self.encoders if isinstance(encoder, CaptionEncoder)]

    @property
    def embedding_shape(self) -> tuple[int, ...] | None:
        """The numbers of all frozen ones; None if there is none."""
        return (sum(self.sizes),) if any(self.sizes) else None

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that decides a caption's tokens and the embeddings of the frozen ones; not how these are joined."""
        own = {str(number): encoder.identity for number, encoder in enumerate(self.each)}
        return {"kind": "several", "encoders": dict(own)}

    @property
    def computation(self) -> dict[str, Json]:
        """Everything but trained weights that decides the conditioning of a caption."""
        own = {
            str(number): {
                name: value for name, value in encoder.computation.items() if name != FINGERPRINT or not encoder.trained
            }
            for number, encoder in enumerate(self.each)
        }
        return {"kind": "several", "join": self.join, "encoders": dict(own)}

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return the token ids of each encoder after the other, (B, sum of L) int64."""
        return torch.cat([tokenize(encoder, captions) for encoder in self.each], dim=1)

    def count(self, captions: list[str]) -> list[int]:
        """Return how many tokens each caption has for the encoder that cuts most of it, or else least has left.

        They are counted as if that one had the smallest capacity of all, `capacity`.
        """
        counts = [[count - encoder.capacity for count in encoder.count(captions)] for encoder in self.each]
        return [max(0, self.capacity + max(row)) for row in zip(*counts, strict=True)]

    def compute(self, tokens: Tensor) -> Tensor:
        """Return what is stored of captions with these ids: that of the frozen encoders, in one row of numbers."""
        parts = zip(self.each, tokens.split(self.lengths, dim=1), self.sizes, strict=True)
        return torch.cat([encoder.embed(own).flatten(1) for encoder, own, size in parts if size], dim=1)

    def keep_only(self, captions: Sequence[str]) -> None:
        """Let each frozen encoder embed these captions and free its weights."""
        for encoder, size in zip(self.each, self.sizes, strict=True):
            if size:
                encoder.keep_only(captions)

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Return the conditioning of token ids, or of the frozen encoders' cached embeddings."""
        ids = captions.tokens.split(self.lengths, dim=1)
        stored: list[Tensor | None] = [None] * len(ids)
        if captions.embeddings is not None:
            rows = zip(captions.embeddings.split(self.sizes, dim=1), map(find_stored_shape, self.each), strict=True)
            stored = [None if shape is None else row.unflatten(1, shape) for row, shape in rows]
        batches = [CaptionBatch(own, row) for own, row in zip(ids, stored, strict=True)]
        parts = [encoder(batch) for encoder, batch in zip(self.each, batches, strict=True)]
        return join_tokens(parts, self.context_width) if self.join == "tokens" else join_widths(parts)


def check_encoder(encoder: object, setting: str) -> None:
    """Raise unless an encoder can be one of several.

    Raises:
        ValueError: it is no text encoder, or has new words, whose vectors have no file of several encoders.
    """
    if not isinstance(encoder, CaptionEncoder):
        raise ValueError(
            f"{setting} is a {type(encoder).__name__}, and must be a text encoder: an option that reads text, or a class "
            "derived from ldm_train.conditioners.CaptionEncoder"
        )
    if isinstance(encoder, TextEncoder) and encoder.words.ids:
        raise ValueError(
            f"{setting}.new_words: new words are learned with one text encoder; leave them out, or train with this one alone"
        )


def join_tokens(parts: Sequence[Conditioning], width: int) -> Conditioning:
    """Return conditionings joined along the tokens, narrower ones filled with zeros up to a width."""
    for part in parts:
        if part.tokens is not None:
            part.tokens = pad(part.tokens, (0, width - part.tokens.shape[2]))
    return Conditioning.join(parts)


def join_widths(parts: Sequence[Conditioning]) -> Conditioning:
    """Return conditionings joined along the width; a token is attended to if any encoder's is."""
    joined = Conditioning.join([Conditioning(vector=part.vector) for part in parts])
    tokens = [part.tokens for part in parts if part.tokens is not None]
    masks = [part.mask for part in parts if part.mask is not None]
    joined.tokens = torch.cat([one.to(tokens[0].dtype) for one in tokens], dim=2)
    joined.mask = torch.stack(masks).any(0) if len(masks) == len(parts) else None
    return joined
