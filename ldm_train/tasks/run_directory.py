"""What a run directory holds beside its checkpoints, and whether a run may start or continue in it."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from ldm_train.tasks.lightning import launched_rank

LAST = Path("checkpoints") / "last.ckpt"
IDENTITY = "identity.json"
COMMANDS = "commands.txt"


def prepare(config: DictConfig, *, identity: Mapping[str, str]) -> bool:
    """Make the run directory with `config.yaml` and `commands.txt`; True where a checkpoint is to be continued.

    Args:
        identity: what must be the same when the run is continued, such as the cache's fingerprint.

    Raises:
        ValueError: `resume` is neither auto nor never, it is never and a checkpoint is there, or the checkpoint's run had
            another identity.
    """
    if config.resume not in ("auto", "never"):
        raise ValueError(
            f"resume={config.resume} is not known; auto continues a run directory, never refuses one with a checkpoint"
        )
    run_dir = Path(config.run_dir)
    found = (run_dir / LAST).is_file()
    if found and config.resume == "never":
        raise ValueError(f"{run_dir / LAST} is already there; resume=auto continues it, or choose another run_dir")
    if found:
        before = json.loads((run_dir / IDENTITY).read_text(encoding="utf-8"))
        changed = [
            f"{name}: then {before.get(name)}, now {value}" for name, value in identity.items() if before.get(name) != value
        ]
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(
                f"{run_dir} cannot be continued, it was started on something else:\n  {listed}\nchoose another run_dir"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    if launched_rank() == 0:
        OmegaConf.save(config, run_dir / "config.yaml")
        (run_dir / IDENTITY).write_text(json.dumps(dict(identity), indent=2) + "\n", encoding="utf-8")
        if not found:
            _start_anew(run_dir)
        with (run_dir / COMMANDS).open("a", encoding="utf-8") as file:
            file.write(shlex.join(["ldm-train", *sys.argv[1:]]) + "\n")
    return found


def _start_anew(run_dir: Path) -> None:
    """Without a checkpoint nothing is continued: an earlier start's lines would be doubled."""
    for name in ("metrics.jsonl", "timing.jsonl", COMMANDS):
        (run_dir / name).unlink(missing_ok=True)


def set_threads(threads: int | None) -> None:
    """CPU threads of this process; None leaves them to torch."""
    if threads is not None:
        torch.set_num_threads(threads)
