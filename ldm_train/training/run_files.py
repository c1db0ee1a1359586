"""Which files of a run directory a run wrote, by exact names: these may be rewritten and removed, and nothing else there.

What a user puts into a run directory stays, whatever becomes of the run. Files with weights carry the identity of their run.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from ldm_train.util.ownership import RUN, read_mark
from ldm_train.util.safe_json import Json
from ldm_train.util.text import list_names

INTERRUPTED = 75  # the exit code of a run that was saved and left before its end: EX_TEMPFAIL, "try again"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
BINS = "validation.jsonl"
SETS = "set_metrics.jsonl"
DATA = "data.json"  # what the run is trained on
RECONSTRUCTIONS = "reconstructions.png"  # some of its pictures, encoded and decoded
LINES = (METRICS, TIMING, BINS, SETS)
STEP = r"step-\d{8,}"
RUN_ID = "run_id"  # the key of the identity in `run.json`, in checkpoints and in stored averages
SHORT_ID = 12  # letters of an identity in a message
SHARES_FOLDER = re.compile(r".+-[0-9a-f]{8}\.shares")  # folders next to the checkpoints

# Folders with the names that a run writes in them; "" is the run directory. Its config and record are not history, and what
# it leaves at its end (an autoencoder, the vectors of new words) is replaced at the next one.
HISTORY = {
    "samples": re.compile(rf"(?:(?:pairs-|reverse-|forward-)?{STEP}|growth)\.png|prompts\.json"),
    "ema": re.compile(rf"{STEP}\.safetensors"),
    "nonfinite": re.compile(rf"{STEP}(?:-rank-\d+\.json|\.safetensors)"),
    "tables": re.compile(r"update_ratios\.csv"),
    "tensorboard": re.compile(r"events\.out\.tfevents\.\d+\..+"),
    "": re.compile("|".join(re.escape(name) for name in (*LINES, DATA, RECONSTRUCTIONS, "metrics.csv"))),
}


def written_files(run_dir: Path, names: dict[str, re.Pattern[str]]) -> Iterator[Path]:
    """Return the files with these names, sorted in each folder; a folder may be a link to elsewhere, a file may not."""
    for folder, pattern in names.items():
        place = run_dir / folder
        if place.is_dir():
            files = (path for path in place.iterdir() if pattern.fullmatch(path.name))
            yield from sorted(path for path in files if path.is_file() and not path.is_symlink())


def numbered_steps(folder: Path, suffix: str) -> dict[int, Path]:
    """Return the files of a folder that are named by a step, in order of the steps."""
    pattern = re.compile(rf"step-(\d{{8,}}){re.escape(suffix)}")
    matches = [(pattern.fullmatch(path.name), path) for path in folder.glob(f"step-*{suffix}")]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def read_run_id(run_dir: Path) -> Json:
    """Return the identity of the run in a directory; None if it has no readable record."""
    return (read_mark(run_dir, RUN) or {}).get(RUN_ID)


def check_same_run(run_dir: Path, run_ids: Mapping[Path, object]) -> None:
    """Raise if files in a run directory were written by another run.

    Args:
        run_ids: the identity that each file carries.

    Raises:
        ValueError: it names the files, both identities, and what to do.
    """
    expected = read_run_id(run_dir)
    others = {str(path): run_id for path, run_id in run_ids.items() if run_id != expected}
    if expected is None or not others:
        return
    found = list_names(sorted({str(run_id)[:SHORT_ID] for run_id in others.values()}))
    raise ValueError(
        f"{list_names(list(others))}: not written by the run in {run_dir} (run_id there: {found}; in {run_dir / RUN.mark}: "
        f"{str(expected)[:SHORT_ID]}). Nothing was changed: move it to the run directory that it came from, and put this "
        "run's own file back; if that is lost, resume=restart removes this run's history and checkpoints and trains anew"
    )
