"""One of several processes that compare the exchange of touched rows with DDP's exchange of all rows.

python rows_on_ranks.py RANK WORLD_SIZE FILE
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ldm_train.training.optimization.row_exchange import average_rows, broadcast_parameters, exclude_embeddings

ROWS, WIDTH = 4096, 64
TOKENS = [[[1, 7, 7], [9, 7, 4095]], [[2, 7, 1], [1, 3, 9]], [[5, 5, 5], [0, 9, 9]]]  # of each rank, by micro-batch


class Texts(nn.Module):
    """A small text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ROWS, WIDTH)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the mean output for tokens (L,)."""
        out: Tensor = self.out(self.embedding(tokens)).square().mean()
        return out


def gradients(rank: int, *, by_rows: bool, spoiled: bool = False) -> list[Tensor]:
    """Gradients of two micro-batches, and the weights that they are of."""
    torch.manual_seed(rank)  # so that the processes start apart
    module = Texts().double()
    strategy: Any = DDPStrategy(accelerator=SimpleNamespace(), parallel_devices=[torch.device("cpu")])  # type: ignore[arg-type]
    embeddings = exclude_embeddings(module, strategy) if by_rows else []
    assert len(embeddings) == by_rows
    wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)
    broadcast_parameters(embeddings)
    first, second = (torch.tensor(tokens) for tokens in TOKENS[rank])
    with wrapped.no_sync():
        wrapped(first).backward()
    loss = wrapped(second)
    (loss * float("nan") if spoiled and rank == 1 else loss).backward()
    average_rows(embeddings)
    return [tensor for p in module.parameters() for tensor in (p.detach(), p.grad) if tensor is not None]


def main() -> None:
    rank, count, file = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    rows, full = (gradients(rank, by_rows=by_rows) for by_rows in (True, False))
    for actual, expected in zip(rows, full, strict=True):
        assert torch.equal(actual, expected) if count == 2 else torch.allclose(actual, expected, rtol=1e-14, atol=0)
    touched = rows[1].ne(0).any(dim=1).nonzero().squeeze(1).tolist()
    assert touched == sorted({token for tokens in TOKENS[:count] for part in tokens for token in part})
    bad = gradients(rank, by_rows=True, spoiled=True)[1]
    assert bad[9].isnan().all(), "a value that is not finite reaches all ranks"
    assert not bad[8].isnan().any()
    nothing = nn.Parameter(torch.zeros(4, 2))
    nothing.grad = torch.zeros(4, 2)
    average_rows([nothing])
    assert not nothing.grad.any()
    everywhere = [torch.empty_like(rows[1]) for _ in range(count)]
    dist.all_gather(everywhere, rows[1])
    assert all(torch.equal(other, rows[1]) for other in everywhere)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
