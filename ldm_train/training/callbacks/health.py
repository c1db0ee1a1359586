"""The health of a run: what its steps do to its weights, and what becomes of its time and memory."""

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
from ldm_train.training.callbacks.block_norms import by_block, distances, local, squares
from ldm_train.training.callbacks.spent import DATA, Spent
from ldm_train.training.callbacks.step_log import is_logged, step_ended
from ldm_train.training.callbacks.utilisation import Utilisation
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import Cell, log_histogram, log_scalars, log_table
from ldm_train.training.optimization.sharding import is_sharded

NORMS = 100  # of gradients, of so many steps at least, make a histogram


class Health(Callback):
    """Logs `health/…`, which the same run gives again, and `time/…`, which is the machine's.

    Args:
        every: optimizer steps between; the first and the last are logged too.
        ema: to be called before this; None where nothing is averaged.
        spent: what the run's other callbacks took.
    """

    def __init__(self, *, every: int, ema: EMA | None, spent: Spent, utilisation: Utilisation) -> None:
        self.every = every
        self.ema = ema
        self.spent = spent
        self.utilisation = utilisation
        self.steps = 0  # since it was logged
        self.clipped: Tensor | int = 0  # of those
        self._before: dict[str, Tensor] = {}
        self._norms: list[Tensor] = []
        self.lines = 0  # in all
        self.ratios: dict[str, float] = {}  # summed over these
        self._last: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._started = self._since = (trainer.global_step, self.spent.clock(), 0.0)
        self._trained = pl_module.trained_parameters()  # walking all modules at every line would take its time
        self._blocks = by_block(list(self._trained))

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Keep the weights that the coming step changes, where it will be logged."""
        if is_logged(trainer.global_step + 1, self.every, trainer):
            self._before = {name: local(p).clone() for name, p in self._trained.items()}

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
            found = self._weights(pl_module)
            if limit:
                found["health/clipped"] = int(self.clipped) / self.steps
            self.steps, self.clipped = 0, 0
            log_scalars(trainer, found | self._time(trainer, pl_module))
            self._histogram(trainer)
        if trainer.global_step == trainer.max_steps or trainer.should_stop:  # before the last checkpoint stands on it
            self._log_ratios(trainer)

    def _log_ratios(self, trainer: pl.Trainer) -> None:
        """What each block's weights changed by in a step: at last, and in the mean."""
        if self._last:
            rows: list[list[Cell]] = [[name, ratio, self.ratios[name] / self.lines] for name, ratio in self._last.items()]
            log_table(trainer, "update_ratios", ["block", "last", "mean"], rows)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "clipped": int(self.clipped), "lines": self.lines, "ratios": dict(self.ratios)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self.clipped = state_dict["steps"], state_dict["clipped"]
        self.lines, self.ratios = state_dict["lines"], state_dict["ratios"]

    def _weights(self, module: Training) -> dict[str, float]:
        """How much of its length each block of weights has moved in this step, and how far the average is from them all."""
        weights, others = self._trained, [self._before, *([] if self.ema is None else [self.ema.average])]
        sums = [
            [squares([local(weights[name]) for name in names]), *(distances(weights, other, names) for other in others)]
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
        found = {f"health/update_ratio/{name}": ratio for name, ratio in ratios.items()}
        if apart:
            found["health/ema_distance"] = (apart[0].sum() / lengths.sum()).sqrt().item()
        return found

    def _time(self, trainer: pl.Trainer, module: Training) -> dict[str, float]:
        now, spent, step = self.spent.clock(), self.spent.besides_training(), trainer.global_step
        (first, began, _), (last, since, spent_then) = self._started, self._since
        self._since = (step, now, spent)
        wall = max(1e-9, now - began)
        shares = {name: seconds / wall for name, seconds in self.spent.seconds.items()}
        found = {f"time/share_{name}": share for name, share in shares.items() if name != DATA}
        found["time/wait_for_data"] = shares.get(DATA, 0.0)
        found["time/minutes_left"] = (trainer.max_steps - step) * wall / max(1, step - first) / 60
        found["time/memory_gib"] = memory(module.device) / 2**30
        micro_batches = (step - last) * trainer.accumulate_grad_batches
        utilisation = self.utilisation.share(micro_batches, now - since - (spent - spent_then))
        return found if utilisation is None else found | {"time/utilisation": utilisation}

    def _histogram(self, trainer: pl.Trainer) -> None:
        if len(self._norms) >= NORMS:
            norms = torch.stack(self._norms).double()
            log_histogram(trainer, "grad_norms", norms[norms.isfinite()])
            self._norms = []


def memory(device: torch.device) -> int:
    """Bytes: the most that was taken of a GPU; what this process has of a CPU's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * getpagesize()
    except OSError:  # another system than Linux, which tells the most that it was
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
