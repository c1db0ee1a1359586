"""Average an embedding's gradient over the processes by exchanging only the rows that a batch touched.

A batch uses a few hundred of the 49,408 rows of a token embedding; all other rows of its gradient are zero on every process.
PyTorch's DistributedDataParallel (DDP) exchanges all rows.
"""

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import Tensor, nn

from ldm_train.conditioners.new_tokens import ExtendedEmbedding

EMBEDDINGS = (nn.Embedding, ExtendedEmbedding)
MIN_VALUES = 2**18  # of an embedding; exchanging fewer costs less than two more messages


def exclude_embeddings(module: nn.Module, strategy: Strategy) -> list[nn.Parameter]:
    """Keep large embeddings out of DDP's exchange, and return them, for `average_rows`; call it before DDP is built.

    Only on CPUs: a GPU would have to wait until the host knows which rows were touched.
    """
    if not isinstance(strategy, DDPStrategy) or strategy.root_device.type != "cpu":
        return []
    named = {name: p for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    layers = [layer for layer in module.modules() if isinstance(layer, EMBEDDINGS)]
    dense = [layer.weight for layer in layers if not (isinstance(layer, nn.Embedding) and layer.sparse)]
    found = {id(weight) for weight in dense if weight.numel() >= MIN_VALUES}
    excluded = {name: p for name, p in named.items() if id(p) in found}
    if len(excluded) == len(named):  # DDP refuses a module without a parameter
        return []
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, list(excluded))
    return list({id(p): p for p in excluded.values()}.values())


@torch.no_grad()
def broadcast_parameters(parameters: list[nn.Parameter]) -> None:
    """Give all processes the first one's values, as DDP does with the parameters that it exchanges."""
    for parameter in parameters:
        dist.broadcast(parameter, 0)


@torch.no_grad()
def average_rows(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient (N, D) by its mean over all processes, which all call this together.

    With two processes the bits are those of exchanging all rows.
    """
    for parameter in parameters:
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = gradient
        touched = _find_rows(gradient)
        dist.all_reduce(touched, dist.ReduceOp.MAX)
        rows = touched.nonzero().squeeze(1)
        if not len(rows):
            continue
        values = gradient[rows] / dist.get_world_size()  # before the sum, as DDP does
        dist.all_reduce(values)
        gradient[rows] = values


def _find_rows(gradient: Tensor) -> Tensor:
    """Return a byte that is not 0 for each row in which any bit is set, (N,). torch's `any` takes thirty times as long."""
    return torch.from_numpy(np.bitwise_or.reduce(gradient.contiguous().view(torch.uint8).numpy(), axis=1))
