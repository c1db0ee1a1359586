"""Describe the history of runs: starts and ends, skipped steps, and files that could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from ldm_train.commands.report.run_curves import ReportedRun
from ldm_train.commands.report.run_findings import list_findings
from ldm_train.reports.page import Verdict
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs, ShellCommand
from ldm_train.run_dir.reading import RunRead
from ldm_train.run_dir.run_state import end_of_start, state_of, time_of, total_minutes


def build_verdict(runs: Sequence[ReportedRun]) -> Verdict:
    """Return the state of the run, or of each run."""
    states = [state_of(one.run) for one in runs]
    if len(runs) == 1:
        reasons = [*list_findings(runs[0].run), *list_troubles(runs[0].run)]
        return Verdict(ok=states[0].ok, text=states[0].text, reasons=reasons)
    words = [state.word for state in states]
    counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    ok = False if any(state.ok is False for state in states) else None if any(s.ok is None for s in states) else True
    reasons = [f"{one.name}: {state.text}" for one, state in zip(runs, states, strict=True)]
    reasons += [one.label(finding) for one in runs for finding in list_findings(one.run)]
    return Verdict(ok=ok, text=f"{len(runs)} runs: {counts}", reasons=reasons)


def list_troubles(run: RunRead) -> Iterator[str]:
    """Yield what a reader should know about a run in addition to its state."""
    if run.nonfinite:
        first, last = min(run.nonfinite), max(run.nonfinite)
        several = f"{len(run.nonfinite):,} steps were not finite and were left out, from step {first:,} to {last:,}"
        yield several if first < last else f"step {first:,} was not finite and was left out"
    failures = [end for start in run.starts[:-1] if (end := end_of_start(start)) and end.startswith("failed")]
    yield from (f"an earlier start {end}" for end in failures)
    if len(run.starts) > 1:
        yield f"it was started {len(run.starts)} times; each start continued from the last checkpoint"
    yield from run.notes


def build_trouble_blocks(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return the skipped steps, and the troubles of each run if there are several (the banner has those of one run)."""
    blocks: list[PageBlock] = []
    if len(runs) > 1:
        blocks.append(Paragraphs([f"{one.name}: {trouble}" for one in runs for trouble in list_troubles(one.run)]))
    for one in runs:
        rows = [[f"{step:,}", f"{bad:,}" if bad else "no single one"] for step, bad in one.run.nonfinite.items()]
        columns = ["step that was left out", "examples that were not finite"]
        blocks.append(DataTable(columns, rows, numeric=columns, max_rows=10, caption=one.label("Not finite")))
    return blocks


def build_start_blocks(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return a table of the starts of each run, and the commands that started them."""
    blocks: list[PageBlock] = []
    for one in runs:
        rows = [_row(i, start, running=one.run.locked is True and i == len(one.run.starts)) for i, start in
                enumerate(one.run.starts, 1)]  # fmt: skip
        columns = ["start", "began", "ended", "at step", "how", "machine", "commit", "torch"]
        blocks.append(DataTable(columns, rows, caption="" if one.is_only else one.name))
        commands = dict.fromkeys(str(start["command"]) for start in one.run.starts if start.get("command"))
        blocks += [ShellCommand(command) for command in commands]
    return blocks


def format_total_time(run: RunRead) -> str:
    """Return the time of all starts together, or nothing if the end of one is unknown."""
    length = total_minutes(run)
    if length is None:
        return ""
    return f"{length:.1f} min" if length < 120 else f"{length / 60:.1f} h"


def format_time(time: datetime | None) -> str:
    return "" if time is None else time.strftime("%Y-%m-%d %H:%M:%S %Z")


def _row(number: int, start: Mapping[str, object], *, running: bool) -> list[str]:
    end = start.get("ended")
    end_record: Mapping[str, object] = end if isinstance(end, Mapping) else {}
    how = end_of_start(start) or ("still running" if running else "unknown")
    machine = start.get("machine")
    packages, git = start.get("packages"), start.get("git")
    return [
        str(number),
        format_time(time_of(start)),
        format_time(time_of(end_record)),
        str(end_record.get("step", "")),
        how,
        ", ".join(map(str, machine)) if isinstance(machine, list) else "",
        _commit(git),
        str(packages.get("torch", "")) if isinstance(packages, Mapping) else "",
    ]


def _commit(git: object) -> str:
    state = git.get("ldm_train") if isinstance(git, Mapping) else None
    if not isinstance(state, Mapping):
        return ""
    return str(state.get("commit"))[:10] + (" (modified)" if state.get("modified") else "")
