"""A text transformer that is trained with the network: open_clip's, written down, since importing open_clip takes seconds.

It has open_clip's names of weights, draws the same first weights from the same generator, and computes the same bits.
"""

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ldm_train.util.safe_json import Json
from ldm_train.weights.fingerprint import digest_tensors

if TYPE_CHECKING:
    from open_clip.transformer import TextTransformer as TextTower  # of which `SmallTower` has what is used here

VOCABULARY = 49408
ACTIVATION_NAMES = {"QuickGELU()": "quick_gelu", "GELU(approximate='none')": "gelu"}  # by the modules' repr


class Norm(nn.LayerNorm):
    """A layer norm in the type of its input, also under autocast, which would return float32."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(input.dtype)


class Block(nn.Module):
    """Self-attention, then a perceptron with a hidden layer of 4D, each after a norm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = Norm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = Norm(width)
        layers = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return x (B, L, D) after the block; the mask (L, L) is added to the logits of attention."""
        normed = self.ln_1(x)
        x = x + self._attend(normed, mask)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return self-attention of x (B, L, D), on a CPU in x's type: its backward pass in bfloat16 is slow."""
        with torch.autocast("cpu", enabled=False) if x.device.type == "cpu" else nullcontext():
            out: Tensor = self.attn(x, x, x, need_weights=False, attn_mask=mask.to(x.dtype))[0]
        return out


class Blocks(nn.Module):
    """The layers of a tower, under open_clip's name."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))


class SmallTower(nn.Module):
    """A causal text transformer (Radford et al. 2021, arXiv 2103.00020, section 2.4) with random weights.

    Args:
        width, layers, heads: of the transformer.
        context_length: tokens of a text, L.
    """

    attn_mask: Tensor

    def __init__(self, *, vocab_size: int, width: int, layers: int, heads: int, context_length: int) -> None:
        super().__init__()
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.width = width
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.transformer = Blocks(width, heads, layers)
        self.ln_final = Norm(width)
        mask = torch.full((context_length, context_length), -torch.inf).triu_(1)
        self.register_buffer("attn_mask", mask, persistent=False)
        self.text_projection: nn.Parameter | None = nn.Parameter(torch.empty(width, width))
        self._draw_weights(layers)

    def _draw_weights(self, layers: int) -> None:
        """Draw the weights in open_clip's order, also those of a projection that is not used: a seed gives the same run."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        narrow = self.width**-0.5
        for block in self.transformer.resblocks:
            nn.init.normal_(block.get_parameter("attn.in_proj_weight"), std=narrow)
            nn.init.normal_(block.get_parameter("attn.out_proj.weight"), std=narrow * (2 * layers) ** -0.5)
            nn.init.normal_(block.get_parameter("mlp.c_fc.weight"), std=(2 * self.width) ** -0.5)
            nn.init.normal_(block.get_parameter("mlp.c_proj.weight"), std=narrow * (2 * layers) ** -0.5)
        assert self.text_projection is not None
        nn.init.normal_(self.text_projection, std=narrow)

    def forward_intermediates(
        self, text: Tensor, indices: int, *, normalize_intermediates: bool, intermediates_only: bool, output_fmt: str
    ) -> dict[str, list[Tensor]]:
        """Return the hidden states (B, L, D) of the last `indices` layers for token ids (B, L), normed."""
        assert normalize_intermediates
        assert intermediates_only
        assert output_fmt == "NLC"
        x = self.token_embedding(text) + self.positional_embedding[: text.shape[1]]
        mask, states = self.attn_mask[: text.shape[1], : text.shape[1]], []
        for block in self.transformer.resblocks:
            x = block(x, mask)
            states.append(x)
        return {"text_intermediates": [self.ln_final(state) for state in states[-indices:]]}


def describe_states(tower: "TextTower | None", layer: str, new_vectors: Mapping[str, Tensor]) -> dict[str, Json]:
    """Return everything that decides the hidden states of tokens: settings, the weights of the layers used, new vectors."""
    assert tower is not None
    count = len(tower.transformer.resblocks) - (layer == "penultimate")
    settings, weights = describe_tower(tower, layers=count)
    words: dict[str, Json] = {"new_vectors": digest_tensors(new_vectors)} if new_vectors else {}
    return {**settings, "fingerprint": digest_tensors(weights), **words}


def describe_tower(tower: "TextTower", *, layers: int) -> tuple[dict[str, Json], dict[str, Tensor]]:
    """Return the settings and the weights that decide the hidden states of the first layers of a tower.

    The settings are those that no weight's name or shape shows.
    """
    unused = tuple(f"transformer.resblocks.{number}." for number in range(layers, len(tower.transformer.resblocks)))
    left_out = ("text_projection", "token_embedding.learned", *unused)
    weights = {name: tensor for name, tensor in tower.state_dict().items() if not name.startswith(left_out)}
    block = tower.transformer.resblocks[0]
    settings: dict[str, Json] = {
        "layers": layers,
        "heads": int(block.attn.num_heads),
        "activation": ACTIVATION_NAMES.get(str(block.mlp.gelu), str(block.mlp.gelu)),
        "norm_eps": [float(norm.eps) for norm in (block.ln_1, block.ln_2, tower.ln_final)],
        "causal": tower.attn_mask is not None,
    }
    return settings, weights
