"""Write and read what a run directory records next to its checkpoints, and decide whether a run may continue in it."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import OmegaConf

import ldm_train
from ldm_train.run_dir.config_changes import identify_run, refuse_other_run
from ldm_train.run_dir.git_state import git_state
from ldm_train.run_dir.moved_paths import STARTED_IN
from ldm_train.run_dir.own_code_record import describe_own_code, list_changed
from ldm_train.run_dir.reading import CONFIG, RECORD, SAVED_STEP, Plain
from ldm_train.run_dir.stored_settings import read_config
from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.settings.schema.training import FittingSettings, TrainSettings
from ldm_train.settings.trust import UntrustedCodeError
from ldm_train.training.checkpoints.checkpoint_files import (
    check_own_checkpoints,
    checkpoints,
    last_checkpoint,
    last_saved_step,
)
from ldm_train.training.checkpoints.sharded_checkpoint import remove_unnamed_shares
from ldm_train.training.run_files import HISTORY, METRICS, RUN_ID, written_files
from ldm_train.util.cpu_kind import describe_cpu
from ldm_train.util.files import atomic_write, remove_files
from ldm_train.util.interrupts import StopSignal
from ldm_train.util.messages import note, warn
from ldm_train.util.processes import describe_call, launched_rank
from ldm_train.util.safe_json import parse_json, read_json

LAST = Path("checkpoints") / "last.ckpt"
PRIOR = "prior"  # class pictures that the first weights drew, and their cache
OWN_CODE = "own_code"  # in a start: the trusted packages that it used
PACKAGES = (
    "ldm-train",
    "torch",
    "pytorch-lightning",
    "open_clip_torch",
    "diffusers",
    "transformers",
    "safetensors",
    "numpy",
)

LONGEST_ERROR = 500  # characters of an error that ended a start


def prepare_run(
    config: FittingSettings,
    *,
    content: str,
    base: str | None = None,
    trained_for: Mapping[str, object] | None = None,
    check: Callable[[], None] = lambda: None,
    first_weights: Callable[[], str | None] = lambda: None,
) -> bool:
    """Record this start in a run directory that is held; return whether a checkpoint is continued.

    Args:
        content: one name for all that is trained on, such as the cache's fingerprint.
        base: one name for the weights that a run stands on which trains a part of them.
        trained_for: what its network is trained for, for those who will take its weights.
        check: raises ValueError if a run that is continued was trained for something else.
        first_weights: gives a run that starts its weights, and returns one name for them; called before anything is removed.

    Raises:
        ValueError: `resume` is never and a checkpoint is there, the run there differs in what matters, or a checkpoint there
            is another run's.
    """
    run_dir = Path(config.run_dir)
    found = bool(checkpoints(run_dir)) and config.resume != "restart"
    if launched_rank() > 0:
        if not found:
            first_weights()
        return found
    if found and config.resume == "never":
        raise ValueError(f"{run_dir / LAST} is already there; resume=auto continues it, or choose another run_dir")
    if found:
        record = read_record(run_dir)
        refuse_other_run(read_settings(run_dir), config, content, run_dir, record, base=base)
        check()
        check_own_checkpoints(run_dir)
        if (step := last_saved_step(run_dir)) is not None:
            record[SAVED_STEP] = step  # which a start that was killed right after it may not have noted
    else:
        _refuse_other_verb(run_dir, config)
        run_id = identify_run(config, content=content, first_weights=first_weights() or base, trained_for=trained_for)
        record = new_record() | {RUN_ID: run_id, "content": content, "base": base, "trained_for": trained_for}
        _start_anew(run_dir)
    if config.resume == "restart":
        config = config.with_values(
            resume="auto"
        )  # the restart is for this start only, not for whoever uses this config again
    atomic_write(run_dir / CONFIG, OmegaConf.to_yaml(OmegaConf.create(config.as_plain())))
    record["run_dir"] = str(run_dir.resolve())  # by which a copy of this folder knows that it is one
    starts = record["starts"]
    assert isinstance(starts, list)
    this = describe_start(config)
    if starts:
        print_changes(starts[-1], this)
    starts.append(this)
    write_record(run_dir, record)
    return found


def record_end(run_dir: Path, how: str) -> None:
    """Write down how the last start ended, and at which step; a process that is killed leaves no such word.

    Args:
        how: "finished", "interrupted (why)" or "failed: why".
    """
    if launched_rank() > 0 or not (run_dir / RECORD).is_file():
        return
    record = read_record(run_dir)
    starts = record["starts"]
    assert isinstance(starts, list)
    saved = record.get(SAVED_STEP)
    step = max(last_step(run_dir), saved if isinstance(saved, int) else 0)
    starts[-1]["ended"] = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "step": step, "as": how}
    write_record(run_dir, record)


def describe_end(error: BaseException) -> str:
    """Return how an error ended a start, in one line."""
    words = " ".join(str(error).split())[:LONGEST_ERROR]
    if isinstance(error, StopSignal):
        return f"interrupted ({error})"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted (Ctrl-C)"
    return f"failed: {words}" if isinstance(error, ValueError) else f"failed: {type(error).__name__}: {words}"


def last_step(run_dir: Path) -> int:
    """Return the last step in the metrics file; 0 if there is none."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 2**16))
            return int(parse_json(file.read().splitlines()[-1])["step"])  # type: ignore[index,call-overload,arg-type]
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return 0


def new_record() -> Plain:
    """Return the record of a run that has not started: by it, its folder is known to be a run directory."""
    return {"content": None, "base": None, SAVED_STEP: None, "starts": []}


def write_record(run_dir: Path, record: Plain) -> None:
    """Write what the starts of a run recorded."""
    atomic_write(run_dir / RECORD, json.dumps(record, indent=2) + "\n")


def note_saved(run_dir: Path, step: int) -> None:
    """Record the step of a run's last checkpoint, so that others know where it stands, and if checkpoints are missing."""
    if (run_dir / RECORD).is_file():
        write_record(run_dir, read_record(run_dir) | {SAVED_STEP: step})


def read_record(run_dir: Path) -> Plain:
    """Read the record of a run's starts.

    Raises:
        ValueError: it is not there, or unreadable.
    """
    try:
        record = read_json(run_dir / RECORD)
        if not isinstance(record, dict) or not _are_starts(record.get("starts")) or "content" not in record:
            raise ValueError("it lacks `content` or `starts`")
        return dict(record)
    except (OSError, ValueError) as error:
        raise _unreadable(run_dir, RECORD, error) from error


def _are_starts(found: object) -> bool:
    return isinstance(found, list) and all(isinstance(start, dict) and "command" in start for start in found)


def list_commands(run_dir: Path) -> list[str]:
    """Return the command lines that started and continued a run."""
    starts = read_record(run_dir)["starts"]
    assert isinstance(starts, list)
    return [start["command"] for start in starts]


def read_settings(run_dir: Path) -> FittingSettings:
    """Return the settings that a run was last started with.

    Raises:
        ValueError: it is not there, or unreadable.
    """
    try:
        return read_config(run_dir)
    except UntrustedCodeError:
        raise
    except ValueError as error:
        raise _unreadable(run_dir, CONFIG, error) from error


def _unreadable(run_dir: Path, name: str, error: Exception) -> ValueError:
    return ValueError(
        f"{run_dir} has a checkpoint, but {name}, which says what it is of, cannot be read ({error}). Bring it back from "
        "a backup, choose another run_dir, or set resume=restart to remove the checkpoints and start anew"
    )


def describe_start(config: FittingSettings) -> Plain:
    """Return the command, versions, sources and machine of this process."""
    return {
        "command": describe_call(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        STARTED_IN: str(Path.cwd()),
        "packages": {name: version(name) for name in PACKAGES} | {"python": sys.version.split()[0]},
        "git": {"ldm_train": git_state(Path(ldm_train.__file__).parent), "working_directory": git_state(Path.cwd())},
        OWN_CODE: describe_own_code(config),
        "devices": {"nodes": config.trainer.num_nodes, "each": config.trainer.devices, "batch": config.micro_batch_size},
        "threads": torch.get_num_threads(),
        "machine": [os.uname().machine, torch.cuda.get_device_name() if torch.cuda.is_available() else describe_cpu()],
    }


def print_changes(before: Plain, now: Plain) -> None:
    """Print what changed since the last start, so that the run continues only to rounding."""
    changed = [name for name in ("packages", "git", "devices", "threads", "machine") if before.get(name) != now[name]]
    if changed:
        note(f"note: {', '.join(changed)} changed since the last start, so it goes on to rounding, not bit for bit")
    now_used = now[OWN_CODE]
    assert isinstance(now_used, dict)
    if modules := list_changed(before.get(OWN_CODE), now_used):
        warn(
            f"your own code changed since the last start: {', '.join(modules)}; the run goes on with it as it is now. For a "
            "new run, choose another run_dir"
        )


def _refuse_other_verb(run_dir: Path, config: FittingSettings) -> None:
    """Raise if the run there trained a network and this one trains an autoencoder, or the reverse.

    Raises:
        ValueError: restarting would remove the history and checkpoints of something else.
    """
    try:
        there = read_settings_file(run_dir / CONFIG)
    except ValueError:  # missing or damaged, so it cannot be compared
        return
    if ("network" in there) != isinstance(config, TrainSettings):
        verb = "train" if "network" in there else "train_autoencoder"
        raise ValueError(f"run_dir={run_dir} is a run of `ldm-train {verb}`. Nothing was removed; choose another run_dir")


def _start_anew(run_dir: Path) -> None:
    """Remove what an earlier start wrote: its lines would be doubled. Nothing of a user's is, nor class pictures."""
    remove_files(checkpoints(run_dir))  # the newest first: killed in between, the run is one that ended earlier
    remove_unnamed_shares(last_checkpoint(run_dir).parent)
    remove_files(written_files(run_dir, HISTORY))


def set_threads(threads: int | None) -> None:
    """Set the number of CPU threads of this process; None leaves it to torch."""
    if threads is not None:
        torch.set_num_threads(threads)
