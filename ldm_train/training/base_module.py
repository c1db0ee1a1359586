"""What every training shares: an optimizer that takes no step that is not finite, an LR schedule, dropout by position."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import ParamsT

from ldm_train import draws
from ldm_train.training.optimization.fused_backward import FusedBackward
from ldm_train.training.optimization.gradients import (
    all_ranks_finite,
    clip_gradients,
    compute_total_norm,
    copy_group_values,
    restore_group_values,
    skip_step,
    skips_on_device,
)
from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.optimizers import build_optimizer
from ldm_train.training.optimization.parameter_groups import SINGLE_GROUP, ParameterGroups
from ldm_train.training.optimization.row_exchange import average_rows, broadcast_parameters, exclude_embeddings
from ldm_train.training.optimization.strides import copy_optimizer_state, match_optimizer_strides
from ldm_train.util.messages import note


@dataclass(frozen=True)
class Examined:
    """What a step saw, for the message if it went wrong: positions (B,), losses (B,), and t (B,) of a noise predictor."""

    positions: Tensor
    losses: Tensor
    t: Tensor | None = None


class Training(pl.LightningModule):
    """The Trainer's view of what is trained.

    After each backward pass the norm of all gradients is at hand as `grad_norm`, (); where it or the loss is not finite on
    any rank, `applied`, (), is 0 and the optimizer leaves everything as it was, without the host having to know.

    Args:
        optimizer: parameters to optimizer.
        parameter_groups: which of them have a rate or a decay of their own.
        lr_schedule: factor of the rate by step.
        seed: of every draw.
        fused_backward: step within the backward pass, as FusedBackward does.
    """

    grad_norm: Tensor
    applied: Tensor
    examined: Examined

    def __init__(
        self,
        *,
        optimizer: Callable[[ParamsT], Optimizer],
        parameter_groups: ParameterGroups = SINGLE_GROUP,
        lr_schedule: LRSchedule,
        seed: int,
        fused_backward: bool = False,
    ) -> None:
        super().__init__()
        self.fused_backward = fused_backward
        self._fused: FusedBackward | None = None
        self.make_optimizer = optimizer
        self.parameter_groups = parameter_groups
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.applied = torch.ones(())
        self.precision: Callable[[], AbstractContextManager[object]] = nullcontext
        self._loss: Tensor | None = None
        self._dropout = False
        self._embeddings: list[nn.Parameter] = []

    def setup(self, stage: str) -> None:
        """Take the precision here: a checkpoint is read before Lightning would convert the module, and would be rounded."""
        self.trainer.precision_plugin.convert_module(self)
        self._embeddings = exclude_embeddings(self, self.trainer.strategy)

    def on_fit_start(self) -> None:
        broadcast_parameters(self._embeddings)
        self.precision = self.trainer.precision_plugin.forward_context
        self._dropout = any(drops_out(module) for module in self.modules())
        if self._dropout and self.global_rank == 0:
            note(
                "note: dropout in networks is drawn by (seed, step, device, micro-batch): the same after a resume, "
                "another run on another number of devices or with another micro_batch_size"
            )

    def on_fit_end(self) -> None:
        self.precision = nullcontext
        if self._fused is not None:
            self._fused.remove()

    def on_train_start(self) -> None:
        """Go on as if this division of the global batch, and this length of the run, had been those from the start."""
        for optimizer in self.trainer.optimizers:
            copy_optimizer_state(optimizer)
            match_optimizer_strides(optimizer)
        for scheduler in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            assert isinstance(scheduler, LambdaLR)
            for group, base in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
                group["lr"] = base * self.lr_schedule(self.global_step, self.trainer.max_steps)
        if self.fused_backward:
            self._fused = FusedBackward(self.trainer.optimizers[0])
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        done = self.global_step * self.trainer.accumulate_grad_batches
        for counts in (progress.current, progress.total) if done else ():
            assert isinstance(counts, _ProcessedTracker)
            counts.ready = counts.started = counts.processed = done
            counts.completed = done - 1  # as in a checkpoint of the step's end, from where Lightning goes on

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Key the networks' own dropout, which draws from the global generator, as nothing else does."""
        if self._dropout:
            stream = f"dropout, rank {self.global_rank}, micro-batch {batch_idx % self.trainer.accumulate_grad_batches}"
            torch.manual_seed(draws.generator(self.seed, stream, self.global_step).initial_seed())

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
        super().backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Called once a step, after its last backward pass."""
        assert self._loss is not None
        average_rows(self._embeddings)
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in parameters]
        self.grad_norm = compute_total_norm(gradients) if self._fused is None else self._fused.norm(self._loss.device)
        self.applied = all_ranks_finite(self.grad_norm.isfinite() & self._loss.isfinite())
        self._loss = None
        clip_gradients(optimizer, parameters, gradient_clip_val, gradient_clip_algorithm, norm=self.grad_norm)
        skip_step(optimizer, parameters, applied=self.applied)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take a step, and undo what it changed in its groups if it was to be skipped: some optimizers count steps there."""
        plain = self.trainer.optimizers[0]
        before = None if skips_on_device(plain) else copy_group_values(plain)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if before is not None and self.applied.item() == 0:
            restore_group_values(plain, before)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return build_optimizer(self, self.make_optimizer, self.lr_schedule, self.parameter_groups)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """As one looks at it while it trains: in the training's precision, without dropout and gradients."""
        training = [module for module in self.modules() if module.training]
        self.eval()
        try:
            with torch.no_grad(), self.precision():
                yield
        finally:
            for module in training:
                module.training = True

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave frozen parts out; they are loaded from where they came from."""
        frozen = {name for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        frozen = {name: p for name, p in self.named_parameters() if not p.requires_grad}
        checkpoint["state_dict"] = {**frozen, **checkpoint["state_dict"]}


def drops_out(module: nn.Module) -> bool:
    """Whether a module draws a mask of its own in training."""
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
