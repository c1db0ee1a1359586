"""Determine the state of a run (running, finished, interrupted, failed or killed) from its record and its lock."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ldm_train.run_dir.reading import RunRead

Word = Literal["running", "finished", "interrupted", "failed", "killed", "stopped"]
OK: Mapping[Word, bool | None] = {
    "running": None, "finished": True, "interrupted": None, "failed": False, "killed": False, "stopped": None
}  # fmt: skip


YEARS = range(1970, 2500)


@dataclass(frozen=True)
class State:
    """A run's state in a word and in a sentence; `ok` is None if it is neither good nor bad."""

    word: Word
    text: str

    @property
    def ok(self) -> bool | None:
        return OK[self.word]


def state_of(run: RunRead) -> State:
    """Return the state of a run's last start."""
    place = f"step {run.step:,} of {run.max_steps:,}"
    if run.saved is not None and run.saved < run.step:
        place += f"; its last checkpoint is of step {run.saved:,}"
    if run.locked:
        return State("running", f"Running, at {place}" if run.step else "Running, before its first logged step")
    ending = end_of_start(run.starts[-1]) if run.starts else None
    if ending is not None and not ending.startswith("finished"):
        word: Word = "interrupted" if ending.startswith("interrupted") else "failed"
        return State(word, f"{ending[:1].upper()}{ending[1:]}, at {place}")
    if ending is not None or run.step >= run.max_steps > 0:
        return State("finished", f"Finished, after {run.step or run.max_steps:,} steps")
    if run.locked is None:
        return State("stopped", f"Stopped or still running, at {place}")
    if not run.series and not run.saved:
        return State("killed", "Ended before its first logged step, without a word")
    return State("killed", f"Ended without a word, as a process that is killed does, at {place}")


def end_of_start(start: Mapping[str, object]) -> str | None:
    """Return how a start ended: "finished", "interrupted (…)" or "failed: …"; None if it recorded nothing."""
    ending = start.get("ended")
    return str(ending["as"]) if isinstance(ending, Mapping) and "as" in ending else None


def time_of(ending: Mapping[str, object]) -> datetime | None:
    """Return the time of a record in the time zone it was written in; None if it is missing or implausible."""
    try:
        found = datetime.fromisoformat(str(ending.get("time")))
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found.year in YEARS else None


def total_minutes(run: RunRead) -> float | None:
    """Return the minutes from each start to its end, added up; None if an end is not known."""
    total = 0.0
    for start in run.starts:
        end = start.get("ended")
        began, over = time_of(start), time_of(end) if isinstance(end, Mapping) else None
        if began is None or over is None:
            return None
        total += (over - began).total_seconds() / 60
    return total if run.starts else None
