"""Low-rank adapters on frozen layers, injected by peft; no other file imports peft."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from ldm_train.networks.cpu_kernels import FastLinear
from ldm_train.networks.layer_patterns import match_patterns
from ldm_train.networks.multihead_attention import join_attention

# Forward passes that compute the product with the weight and nothing else, so an adapter's product can be added to it.
PLAIN_FORWARDS = (nn.Linear.forward, FastLinear.forward)


@dataclass(frozen=True)
class LoRA:
    """W x + alpha / rank B A x, with W frozen and B zero at the start (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    Args:
        rank: rows of A and columns of B.
        alpha: numerator of the factor alpha / rank; None for the rank, so that the factor is 1.
        dropout: probability, on the input of A.
        dora: also train the length of each row of the sum (Liu et al. 2024, arXiv 2402.09353, eq. 5).
        targets: patterns for the names of the network's layers that get an adapter.
        text_encoder: whether the text encoder gets adapters too.
        text_targets: patterns for the names of its layers.
        init: distribution of A at the start: uniform, as in a linear layer, or gaussian with deviation 1 / rank.

    Raises:
        ValueError: a setting is out of range.
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
        """alpha with its default filled in."""
        return self.rank if self.alpha is None else self.alpha

    def attach(self, network: nn.Module, text_encoder: nn.Module, *, seed: int) -> None:
        """Freeze both modules in place, and add adapters to the network and, if asked for, to the text encoder.

        Raises:
            ValueError: a pattern matches no layer, or adapters are asked for in a text encoder that is not trained.
        """
        if self.text_encoder and not any(p.requires_grad for p in text_encoder.parameters()):
            raise ValueError(
                "adapter.text_encoder=true, but the text encoder is frozen and its embeddings are cached; set "
                "text_encoder.trained=true and encode a cache with it, or set adapter.text_encoder=false"
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
        names = match_patterns(targets, list_adaptable_layers(module), setting=setting)
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


def list_adaptable_layers(module: nn.Module) -> list[str]:
    """Return the names of the layers that can have an adapter: plain linear and convolutional layers that are trained."""
    return [
        name
        for name, layer in module.named_modules()
        if (type(layer).forward in PLAIN_FORWARDS or type(layer) is nn.Conv2d)  # peft calls the constructor of a convolution
        and any(p.requires_grad for p in layer.parameters())
    ]
