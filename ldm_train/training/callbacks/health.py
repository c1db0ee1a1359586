"""The health of a run: how much its steps change the weights, and how it uses time and memory."""

import sys
from pathlib import Path
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from ldm_train.training.base_module import Training
from ldm_train.training.callbacks.block_norms import group_by_block, sum_squared_differences, sum_squares
from ldm_train.training.callbacks.spent import DATA, TimeSpent
from ldm_train.training.callbacks.step_log import is_logged, step_ended
from ldm_train.training.callbacks.utilisation import Utilisation
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import TableCell, log_histogram, log_scalars, log_table
from ldm_train.training.optimization.sharded_tensors import is_sharded, local_part

HISTOGRAM_STEPS = 100  # a histogram of gradient norms is logged once there are so many steps


class Health(Callback):
    """Log `health/…`, which a repeated run reproduces, and `time/…`, which depends on the machine.

    Args:
        every: optimizer steps between; the first and the last step are logged too.
        ema: must run before this callback; None if nothing is averaged.
        spent: time of the run's other callbacks.
        utilisation: counts the operations of a micro-batch.
    """

    def __init__(self, *, every: int, ema: EMA | None, spent: TimeSpent, utilisation: Utilisation) -> None:
        self.every = every
        self.ema = ema
        self.spent = spent
        self.utilisation = utilisation
        self.steps = 0  # since the last logged step
        self.clipped: Tensor | int = 0  # how many of those steps were clipped
        self._before: dict[str, Tensor] = {}
        self._norms: list[Tensor] = []
        self.lines = 0  # logged steps in all
        self.ratios: dict[str, float] = {}  # each block's relative change, summed over the logged steps
        self._last: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._started = self._since = (trainer.global_step, self.spent.clock(), 0.0)
        self._trained = pl_module.trained_parameters()  # walking all modules at every logged step would take time
        self._blocks = group_by_block(list(self._trained))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Keep the weights before a step that will be logged."""
        if is_logged(trainer.global_step + 1, self.every, trainer):
            self._before = {name: local_part(p.detach()).clone() for name, p in self._trained.items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Training)
        if not step_ended(trainer, batch_idx):
            return
        self.steps += 1
        limit = trainer.gradient_clip_val if trainer.gradient_clip_algorithm != "value" else None
        if limit:
            self.clipped = self.clipped + ((pl_module.grad_norm + 1e-6 > limit) & (pl_module.applied > 0))
        self._norms.append(pl_module.grad_norm)
        if is_logged(trainer.global_step, self.every, trainer):
            values = self._weights(pl_module)
            if limit:
                values["health/clipped"] = int(self.clipped) / self.steps
            self.steps, self.clipped = 0, 0
            log_scalars(trainer, values | self._time(trainer, pl_module))
            self._histogram(trainer)
        if trainer.global_step == trainer.max_steps or trainer.should_stop:  # before the last checkpoint is written
            self._log_ratios(trainer)

    def _log_ratios(self, trainer: pl.Trainer) -> None:
        """Log a table of each block's relative change in a step: in the last one, and in the mean."""
        if self._last:
            rows: list[list[TableCell]] = [
                [name, ratio, self.ratios[name] / self.lines] for name, ratio in self._last.items()
            ]
            log_table(trainer, "update_ratios", ["block", "last", "mean"], rows)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "clipped": int(self.clipped), "lines": self.lines, "ratios": dict(self.ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.clipped = state_dict["steps"], state_dict["clipped"]
        self.lines, self.ratios = state_dict["lines"], state_dict["ratios"]

    def _weights(self, module: Training) -> dict[str, float]:
        """Return each block's relative change in this step, and the relative distance of the average from all weights."""
        weights, others = self._trained, [self._before, *([] if self.ema is None else [self.ema.average])]
        sums = [
            [
                sum_squares([local_part(weights[name].detach()) for name in names]),
                *(sum_squared_differences(weights, other, names) for other in others),
            ]
            for names in self._blocks.values()
        ]
        self._before = {}
        together = torch.stack([torch.stack(row) for row in sums])
        if is_sharded(module):
            torch.distributed.all_reduce(together)
        lengths, moved, *apart = together.T
        ratios = dict(zip(self._blocks, (moved / lengths.clamp(min=1e-30)).sqrt().tolist(), strict=True))
        self._last, self.lines = ratios, self.lines + 1
        self.ratios = {name: self.ratios.get(name, 0.0) + ratio for name, ratio in ratios.items()}
        values = {f"health/update_ratio/{name}": ratio for name, ratio in ratios.items()}
        if apart:
            values["health/ema_distance"] = (apart[0].sum() / lengths.sum()).sqrt().item()
        return values

    def _time(self, trainer: pl.Trainer, module: Training) -> dict[str, float]:
        now, spent, step = self.spent.clock(), self.spent.besides_training(), trainer.global_step
        (first, began, _), (last, since, spent_then) = self._started, self._since
        self._since = (step, now, spent)
        wall = max(1e-9, now - began)
        shares = {name: seconds / wall for name, seconds in self.spent.seconds.items()}
        values = {f"time/share_{name}": share for name, share in shares.items() if name != DATA}
        values["time/wait_for_data"] = shares.get(DATA, 0.0)
        values["time/minutes_left"] = (trainer.max_steps - step) * wall / max(1, step - first) / 60
        values["time/memory_gib"] = measure_memory(module.device) / 2**30
        micro_batches = (step - last) * trainer.accumulate_grad_batches
        utilisation = self.utilisation.share(micro_batches, now - since - (spent - spent_then))
        return values if utilisation is None else values | {"time/utilisation": utilisation}

    def _histogram(self, trainer: pl.Trainer) -> None:
        if len(self._norms) >= HISTOGRAM_STEPS:
            norms = torch.stack(self._norms).double()
            log_histogram(trainer, "grad_norms", norms[norms.isfinite()])
            self._norms = []


def measure_memory(device: torch.device) -> int:
    """Return bytes of memory: the maximum that was allocated on a GPU, or what this process holds on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()
    except OSError:  # not Linux: the maximum so far is all there is
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
