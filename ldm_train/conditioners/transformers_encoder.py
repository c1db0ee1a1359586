"""Captions as the condition, by any text encoder of `transformers`, such as T5: frozen, its embeddings are cached."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ldm_train.conditioners.caption_encoder import CaptionEncoder
from ldm_train.types import CaptionBatch, Conditioning
from ldm_train.util.safe_json import Json

if TYPE_CHECKING:
    from ldm_train.conditioners.transformers_loading import TextModel

NO_TOKEN = -1  # the id of padding; no tokenizer has it, so that padding is told from any token of a caption


class TransformersEncoder(CaptionEncoder):
    """A frozen text encoder of `transformers` as a conditioner.

    Args:
        text_model: the model with its tokenizer.
        max_length: L, tokens of a caption, including the tokenizer's special ones; a longer caption is cut.
        layer: which hidden states become tokens, counted from the end: -1 the model's output, -2 what its last layer is
            given, without a final norm (as in SDXL).
        pooled: whether the model's pooled output becomes the conditioning's vector; the mean of the tokens if it has none.
        mask: whether padding is hidden, from the model's attention and from the network's. Without, both see padding.

    Raises:
        ValueError: `max_length` or `layer` are outside of what the model has, or it has no token to pad with.
    """

    trained = False

    def __init__(
        self, text_model: "TextModel", *, max_length: int, layer: int = -1, pooled: bool = False, mask: bool = True
    ) -> None:
        super().__init__()
        special, longest = text_model.num_special, text_model.longest
        if not special < max_length <= longest:
            raise ValueError(
                f"text_encoder.max_length={max_length} must be from {special + 1} to {longest}, the most tokens that "
                f"{text_model.kind} takes; the tokenizer adds {special}"
            )
        assert text_model.model is not None
        self.model: torch.nn.Module | None = text_model.model.requires_grad_(False).eval()
        self._text_model = text_model
        self.max_length = max_length
        self.capacity = max_length - special
        self.layer, self.pooled, self.mask = layer, pooled, mask
        self._padding = text_model.padding(needed=not mask)
        self._fingerprint: str | None = None
        states, vector = self._states(self.tokenize([""]))
        self.context_width: int = states.shape[2]
        self.vector_width: int | None = None if vector is None else vector.shape[1]

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """The numbers of all tokens, and those of the vector."""
        return (self.max_length * self.context_width + (self.vector_width or 0),)

    @property
    def identity(self) -> dict[str, Json]:
        """Everything that decides a caption's tokens and their embeddings."""
        return {
            "kind": "transformers",
            "max_length": self.max_length,
            "layer": self.layer,
            "pooled": self.pooled,
            "mask": self.mask,
            **self._text_model.identity,
        }

    @property
    def computation(self) -> dict[str, Json]:
        """Everything that decides the conditioning of a caption, all of which decides its embeddings."""
        return self.identity | {"width": self.context_width}

    def tokenize(self, captions: list[str]) -> Tensor:
        """Return token ids, (B, L) int64; -1 for padding."""
        rows = self._text_model.read_ids(captions, max_length=self.max_length)
        # Of a tokenizer without special tokens, the empty caption has none, and attention needs one.
        rows = [row or [self._padding] for row in rows]
        return torch.tensor([row + [NO_TOKEN] * (self.max_length - len(row)) for row in rows], dtype=torch.int64).view(
            len(rows), self.max_length
        )

    def count(self, captions: list[str]) -> list[int]:
        """Return how many tokens each caption has before it is cut, without special ones."""
        return [len(row) - self._text_model.num_special for row in self._text_model.read_ids(captions, max_length=None)]

    def train(self, mode: bool = True) -> "TransformersEncoder":
        """Keep the model as it draws: a frozen one has no dropout."""
        super().train(mode)
        if self.model is not None:
            self.model.eval()
        return self

    def compute(self, tokens: Tensor) -> Tensor:
        """Return the hidden states of token ids (B, L) and the vector, in one row of numbers, (B, L * D + V)."""
        states, vector = self._states(tokens)
        return torch.cat([states.flatten(1), *([] if vector is None else [vector])], dim=1)

    def _states(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return hidden states (B, L, D), 0 where padding is hidden, and the vector (B, V) if there is one."""
        assert self.model is not None
        there = tokens != NO_TOKEN
        output = self.model(
            input_ids=torch.where(there, tokens, self._padding),
            attention_mask=there.long() if self.mask else None,
            output_hidden_states=self.layer != -1,
        )
        states: Tensor = output.last_hidden_state
        if self.layer != -1:
            hidden = output.hidden_states
            if not -len(hidden) <= self.layer < 0:
                raise ValueError(f"text_encoder.layer={self.layer} must be from -{len(hidden)} to -1 for this model")
            states = hidden[self.layer]
        if self.mask:
            states = states * there[:, :, None]
        vector = self._pool(output, states, there if self.mask else torch.ones_like(there)) if self.pooled else None
        return states, vector

    @staticmethod
    def _pool(output: object, states: Tensor, there: Tensor) -> Tensor:
        """Return CLIP's projected output, or the model's pooled one, or else the mean of the tokens."""
        for name in ("text_embeds", "pooler_output"):
            found = getattr(output, name, None)
            if isinstance(found, Tensor):
                return found
        return (states * there[:, :, None]).sum(1) / there.sum(1, keepdim=True)

    def free(self) -> None:
        """Free the model."""
        self._text_model.model = None
        self.model = None

    def forward(self, captions: CaptionBatch) -> Conditioning:
        """Return the conditioning of token ids (B, L), or of their cached embeddings."""
        if captions.embeddings is None:
            rows = self.embed(captions.tokens)
        else:
            like = self.known_states if self.model is None else next(self.model.parameters())
            rows = captions.embeddings.to(like.dtype)
        end = self.max_length * self.context_width
        return Conditioning(
            tokens=rows[:, :end].unflatten(1, (self.max_length, self.context_width)),
            mask=captions.tokens != NO_TOKEN if self.mask else None,
            vector=rows[:, end:] if self.pooled else None,
        )


def load_transformers(
    *,
    weights: str,
    subfolder: str | None = None,
    tokenizer: str | None = None,
    max_length: int = 77,
    layer: int = -1,
    pooled: bool = False,
    mask: bool = True,
) -> TransformersEncoder:
    """Load a text encoder of `transformers` with its tokenizer.

    Args:
        weights: a folder in transformers' layout with safetensors, or a name on the Hugging Face hub.
        subfolder: of the weights, such as "text_encoder_2" of a pipeline.
        tokenizer: a folder or a name on the hub; None for the pipeline's or the one next to the weights.

    Raises:
        ValueError: either cannot be loaded, lacks weights, or is no text encoder; or as for `TransformersEncoder`.
    """
    from ldm_train.conditioners.transformers_loading import open_text_model  # transformers takes seconds to import

    text_model = open_text_model(weights, subfolder=subfolder, tokenizer=tokenizer, pooled=pooled)
    encoder = TransformersEncoder(text_model, max_length=max_length, layer=layer, pooled=pooled, mask=mask)
    encoder.notes = [
        f"text_encoder.weights={weights}: transformers' {text_model.kind}, width {encoder.context_width}, "
        f"{max_length} tokens of a caption"
    ]
    return encoder
