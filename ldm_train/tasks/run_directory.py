"""What a run directory holds beside its checkpoints, and whether a run may start or continue in it."""

import os
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

LAST = Path("checkpoints") / "last.ckpt"


def prepare(config: DictConfig) -> bool:
    """Make the run directory and write its `config.yaml`; True where a checkpoint is to be continued.

    Raises:
        ValueError: `resume` is neither auto nor never, or it is never and a checkpoint is there.
    """
    if config.resume not in ("auto", "never"):
        raise ValueError(f"resume={config.resume} is not known; auto continues a run directory, never refuses one with a checkpoint")
    run_dir = Path(config.run_dir)
    found = (run_dir / LAST).is_file()
    if found and config.resume == "never":
        raise ValueError(f"{run_dir / LAST} is already there; resume=auto continues it, or choose another run_dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        OmegaConf.save(config, run_dir / "config.yaml")
    return found


def set_threads(threads: int | None) -> None:
    """CPU threads of this process; None leaves them to torch."""
    if threads is not None:
        torch.set_num_threads(threads)
