"""Several command lines one after another in each process that torchrun starts, which spares the imports."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ldm_train.cli.main import main
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization import sharding
from ldm_train.types import LatentBatch

training_step = NoisePredictorTraining.training_step


class PowerCut(BaseException):
    """What ends a run in the middle."""


def cut_at(step: int) -> None:
    """End the run when the shares of this step's checkpoint are written and its file is not."""
    original = sharding.write_shares

    def write_and_fail(checkpoint: dict[str, Any], *rest: Any) -> dict[str, Any]:
        written = original(checkpoint, *rest)
        if checkpoint["global_step"] == step:
            sharding.write_shares = original
            raise PowerCut
        return written

    sharding.write_shares = write_and_fail


def tell(folder: str) -> None:
    """Have every process write down what it trains on, a line a micro-batch."""

    def told_step(self: NoisePredictorTraining, batch: LatentBatch, batch_idx: int) -> dict[str, torch.Tensor]:
        line = {"step": self.global_step, "positions": batch.positions.tolist(), "seed": torch.initial_seed()}
        with Path(folder, f"{self.global_rank}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return training_step(self, batch, batch_idx)

    NoisePredictorTraining.training_step = told_step  # type: ignore[method-assign]


for job in json.loads(sys.argv[1]):
    if "cut_at" in job:
        cut_at(job["cut_at"])
    if "told" in job:
        tell(job["told"])
    try:
        main(job["words"])
    except SystemExit as ended:
        if ended.code:
            raise
    except PowerCut:
        assert "cut_at" in job
    NoisePredictorTraining.training_step = training_step  # type: ignore[method-assign]
