"""Captions to conditioning, by open_clip's tokenizer and text transformers: published and frozen, or small and trained."""

from pathlib import Path
from typing import Literal

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from ldm_train.types import Captions, Conditioning

VOCABULARY = 49408


class TextEncoder(nn.Module):
    """A CLIP text transformer (Radford et al. 2021, arXiv 2103.00020, section 2.4) as a conditioner.

    Args:
        tower: open_clip's text transformer.
        context_length: L, tokens of a caption; longer ones are cut, the end token kept.
        pad_token: what fills the rest; 0 as Stable Diffusion 2 was trained, 49407 (the end token) as Stable Diffusion 1.
        trained: whether a run trains it along with the network; a frozen one's embeddings are cached.
        pooled: also give the end token's embedding, as the conditioning's vector.
        layer: which hidden states become tokens, both through the final norm.
    """

    def __init__(
        self,
        tower: TextTransformer,
        *,
        context_length: int,
        pad_token: int,
        trained: bool,
        pooled: bool,
        layer: Literal["last", "penultimate"] = "last",
    ) -> None:
        super().__init__()
        if layer not in ("last", "penultimate"):
            raise ValueError(f"text_encoder.layer={layer} must be last or penultimate")
        self.tower = tower
        self.context_length = context_length
        self.pad_token = pad_token
        self.trained = trained
        self.context_width: int = tower.width
        self.vector_width = self.context_width if pooled else None
        self.tokenization = {"context_length": context_length, "pad_token": pad_token}
        self.layer = layer
        # Its output would be the similarity space of CLIP, which nothing here uses.
        self.tower.text_projection = None
        self.requires_grad_(trained)
        if layer == "penultimate":
            self.tower.transformer.resblocks[-1].requires_grad_(False)
        self._tokenizer = open_clip.SimpleTokenizer(context_length=context_length)

    def tokenize(self, captions: list[str]) -> Tensor:
        """Token ids, (B, L) int64."""
        tokens = self._tokenizer(captions, context_length=self.context_length)
        ends = tokens.argmax(dim=1, keepdim=True)
        after_end = torch.arange(self.context_length) > ends
        return tokens.masked_fill(after_end, self.pad_token)

    def embed(self, tokens: Tensor) -> Tensor:
        """Hidden states (B, L, D) of token ids (B, L), through the final norm."""
        last_layers = 1 if self.layer == "last" else 2
        states = self.tower.forward_intermediates(
            tokens, indices=last_layers, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        return states["text_intermediates"][0]

    def forward(self, captions: Captions) -> Conditioning:
        """Conditioning of tokens (B, L), or of their cached embeddings."""
        states = (
            self.embed(captions.tokens)
            if captions.embeddings is None
            else captions.embeddings.to(self.tower.ln_final.weight.dtype)
        )
        if self.vector_width is None:
            return Conditioning(tokens=states)
        # The end token has the largest id, and is the first to have it where padding repeats it.
        ends = captions.tokens.argmax(dim=1)
        return Conditioning(tokens=states, vector=states[torch.arange(len(ends), device=ends.device), ends])


def small(
    *, width: int = 128, layers: int = 2, heads: int = 4, context_length: int = 16, trained: bool = True, pooled: bool = True
) -> TextEncoder:
    """A small untrained text transformer, to be trained with the network (as arXiv 2112.10752, section 4.3.1, did)."""
    tower = TextTransformer(
        context_length=context_length, vocab_size=VOCABULARY, width=width, heads=heads, layers=layers, output_dim=width
    )
    return TextEncoder(tower, context_length=context_length, pad_token=0, trained=trained, pooled=pooled)


def clip(
    *,
    model: str,
    weights: str,
    pad_token: int,
    layer: Literal["last", "penultimate"] = "last",
    trained: bool = False,
    pooled: bool = False,
) -> TextEncoder:
    """A published open_clip text tower.

    Args:
        model: open_clip's name of the architecture, such as "ViT-L-14-quickgelu".
        weights: open_clip's name of the weights ("openai"), downloaded, or a local file.

    Raises:
        ValueError: an unknown architecture or weights, or no way to get them.
    """
    if model not in open_clip.list_models():
        raise ValueError(f"text_encoder.model={model} is not known to open_clip; `open_clip.list_models()` names them")
    if not Path(weights).is_file() and (model, weights) not in open_clip.list_pretrained():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise ValueError(f"text_encoder.weights={weights} is neither a file nor weights of {model} (there are: {tags})")
    try:
        tower = open_clip.create_model(model, pretrained=weights, force_custom_text=True).text
    except Exception as error:  # whatever the download or the file's reader raises
        raise ValueError(
            f"cannot load text_encoder.weights={weights}: {str(error).splitlines()[0]}; give a local file"
        ) from error
    if not isinstance(tower, TextTransformer) or tower.vocab_size != VOCABULARY:
        raise ValueError(f"text_encoder.model={model} has no text transformer with CLIP's vocabulary; choose one that has")
    return TextEncoder(
        tower, context_length=tower.context_length, pad_token=pad_token, trained=trained, pooled=pooled, layer=layer
    )
