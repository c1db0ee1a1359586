"""Record where a network looks for each token, while it is called and without changing what it computes.

Cross-attention gives each position of a feature map a share of each token, softmax(q k^T / sqrt(d)). The network computes it
inside a fast kernel that does not return it, so it is computed once more from the same inputs, next to the network's own.
"""

import math
from collections import defaultdict
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ldm_train.networks.attention import Attention, SpatialTransformer


def list_attending(network: nn.Module) -> list[SpatialTransformer]:
    """Return the blocks of a network that attend to tokens, without its ControlNet's; none of a network of other parts."""
    return [
        one
        for name, one in network.named_modules()
        if isinstance(one, SpatialTransformer) and one.cross_attention is not None and not name.startswith("control.")
    ]


@torch.no_grad()
def compute_shares(attention: Attention, x: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
    """Return the share of each token at each position, the mean over heads, (B, N, L) float32; each row sums to 1.

    Args:
        x, context, mask: what the attention is called with.
    """
    q, k = attention.to_q(x), attention.to_kv(context).chunk(2, dim=-1)[0]
    q, k = (part.unflatten(-1, (-1, attention.head_size)).transpose(1, 2).float() for part in (q, k))
    scores = q @ k.transpose(-1, -2) / math.sqrt(attention.head_size)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -math.inf)
    return scores.softmax(-1).mean(1)


class AttentionRecorder:
    """Record the cross-attention of the first examples of each call, in a `with` block.

    Args:
        network: the network that is called.
        groups: 1 where a token belongs to a group, such as those of a word, (B, L, G); B is how many examples are recorded.
            Further tokens that the network attends to, such as those of conditions, belong to the last group.

    Attributes:
        steps: for each closed step, the mean over layers and calls for each (height, width) of the maps, (B, G, height,
            width) on the CPU.
    """

    def __init__(self, network: nn.Module, groups: Tensor) -> None:
        self.blocks = list_attending(network)
        self.groups = groups
        self.steps: list[dict[tuple[int, int], Tensor]] = []
        self._open: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        self._shape = (0, 0)
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> Self:
        for block in self.blocks:
            attention = [block.self_attention] * block.only_cross + [block.cross_attention]
            self._hooks.append(block.register_forward_pre_hook(self._note_shape))
            self._hooks += [one.register_forward_hook(self._record) for one in attention if one is not None]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def close_step(self) -> None:
        """End a step: the calls since the last one are averaged."""
        self.steps.append({shape: torch.stack(maps).mean(0) for shape, maps in self._open.items()})
        self._open.clear()

    def _note_shape(self, block: nn.Module, inputs: tuple[Tensor | None, ...]) -> None:
        assert inputs[0] is not None
        self._shape = (inputs[0].shape[2], inputs[0].shape[3])

    def _record(self, attention: nn.Module, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        x, context, mask = inputs
        assert isinstance(attention, Attention)
        assert x is not None
        assert context is not None
        count = len(self.groups)
        shares = compute_shares(attention, x[:count], context[:count], None if mask is None else mask[:count])
        groups = pad(self.groups, (0, 0, 0, shares.shape[2] - self.groups.shape[1]))
        groups[:, self.groups.shape[1] :, -1] = 1
        grouped = (shares @ groups.to(shares)).transpose(1, 2)
        self._open[self._shape].append(grouped.unflatten(2, self._shape).cpu())
