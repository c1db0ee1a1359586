"""The number of examples that a device takes at once; `micro_batch_size=auto` finds how many fit into its memory."""

import gc
import traceback
from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback

from ldm_train.data.batches.datamodules import EndlessData
from ldm_train.training.base_module import Training
from ldm_train.training.cost import free_memory, saved_bytes
from ldm_train.training.optimization.sharded_tensors import is_sharded
from ldm_train.util.messages import note

CPU_MEMORY_SHARE = 0.5  # of the free memory; the measurement misses what a backward pass allocates and frees again
FIRST_STEP_COPIES = 3  # of each trained number, allocated by the first step: the average and the optimizer's two moments


class MicroBatch(Callback):
    """Set the data's micro-batch size if it is "auto", after the weights have moved to the device that trains them.

    A continued run keeps its size, because other sizes round differently. After an out-of-memory error, `advice` says which
    size would have fit.
    """

    def __init__(self) -> None:
        self.advice = ""
        self._found: dict[str, int] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, EndlessData)
        assert isinstance(pl_module, Training)
        if data.micro_batch_size != "auto":
            return
        if is_sharded(pl_module):
            raise ValueError("micro_batch_size=auto does not work with trainer.strategy=fsdp2; set a number, or null")
        if self._found.get("devices") != trainer.world_size:
            size = torch.tensor(find_fitting_size(pl_module, data, data.geometry.rows), device=pl_module.device)
            if trainer.world_size > 1:
                torch.distributed.all_reduce(size, torch.distributed.ReduceOp.MIN)
            self._found = {"devices": trainer.world_size, "micro_batch_size": int(size)}
        data.divide(self._found["micro_batch_size"])
        if trainer.is_global_zero:
            geometry = data.geometry
            note(f"micro_batch_size=auto found {geometry.rows}: {geometry.accumulation} micro-batches a step on each device")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, torch.OutOfMemoryError):
            assert isinstance(pl_module, Training)
            traceback.clear_frames(exception.__traceback__)  # its frames hold the tensors that fill the memory
            self.advice = explain_out_of_memory(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, int]:
        return self._found

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._found = state_dict


def find_fitting_size(module: Training, data: EndlessData, share: int) -> int:
    """Return the largest divisor of a device's share of the batch whose forward and backward passes fit into memory.

    On a GPU the sizes are tried. On a CPU, where the system kills a process that takes too much, the memory of one example
    is measured and multiplied.

    Raises:
        ValueError: not even a single example fits.
    """
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    if module.device.type != "cpu":
        fitting = next((size for size in sizes if fits_in_memory(partial(_pass, module, data, size), module)), None)
    else:
        _, each = saved_bytes(lambda: _loss(module, data, 1), module.parameters())
        room = CPU_MEMORY_SHARE * (free_memory(module.device) - FIRST_STEP_COPIES * _trained_bytes(module))
        fitting = next((size for size in sizes if size * each <= room), None)
    if fitting is None:
        raise ValueError(
            f"not even one example fits into the memory of {module.device}; "
            "try network.gradient_checkpointing=true, trainer.precision=bf16-mixed, or a smaller network or image_size"
        )
    return fitting


def fits_in_memory(passes: Callable[[], None], module: Training) -> bool:
    """Return whether the passes fit into memory together with what the first step will allocate."""
    try:
        held = torch.empty(FIRST_STEP_COPIES * _trained_bytes(module), dtype=torch.uint8, device=module.device)
        passes()
        del held
        return True
    except torch.OutOfMemoryError:
        return False
    finally:
        module.zero_grad()
        gc.collect()
        if module.device.type == "cuda":
            torch.cuda.empty_cache()


def explain_out_of_memory(module: Training, data: EndlessData) -> str:
    """Return advice after a step ran out of a GPU's memory: the largest size that fits."""
    module.zero_grad()
    rows = data.geometry.rows
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    fitting = next((size for size in sizes if fits_in_memory(partial(_pass, module, data, size), module)), None)
    happened = f"{module.device} ran out of memory with micro_batch_size={rows}: "
    if fitting is None:
        return f"{happened}no smaller one fits; try network.gradient_checkpointing=true or trainer.precision=bf16-mixed"
    if fitting == rows:
        return f"{happened}the step itself fits, so check what else takes memory, such as pictures.count or other processes"
    return f"{happened}micro_batch_size={fitting} fits, with the same results (micro_batch_size=auto finds it)"


def _loss(module: Training, data: EndlessData, size: int) -> torch.Tensor:
    batch = data.transfer_batch_to_device(data.fetch(torch.arange(size)), module.device, 0)
    with module.trainer.precision_plugin.train_step_context():
        result = module.training_step(batch, 0)
    assert isinstance(result, dict)
    return result["loss"]


def _pass(module: Training, data: EndlessData, size: int) -> None:
    _loss(module, data, size).backward()


def _trained_bytes(module: Training) -> int:
    return sum(p.nbytes for p in module.trained_parameters().values())
