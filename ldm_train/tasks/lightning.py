"""Lightning's settings from a config, without what it says at every start and nobody needs to read."""

import logging
import os
import warnings

from omegaconf import DictConfig

from ldm_train.tasks.ranges import MIXED_16, on_a_cpu, out_of_range


def quiet() -> None:
    """Keep Lightning's warnings; drop its tips and its remarks about choices that were made here on purpose."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")


def refuse_scaled_clipping(config: DictConfig) -> None:
    """A fused optimizer undoes the scaling of 16-bit gradients in its step, after they would have been clipped."""
    if config.trainer.precision in MIXED_16 and config.optimizer.get("fused") and config.trainer.gradient_clip_val:
        raise ValueError(
            f"trainer.precision={config.trainer.precision} cannot clip the gradients of a fused optimizer; choose "
            "trainer.precision=bf16-mixed, optimizer.fused=false or trainer.gradient_clip_val=null"
        )


def refuse_at_once(verb: str, config: DictConfig) -> None:
    """Refuse values that no run can have, and devices that are not there; `check` lists them with all else that it finds.

    Raises:
        ValueError: a line for each value.
    """
    if verb == "check":
        return
    if problems := out_of_range(config):
        raise ValueError("\n".join(problems))
    if "trainer" in config:
        refuse_absent(config.trainer)


def refuse_absent(trainer: DictConfig) -> None:
    """Refuse devices that this machine has not, before anything is read; torch is imported only where it must be asked.

    Raises:
        ValueError: it says what there is.
    """
    wanted, count = trainer.accelerator, trainer.devices if isinstance(trainer.devices, int) else 1
    mixed = trainer.precision in MIXED_16
    if wanted not in ("auto", "gpu", "cuda", "mps") or (wanted == "auto" and count == 1 and not mixed):
        return
    import torch

    gpus, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    there = {"auto": True, "gpu": gpus > 0 or mps, "cuda": gpus > 0, "mps": mps}
    if not there[wanted]:
        raise ValueError(
            f"trainer.accelerator={wanted}: there is none on this machine; auto takes what there is, cpu the CPU"
        )
    if 0 < gpus < count:
        raise ValueError(f"trainer.devices={count}: this machine has {gpus} GPU{'s' * (gpus > 1)}")
    if mixed and not gpus and not mps:
        raise ValueError(on_a_cpu(trainer.precision))


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
