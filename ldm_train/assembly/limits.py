"""The limits of a run, and what its command prints and returns at its end."""

import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from shlex import quote

from ldm_train.run_dir.record import record_end
from ldm_train.settings.schema.training import FittingSettings
from ldm_train.training.fit import Limits
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.messages import note, note_all
from ldm_train.util.processes import launched_rank
from ldm_train.util.text import as_word

STARTED = time.monotonic() - time.process_time()  # of the process, about: importing takes seconds


def read_limits(config: FittingSettings) -> Limits:
    """Return when a run ends.

    Raises:
        ValueError: a max_time that is no time.
    """
    return Limits(config.max_steps, STARTED, parse_duration(config.max_time), config.max_nonfinite_steps)


def parse_duration(words: str | int | None) -> timedelta | None:
    """Return a time written as [days-]hours:minutes:seconds, SLURM's form.

    Raises:
        ValueError: it is written in another way.
    """
    if words is None:
        return None
    parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", str(words))
    if parts is None:
        raise ValueError(f"max_time={words} must be hours:minutes:seconds, such as 11:30:00, or days-hours:minutes:seconds")
    days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


def list_outputs(run_dir: Path) -> Iterator[str]:
    """Yield where a run's pictures are, and the commands that show the run."""
    if (run_dir / "samples").is_dir():
        yield f"pictures: {run_dir / 'samples'}"
    yield f"a page about the run: ldm-train report {as_word('run_dir', run_dir)} {as_word('out', run_dir / 'report.html')}"
    yield f"its curves: tensorboard --logdir {quote(str(run_dir / 'tensorboard'))}"


def record_ending(config: FittingSettings, reason: str | None) -> int:
    """Record how a run ended, and return the exit code.

    Ranks but the first return 0: what started them would take another code for a failure.
    """
    run_dir = Path(config.run_dir)
    record_end(run_dir, "finished" if reason is None else f"interrupted ({reason})")
    if launched_rank() > 0:
        return 0
    note_all(list_outputs(run_dir))
    if reason is None:
        return 0
    note(f"stopped by {reason} and saved in {config.run_dir}; the same command continues it (exit code {INTERRUPTED})")
    return INTERRUPTED
