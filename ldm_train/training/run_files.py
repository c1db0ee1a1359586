"""Which files of a run directory a run wrote, by exact names: these may be rewritten and removed, and nothing else there.

What a user puts into a run directory stays, whatever becomes of the run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

INTERRUPTED = 75  # the exit code of a run that was saved and left before its end: EX_TEMPFAIL, "try again"

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
BINS = "validation.jsonl"
SETS = "set_metrics.jsonl"
LINES = (METRICS, TIMING, BINS, SETS)
STEP = r"step-\d{8,}"
SHARES_FOLDER = re.compile(r".+-[0-9a-f]{8}\.shares")  # folders next to the checkpoints

# Folders with the names that a run writes in them; "" is the run directory. Its config and record are not history, and what
# it leaves at its end (an autoencoder, the vectors of new words) is replaced at the next one.
HISTORY = {
    "samples": re.compile(rf"(?:(?:held-out-|reverse-|forward-)?{STEP}|growth)\.png|prompts\.json"),
    "ema": re.compile(rf"{STEP}\.safetensors"),
    "nonfinite": re.compile(rf"{STEP}(?:-rank-\d+\.json|\.safetensors)"),
    "tables": re.compile(r"update_ratios\.csv"),
    "tensorboard": re.compile(r"events\.out\.tfevents\.\d+\..+"),
    "": re.compile("|".join(re.escape(name) for name in (*LINES, "metrics.csv"))),
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
