"""A command line in which the second process's losses and gradients are not finite at chosen steps."""

import json
import sys
from typing import Any

from ldm_train.cli.main import main
from ldm_train.training.base_module import Examined
from ldm_train.training.module import NoisePredictorTraining

job = json.loads(sys.argv[1])
original = NoisePredictorTraining.training_step


def spoil(self: Any, batch: Any, batch_idx: int) -> Any:
    result = original(self, batch, batch_idx)
    if self.global_rank == 1 and self.global_step + 1 in job["loss"]:
        result["loss"] = result["loss"] + float("inf")  # whose gradient is what it was
        self.examined = Examined(batch.positions, self.examined.losses + float("inf"), self.examined.t)
    if self.global_rank == 1 and self.global_step + 1 in job["gradient"]:
        result["loss"] = result["loss"] + float("nan") * self.network.conv_in.weight[0].sum()
    return result


NoisePredictorTraining.training_step = spoil  # type: ignore[method-assign]
main(job["words"])
