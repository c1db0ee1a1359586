"""What torchrun starts: the same features shared by the ranks to torchmetrics and to us, then command lines."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

from ldm_train.cli.main import main
from ldm_train.metrics.sets import compare_features
from ldm_train.training.validation.compared import ComparisonSet, compute_over_ranks

COUNT, SIZE = 48, 12


class Passing(nn.Module):
    num_features = SIZE

    def forward(self, features: Tensor) -> Tensor:
        return features


def sets() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    real, drawn = (torch.randn(COUNT, SIZE, generator=draw, dtype=torch.float64) for _ in range(2))
    return real, drawn * 1.3 + 0.4


def measure_with_torchmetrics(real: Tensor, drawn: Tensor, rank: int) -> dict[str, float]:
    """By torchmetrics, each rank having every second picture."""
    kid = KernelInceptionDistance(feature=Passing(), subsets=1, subset_size=COUNT).set_dtype(torch.float64)
    fid = FrechetInceptionDistance(feature=Passing(), normalize=True)
    for metric in (kid, fid):
        metric.update(real[rank::2], real=True)
        metric.update(drawn[rank::2], real=False)
    return {"kid": float(kid.compute()[0]), "fid": float(fid.compute())}


def measure_here(real: Tensor, drawn: Tensor, rank: int) -> dict[str, float]:
    """By the portions that each rank computes; five, so that one rank has one more."""
    portions = torch.arange(COUNT).split(10)
    compared = ComparisonSet(portions, [(8, 8)] * len(portions), [""] * COUNT, [None] * COUNT, held_out=True)
    trainer = SimpleNamespace(world_size=2, global_rank=rank, strategy=SimpleNamespace(root_device=torch.device("cpu")))

    def features(of: Tensor) -> Tensor:
        found = compute_over_ranks(compared, {"x": SIZE}, lambda number: {"x": of[portions[number]].float()}, trainer)  # type: ignore[arg-type]
        return found["x"]

    return compare_features(features(real), features(drawn))


if __name__ == "__main__":
    jobs, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    found = {"theirs": measure_with_torchmetrics(*sets(), rank), "ours": measure_here(*sets(), rank)}
    (out / f"{rank}.json").write_text(json.dumps(found))
    for words in jobs:
        try:
            main(words)
        except SystemExit as ended:
            if ended.code:
                raise
