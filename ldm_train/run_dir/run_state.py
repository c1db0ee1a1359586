"""How a run stands: running, finished, interrupted, failed or killed, from what its starts wrote down and who has it now."""

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
    """In a word and in a sentence; `ok` is None where neither all is well nor something went wrong."""

    word: Word
    text: str

    @property
    def ok(self) -> bool | None:
        return OK[self.word]


def state_of(run: RunRead) -> State:
    """The state of a run's last start."""
    place = f"step {run.step:,} of {run.max_steps:,}"
    if run.locked:
        return State("running", f"Running, at {place}" if run.step else "Running, before its first logged step")
    told = ended(run.starts[-1]) if run.starts else None
    if told is not None and not told.startswith("finished"):
        word: Word = "interrupted" if told.startswith("interrupted") else "failed"
        return State(word, f"{told[:1].upper()}{told[1:]}, at {place}")
    if told is not None or run.step >= run.max_steps > 0:
        return State("finished", f"Finished, after {run.step or run.max_steps:,} steps")
    if run.locked is None:
        return State("stopped", f"Stopped or still running, at {place}")
    if not run.series:
        return State("killed", "Ended before its first logged step, without a word")
    return State("killed", f"Ended without a word, as a process that is killed does, at {place}")


def ended(start: Mapping[str, object]) -> str | None:
    """How a start ended: "finished", "interrupted (…)" or "failed: …"; None where it left no word."""
    told = start.get("ended")
    return str(told["as"]) if isinstance(told, Mapping) and "as" in told else None


def time_of(told: Mapping[str, object]) -> datetime | None:
    """When that was, in the time zone that it was written in; None where it is not known, or in no year of a run's."""
    try:
        found = datetime.fromisoformat(str(told.get("time")))
    except ValueError:
        return None
    return found.replace(tzinfo=found.tzinfo or UTC) if found.year in YEARS else None


def minutes(run: RunRead) -> float | None:
    """From each start to its end, added up; None where an end is not known."""
    total = 0.0
    for start in run.starts:
        end = start.get("ended")
        began, over = time_of(start), time_of(end) if isinstance(end, Mapping) else None
        if began is None or over is None:
            return None
        total += (over - began).total_seconds() / 60
    return total if run.starts else None
