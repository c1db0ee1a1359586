"""How many examples a device takes at once: `micro_batch_size=auto` finds what its memory holds."""

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
from ldm_train.training.optimization.sharding import is_sharded

SHARE = 0.5  # of a CPU's free memory: what a backward pass takes beside what it keeps is not seen
COPIES = 3  # of each trained number, which come with the first step: average, two moments of the optimizer


class MicroBatch(Callback):
    """Sets the data's micro-batch size where it is "auto", once the weights are where they will be trained.

    A continued run keeps the size that it had, for other sizes round otherwise. `advice` is what to say of a GPU's memory
    that did not suffice.
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
            raise ValueError("micro_batch_size=auto does not go with trainer.strategy=fsdp2; set a number, or null")
        if self._found.get("devices") != trainer.world_size:
            size = torch.tensor(fitting(pl_module, data, data.geometry.rows), device=pl_module.device)
            if trainer.world_size > 1:
                torch.distributed.all_reduce(size, torch.distributed.ReduceOp.MIN)
            self._found = {"devices": trainer.world_size, "micro_batch_size": int(size)}
        data.divide(self._found["micro_batch_size"])
        if trainer.is_global_zero:
            print(f"micro_batch_size=auto: {data.geometry.rows}, {data.geometry.accumulation} of them a step on each device")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, torch.OutOfMemoryError):
            assert isinstance(pl_module, Training)
            traceback.clear_frames(exception.__traceback__)  # they hold what the memory is full of
            self.advice = told_out_of_memory(pl_module, trainer.datamodule)  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, int]:
        return self._found

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._found = state_dict


def fitting(module: Training, data: EndlessData, share: int) -> int:
    """The largest divisor of a device's share whose forward and backward passes fit.

    On a GPU they are tried. On a CPU, where a process that asks for too much is killed, one example's are measured.

    Raises:
        ValueError: not even a single example fits.
    """
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    if module.device.type != "cpu":
        found = next((size for size in sizes if tried(partial(_pass, module, data, size), module)), None)
    else:
        _, each = saved_bytes(lambda: _loss(module, data, 1), module.parameters())
        room = SHARE * (free_memory(module.device) - COPIES * _trained_bytes(module))
        found = next((size for size in sizes if size * each <= room), None)
    if found is None:
        raise ValueError(
            f"not even one example fits into the memory of {module.device}; "
            "see network.gradient_checkpointing=true, trainer.precision=bf16-mixed, or a smaller network or image_size"
        )
    return found


def tried(passes: Callable[[], None], module: Training) -> bool:
    """Whether it goes through without running out of memory, beside what the first step will add."""
    try:
        held = torch.empty(COPIES * _trained_bytes(module), dtype=torch.uint8, device=module.device)
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


def told_out_of_memory(module: Training, data: EndlessData) -> str:
    """What to say when a step ran out of a GPU's memory: which size would have fit."""
    module.zero_grad()
    rows = data.geometry.rows
    sizes = [size for size in range(rows, 0, -1) if rows % size == 0]
    found = next((size for size in sizes if tried(partial(_pass, module, data, size), module)), None)
    told = f"{module.device} ran out of memory with micro_batch_size={rows}: "
    if found is None:
        return f"{told}no smaller one fits; see network.gradient_checkpointing=true or trainer.precision=bf16-mixed"
    if found == rows:
        return (
            f"{told}micro_batch_size={rows} itself fits, so look at what else takes memory: pictures.count, other processes"
        )
    return f"{told}micro_batch_size={found} fits, with the same results (micro_batch_size=auto finds it)"


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
