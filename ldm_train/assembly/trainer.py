"""Set up Lightning's Trainer: its arguments, plugins and loggers, and checks of devices and processes."""

import logging
import os
import warnings
from datetime import timedelta
from inspect import signature
from typing import TYPE_CHECKING

from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import MIXED_16, CommandSettings, TrainerSettings, select
from ldm_train.settings.schema.training import FittingSettings
from ldm_train.settings.schema.using import EncodeSettings, SampleSettings
from ldm_train.settings.shipped import ConfigError
from ldm_train.settings.validation import on_a_cpu, out_of_range
from ldm_train.util.processes import count_slurm_tasks, in_terminal

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments import ClusterEnvironment
    from pytorch_lightning.loggers.logger import Logger


UNSYNCED = ("forward_sync_buffers", "broadcast_buffers")  # of DistributedDataParallel: since torch 2.13, and before


def silence_lightning() -> None:
    """Keep Lightning's warnings; drop its tips and its remarks about choices that were made here on purpose."""
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that no optimizer uses
    warnings.filterwarnings("ignore", message="Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    # Nothing here changes a module's output in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor.*")


def refuse_fused_scaling(config: FittingSettings) -> None:
    """Raise for a fused optimizer with 16-bit scaled gradients: it removes the scale only after they were clipped."""
    if config.trainer.precision in MIXED_16 and config.optimizer.get("fused"):
        raise ValueError(
            f"trainer.precision={config.trainer.precision} does not go with a fused optimizer; choose "
            "trainer.precision=bf16-mixed, or optimizer.fused=false"
        )


def build_loggers(config: FittingSettings) -> list["Logger"]:
    """Return further loggers; build them before any data is read, since a service may refuse the login."""
    return [] if config.logger is None else [build(config.logger, "logger", save_dir=config.run_dir)]


def trainer_options(trainer: TrainerSettings, *, shares: bool = False) -> dict[str, object]:
    """Return the Trainer's arguments, with the strategies that `ddp` and `fsdp2` stand for, and the plugins.

    Args:
        shares: with fsdp2, each process writes its own part of a checkpoint.
    """
    import torch
    from pytorch_lightning.plugins import DoublePrecision
    from pytorch_lightning.strategies import DDPStrategy
    from torch.nn.parallel import DistributedDataParallel

    from ldm_train.training.checkpoints.checkpoint_io import WholeFiles

    chosen: dict[str, object] = trainer.model_dump(exclude={"log_every_n_steps", "tf32", "timeout_minutes"})
    if chosen["deterministic"] is False and not torch.are_deterministic_algorithms_enabled():
        chosen["deterministic"] = None  # which is the same, but false has PyTorch import its compiler
    timeout = timedelta(minutes=trainer.timeout_minutes)
    plugins: list[object] = [WholeFiles(), *slurm_plugins()]
    if trainer.strategy == "fsdp2":
        from ldm_train.training.optimization.sharding import FullySharded

        chosen["strategy"] = FullySharded(shares=shares, timeout=timeout)
        if trainer.precision == "64-true":  # which Lightning takes there as a plugin alone
            chosen["precision"], plugins = None, [*plugins, DoublePrecision()]
    elif trainer.strategy == "ddp":
        # Gradients stay where they were summed, which spares a copy; and no buffer here changes in training.
        unsynced = next(name for name in UNSYNCED if name in signature(DistributedDataParallel).parameters)
        chosen["strategy"] = DDPStrategy(gradient_as_bucket_view=True, timeout=timeout, **{unsynced: False})  # type: ignore[arg-type]
    return chosen | {"plugins": plugins}


def slurm_plugins() -> list["ClusterEnvironment"]:
    """Return Lightning's SLURM environment if srun started several tasks, without its own requeueing at a signal.

    In any other process within a job of SLURM, Lightning is kept from waiting for tasks that nobody started.
    """
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect() or "SLURM_NTASKS" not in os.environ:
        return []
    return [SLURMEnvironment(auto_requeue=False) if count_slurm_tasks() > 1 else LightningEnvironment()]


def refuse_processes(config: FittingSettings | EncodeSettings, *, shardable: bool = False) -> None:
    """Raise if the launcher started another number of processes, or if settings do not go with sharded parameters.

    Args:
        shardable: whether this verb can share out its parameters.
    """
    refuse_launch(config.trainer)
    refuse_sharding(config, shardable=shardable)


def refuse_sharding(config: FittingSettings | EncodeSettings, *, shardable: bool) -> None:
    """Raise if settings do not go with sharded parameters, or with parameters that are not sharded."""
    strategy, shares = config.trainer.strategy, isinstance(config, FittingSettings) and config.checkpoint.shares
    if strategy != "fsdp2":
        if shares:
            raise ValueError(f"checkpoint.shares=true has no effect with trainer.strategy={strategy}, only with fsdp2")
        return
    if not shardable:
        raise ValueError("trainer.strategy=fsdp2 is for train alone; use ddp here")
    unsharded = (("compile", None), ("channels_last", False), ("fused_backward", False), ("ema.offload", False))
    for setting, fitting in unsharded:
        if (value := select(config, setting)) not in (fitting, "auto"):
            raise ValueError(
                f"{setting}={str(value).lower()} does not go with trainer.strategy=fsdp2; "
                f"set {setting}={'null' if fitting is None else 'false'} or trainer.strategy=ddp"
            )
    if isinstance(config, FittingSettings) and config.micro_batch_size == "auto":
        raise ValueError("micro_batch_size=auto does not go with trainer.strategy=fsdp2; set a number, or null")
    if config.trainer.precision in MIXED_16:
        raise ValueError(
            f"trainer.precision={config.trainer.precision} does not go with trainer.strategy=fsdp2; "
            "set bf16-mixed or 32-true"
        )


def refuse_launch(trainer: TrainerSettings) -> None:
    """Raise if torchrun or SLURM started another number of processes than is set: they would wait for each other."""
    environment = os.environ
    if "TORCHELASTIC_RUN_ID" in environment:
        launcher, total, here = "torchrun", int(environment["WORLD_SIZE"]), int(environment["LOCAL_WORLD_SIZE"])
        nodes = total // here
    elif (tasks := count_slurm_tasks()) > 1:
        launcher, total = "SLURM", tasks
        nodes = int(environment.get("SLURM_NNODES") or environment.get("SLURM_JOB_NUM_NODES") or 1)
        here = total // nodes
        if "SLURM_NTASKS_PER_NODE" not in environment:
            raise ValueError(f"SLURM started {total} tasks without --ntasks-per-node; give it --ntasks-per-node={here}")
    else:
        return
    devices = trainer.devices if isinstance(trainer.devices, int) else here
    if devices > 0 and (devices, trainer.num_nodes) != (here, nodes):
        raise ValueError(
            f"the processes that {launcher} started, {total} in all and {here} on each node, are not those of "
            f"trainer.devices={trainer.devices} trainer.num_nodes={trainer.num_nodes}; set "
            f"trainer.devices={here} trainer.num_nodes={nodes}, or start one process for each device"
        )


def refuse_at_once(verb: str, settings: CommandSettings) -> None:
    """Raise for values out of range and for missing devices; `check` lists them with everything else.

    Raises:
        ConfigError: no prompts are given, and no terminal is there to type them.
        ValueError: a line for each value.
    """
    if isinstance(settings, SampleSettings) and settings.prompts is None and not in_terminal():
        raise ConfigError(
            f"{verb} needs prompts=… (see `ldm-train {verb} --help`), or 'prompts=[\"\"]' for none; "
            "in a terminal they can be typed"
        )
    if verb == "check":
        return
    if problems := out_of_range(settings):
        raise ValueError("\n".join(problems))
    if (trainer := getattr(settings, "trainer", None)) is not None:
        refuse_absent(trainer)


def refuse_absent(trainer: TrainerSettings) -> None:
    """Raise for devices that this machine does not have; torch is imported only if it must be asked.

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
