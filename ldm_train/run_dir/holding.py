"""Hold a run directory: decide whether a run may have it, keep other processes out, and undo a start that was refused.

Nothing of a user's is touched. A folder is claimed by its record before anything else is written there, so a start that was
killed early can be started again; whatever is removed is named in `training/run_files.py`.
"""

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ldm_train.run_dir.reading import CONFIG, RECORD, SAVED_STEP
from ldm_train.run_dir.record import PRIOR, describe_end, last_step, new_record, read_record, record_end, write_record
from ldm_train.settings.schema.training import FittingSettings
from ldm_train.training.checkpoints.checkpoint_files import checkpoints, last_checkpoint
from ldm_train.training.run_files import HISTORY, METRICS, written_files
from ldm_train.util.files import make_folder, remove_files, remove_temporaries, write_error
from ldm_train.util.locks import hold_lock
from ldm_train.util.ownership import LOCK, RUN, carries_mark, check_folder, check_given, read_mark
from ldm_train.util.processes import launched_rank
from ldm_train.util.safe_json import Json
from ldm_train.util.text import as_word, list_names

LINKABLE = tuple(name for name in (*HISTORY, "checkpoints") if name)  # folders that may be links to another disk
WANDB = "wandb"
DASHBOARDS = (WANDB, "mlflow", "trackio")  # folders, each with a file of the run's id there next to it
NEVER_LINKS = (PRIOR, f"{PRIOR}/pictures", "autoencoder", *DASHBOARDS)
MOMENT = 0.3  # seconds, for which whoever only asks whether a run is going on may have its lock


@contextmanager
def hold_run_directory(config: FittingSettings) -> Iterator[None]:
    """Keep every other process out of the run directory, until this one leaves it or ends, however it ends.

    An error that ends a start is recorded. A new run directory whose first start fails before its first step is removed.

    Raises:
        ValueError: the folder is not a run directory, its checkpoints are missing, or another process has it.
        OSError: it cannot be written to.
    """
    if launched_rank() > 0:
        yield
        return
    run_dir = Path(config.run_dir)
    check_given(str(config.run_dir), setting="run_dir")
    check_record(run_dir)
    check_folder(run_dir, RUN, setting="run_dir", given=str(config.run_dir))
    check_links(run_dir, resume=config.resume)
    made = [folder for folder in (run_dir, *run_dir.parents) if not folder.exists()]
    busy = f"run_dir={run_dir} belongs to a run that is still going; wait for its end, or choose another run_dir"
    try:
        try:
            make_folder(run_dir)
        except OSError as error:
            raise write_error(run_dir, error) from error
        with hold_lock(run_dir / LOCK, busy=busy, wait=MOMENT), _claim(run_dir, resume=config.resume):
            yield
    finally:
        _remove_empty(made)


@contextmanager
def _claim(run_dir: Path, *, resume: str) -> Iterator[None]:
    """Mark the folder as a run directory before anything else is written there, and see to how the start ends."""
    new, before = not carries_mark(run_dir, RUN), None
    try:
        check_checkpoints(run_dir, resume=resume)
        for folder in (run_dir, last_checkpoint(run_dir).parent):  # which may be a link
            remove_temporaries(folder)
        if new:
            write_record(run_dir, new_record())
        before = (run_dir / RECORD).read_bytes()
        yield
    except BaseException as error:
        with suppress(OSError, ValueError):  # of a full disk, say: what ended the run is worth more
            if before not in (None, (run_dir / RECORD).read_bytes()):  # else it was refused before its start was recorded
                record_end(run_dir, describe_end(error))
        if new and not any((run_dir / name).exists() for name in (METRICS, PRIOR)):
            with suppress(OSError):
                _undo(run_dir)
        raise


def check_record(run_dir: Path) -> None:
    """Raise if a folder has checkpoints and no readable record of the run that saved them.

    Raises:
        ValueError: it says what they can still be used for.
    """
    if carries_mark(run_dir, RUN) or not (found := checkpoints(run_dir)):
        return
    raise ValueError(
        f"run_dir={run_dir} has {list_names([path.name for path in found])}, but {RECORD}, which says what they are of, is "
        f"missing or damaged, so the run cannot be continued. Nothing was changed: bring {RECORD} back from a backup, or "
        f"choose another run_dir. `ldm-train sample` and `ldm-train export` read these checkpoints without it, and "
        f"{as_word('network.weights', run_dir)} starts a new run from their weights"
    )


def check_checkpoints(run_dir: Path, *, resume: str) -> None:
    """Raise if a run has saved checkpoints that are not there, such as those on a disk that is not mounted.

    A start that ended before its first checkpoint has nothing to lose, and is started anew without a question.

    Raises:
        ValueError: it says how to go on, and how to start anew on purpose.
    """
    folder = last_checkpoint(run_dir).parent
    if folder.is_symlink() and not folder.exists():
        raise ValueError(
            f"{folder} is a link to {os.readlink(folder)}, which is not there, so no checkpoint can be read or written. "
            "Nothing was changed: mount that disk to continue the run, or remove the link"
        )
    if resume == "restart" or checkpoints(run_dir) or not carries_mark(run_dir, RUN):
        return
    if read_record(run_dir).get(SAVED_STEP, 0) is not None:
        raise ValueError(
            f"{run_dir} has the history of a run up to step {last_step(run_dir)}, and {folder} has none of its checkpoints. "
            "Nothing was changed: bring the checkpoints back to continue it, set resume=restart to remove its history and "
            "start anew, or choose another run_dir"
        )


def check_links(run_dir: Path, *, resume: str) -> None:
    """Raise if a run would write through a link to something that is not its own, as a copied run directory may have them.

    A folder of history or of checkpoints may be a link to another disk.

    Raises:
        ValueError: it names the link; nothing was changed.
    """
    for name in ("", *LINKABLE, *NEVER_LINKS):
        folder = run_dir / name
        if name and folder.is_symlink():
            _refuse_linked_folder(run_dir, folder, resume=resume)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if name == WANDB and path.resolve().is_relative_to(folder.resolve()):
                continue  # such as wandb's own latest-run
            kind = path.lstat().st_mode
            is_link = stat.S_ISLNK(kind) and (name != "" or not path.is_dir())
            if is_link or not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind)):
                what = f"a link to {os.readlink(path)}" if is_link else "no regular file"
                raise ValueError(
                    f"{path} is {what}, and a run writes only into regular files of its own. Nothing was changed: put a "
                    "copy in its place, remove it, or choose another run_dir"
                )


def _refuse_linked_folder(run_dir: Path, folder: Path, *, resume: str) -> None:
    target = folder.resolve()
    owners = [place for place in (target, *target.parents) if place != run_dir.resolve() and carries_mark(place, RUN)]
    if folder.name not in LINKABLE:
        why = "a run keeps it in its own folder"
    elif owners:
        why = f"{owners[0]} is another run"
    elif original := _copied_from(run_dir):
        why = f"{run_dir} is a copy of {original}, so this link may lead to what that run, or another copy of it, writes"
    elif resume == "restart" and target.is_dir() and any(target.iterdir()):
        why = "resume=restart would remove files there"
    else:
        return
    raise ValueError(
        f"{folder} is a link to {os.readlink(folder)}, and {why}. Nothing was changed: remove the link, put a copy of "
        f"{target} in its place, or choose another run_dir"
    )


def _copied_from(run_dir: Path) -> Path | None:
    """Return the run directory that this one is a copy of, not started yet; None if it was moved or is no copy."""
    record = read_mark(run_dir, RUN) or {}
    original = Path(str(record.get("run_dir", run_dir)))
    there = read_mark(original, RUN)
    if there is None or original.samefile(run_dir) or _first_start(there) != _first_start(record):
        return None
    return original


def _first_start(record: Mapping[str, Json]) -> Json:
    starts = record.get("starts")
    return starts[0] if isinstance(starts, list) and starts else None


def _undo(run_dir: Path) -> None:
    """Remove what a first start wrote before its first step; the record goes last, and stays next to a user's file."""
    identities = [run_dir / f"{name}.json" for name in DASHBOARDS]
    remove_files([*written_files(run_dir, HISTORY), run_dir / CONFIG, *identities])
    _remove_empty([run_dir / name for name in (*HISTORY, "checkpoints") if name])
    if {path.name for path in run_dir.iterdir()} <= {LOCK, RECORD}:
        remove_files([run_dir / RECORD, run_dir / LOCK])  # while it is held, so that whoever waits for it makes another


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()
