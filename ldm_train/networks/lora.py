"""Low-rank adapters beside layers that stay as they are, by peft, which nothing else here knows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from ldm_train.networks.cpu_kernels import Linear
from ldm_train.networks.layer_patterns import chosen
from ldm_train.networks.multihead_attention import join_attention

# What is computed is the product with the weight and no more, so that an adapter's product can be added to it.
PLAIN = (nn.Linear.forward, Linear.forward)


@dataclass(frozen=True)
class LoRA:
    """W x + alpha / rank B A x, where B starts at zero and W stays (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    Args:
        rank: rows of A and columns of B.
        alpha: None for the rank, so that the factor is 1.
        dropout: of what A is given.
        dora: train the length of each of the sum's rows too (Liu et al. 2024, arXiv 2402.09353, eq. 5).
        targets: patterns of the names of the network's layers that have an adapter.
        text_encoder: whether the text encoder has them too.
        text_targets: of which of its layers.
        init: A's numbers: uniform as a linear layer's, or gaussian with a deviation of 1 / rank.

    Raises:
        ValueError: values that no adapter can have.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    dora: bool = False
    targets: Sequence[str] = ("*_attention.to_*",)
    text_encoder: bool = False
    text_targets: Sequence[str] = ("*.attn.*",)
    init: Literal["uniform", "gaussian"] = "uniform"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"adapter.rank={self.rank} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"adapter.dropout={self.dropout} must be from 0 to below 1")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"adapter.alpha={self.alpha} must be above 0, or null for the rank")
        if self.init not in ("uniform", "gaussian"):
            raise ValueError(f"adapter.init={self.init} must be uniform or gaussian")

    @property
    def factor_alpha(self) -> float:
        return self.rank if self.alpha is None else self.alpha

    def attach(self, network: nn.Module, text_encoder: nn.Module, *, seed: int) -> None:
        """Freeze both in place, and put adapters into the network and, where it shall have them, the text encoder.

        Raises:
            ValueError: a pattern that matches no layer, or a text encoder that is not trained.
        """
        if self.text_encoder and not any(p.requires_grad for p in text_encoder.parameters()):
            raise ValueError(
                "adapter.text_encoder=true is of a text encoder whose embeddings are cached; set text_encoder.trained=true "
                "for one that is computed in training, with a cache that was encoded so, or adapter.text_encoder=false"
            )
        self._inject(network, self.targets, setting="adapter.targets", seed=seed)
        if self.text_encoder:
            self._inject(text_encoder, self.text_targets, setting="adapter.text_targets", seed=seed)
        else:
            text_encoder.requires_grad_(False)

    def _inject(self, module: nn.Module, targets: Sequence[str], *, setting: str, seed: int) -> None:
        if any(isinstance(layer, LoraLayer) for layer in module.modules()):
            return
        join_attention(module)
        names = chosen(targets, layers(module), setting=setting)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.factor_alpha,  # type: ignore[arg-type]
            lora_dropout=self.dropout,
            use_dora=self.dora,
            init_lora_weights=True if self.init == "uniform" else "gaussian",
            target_modules="|".join(map(re.escape, names)),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, module)


def layers(module: nn.Module) -> list[str]:
    """The names of what can have an adapter: plain layers that are trained."""
    return [
        name
        for name, layer in module.named_modules()
        if (type(layer).forward in PLAIN or type(layer) is nn.Conv2d)  # peft calls the constructor of a convolution
        and any(p.requires_grad for p in layer.parameters())
    ]
