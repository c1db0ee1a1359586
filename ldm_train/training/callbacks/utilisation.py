"""How much of a device's speed a run uses."""

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch.nn import functional as F

from ldm_train.training.base_module import Training
from ldm_train.training.flops import CountFlops, peak


class Utilisation(Callback):
    """Count the operations of this process's first micro-batch, and measure the device's peak speed.

    Compiled networks are not counted, because their operations cannot be observed.

    Attributes:
        flops: operations of a micro-batch, forward and backward; 0 if unknown.
        peak: operations a second that the device reaches in the training's precision.
    """

    def __init__(self) -> None:
        self.flops = 0
        self.peak = 0.0
        self._count: CountFlops | None = None
        self._counted = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Training)
        self._counted = any(module._compiled_call_impl is not None for module in pl_module.modules())
        if not self._counted:
            one = torch.ones(1, 1, dtype=pl_module.dtype, device=pl_module.device)  # type: ignore[arg-type]
            with pl_module.precision():
                dtype = F.linear(one, one).dtype
            self.peak = peak(pl_module.device, dtype, torch.get_num_threads())

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if not self._counted:
            self._count = CountFlops()
            self._count.__enter__()

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def share(self, micro_batches: int, seconds: float) -> float | None:
        """Return the share of the peak that so many micro-batches in so many seconds reach; None if unknown."""
        return self.flops * micro_batches / max(1e-9, seconds) / self.peak if self.flops else None

    def _stop(self) -> None:
        if self._count is not None:
            self._count.__exit__(None, None, None)
            self.flops, self._count, self._counted = self._count.total, None, True
