"""Lightning's settings from a config, without what it says at every start and nobody needs to read."""

import logging
import os
import warnings

from omegaconf import DictConfig


def quiet() -> None:
    """Keep Lightning's warnings; drop its tips and its remarks about choices that were made here on purpose."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that no optimizer uses
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")


def refuse_fused_scaling(config: DictConfig) -> None:
    """A fused optimizer undoes the scaling of 16-bit gradients in its step, when they were measured and clipped."""
    if config.trainer.precision == "16-mixed" and config.optimizer.get("fused"):
        raise ValueError(
            "trainer.precision=16-mixed does not go with a fused optimizer; choose trainer.precision=bf16-mixed, or "
            "optimizer.fused=false"
        )


def options(trainer: DictConfig) -> dict[str, str | int | float | bool | None]:
    """The settings that go to the Trainer as they are."""
    return {str(name): value for name, value in trainer.items() if name != "log_every_n_steps"}


def alone(trainer: DictConfig) -> bool:
    """Whether no other process was started along that waits for this one; Lightning starts its own when there is work."""
    launched = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    return launched == 1 and trainer.num_nodes == 1


def launched_rank() -> int:
    """This process's number among those that Lightning, torchrun or SLURM started, before any of them is set up."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("NODE_RANK", "0")) or int(os.environ.get("LOCAL_RANK", "0"))
