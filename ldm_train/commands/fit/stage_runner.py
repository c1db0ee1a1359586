"""Run the commands of a fit one after the other, each as a process, with a line that says which and how long it takes."""

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ldm_train.assembly.child_processes import ENDED_EARLY, Jobs
from ldm_train.commands.fit.fit_record import FitRecord, Stage
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.files import make_folder

AFTER_CHECKS = 5  # encode, train, sample, evaluate, report
LAST_LINES = 12  # of what a failed command printed
DONE = "done"
STOPPED_EARLY = "stopped at its limit of time"


class StageStopError(Exception):
    """A stage ended so that no further one can run; `code` is the exit code of the whole."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class StageRunner:
    """Run stages that are not done, and write the record after each."""

    def __init__(self, out: Path, record: FitRecord, jobs: Jobs, console: Console) -> None:
        self.out = out
        self.record = record
        self.jobs = jobs
        self.console = console
        self.number = 0
        self.count = 0  # of all stages; 0: not known yet

    def plan(self, *, adapts: bool, first_steps: bool) -> None:
        """Set the number of all stages, once it is known."""
        self.count = self.number + AFTER_CHECKS + adapts + first_steps

    def __call__(self, name: str, words: list[str], *, quiet: bool = False, needed: bool = True) -> bool:
        """Run a command unless it is done, and return whether it ended well.

        Args:
            quiet: whether all that it prints goes to a file only.
            needed: whether the others cannot do without it.

        Raises:
            StageStopError: it was interrupted, or failed and is needed.
        """
        self.number += 1
        stage = self.record.stages.setdefault(name, Stage(words))
        self._announce(name, stage)
        if stage.ending in (DONE, STOPPED_EARLY):
            return True
        began, stage.words = time.monotonic(), words
        log = self.out / "logs" / f"{name.replace(' ', '_')}.txt"
        try:
            code = self._run(words, log if quiet else None)
        finally:
            stage.seconds += time.monotonic() - began
            self.record.write(self.out)
        if self.jobs.stopped is not None or (code in ENDED_EARLY and code != INTERRUPTED):
            raise StageStopError(f"interrupted while it ran `{name}`", INTERRUPTED)
        stage.ending = DONE if code == 0 else STOPPED_EARLY if code == INTERRUPTED else f"failed with {code}"
        self.record.write(self.out)
        if code not in (0, INTERRUPTED):
            last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]) if quiet else ""
            message = f"`{name}` failed (exit code {code}): {shlex.join(['ldm-train', *words])}\n{last}".rstrip()
            if needed:
                raise StageStopError(message, 1)
            self.console.print(message, style="yellow", markup=False, highlight=False)
        return code in (0, INTERRUPTED)

    def _announce(self, name: str, stage: Stage) -> None:
        planned, before = self.record.planned.get(name), stage.ending in (DONE, STOPPED_EARLY)
        note = f"about {planned / 60:.1f} minutes" if isinstance(planned, int | float) else ""
        note = f"{stage.ending} before, in {stage.seconds / 60:.1f} minutes" if before else note
        number = f"{self.number} of {self.count}" if self.count else f"{self.number}"
        self.console.rule(f"{number}: {name}  {note}".rstrip(), align="left")
        if not before:
            self.console.print(f"$ {shlex.join(['ldm-train', *stage.words])}", style="dim", markup=False, highlight=False)
        sys.stdout.flush()

    def _run(self, words: list[str], log: Path | None) -> int:
        command = [sys.executable, "-m", "ldm_train", *words]
        if log is None:
            return self.jobs.run(command)
        make_folder(log.parent)
        with log.open("wb") as file, waiting(self.console):
            return self.jobs.run(command, log=file)


@contextmanager
def waiting(console: Console) -> Iterator[None]:
    """Show that something is going on, on a terminal, while the block runs."""
    columns = (SpinnerColumn(), TextColumn("working"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("")
        yield
