"""What a run went through: its starts and ends, the steps that were left out, and what could not be read."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from ldm_train.commands.report.run_curves import Shown
from ldm_train.reports.page import Verdict
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs, ShellCommand
from ldm_train.run_dir.reading import RunRead
from ldm_train.run_dir.run_state import ended, minutes, state_of, time_of


def verdict(shown: Sequence[Shown]) -> Verdict:
    """How the run stands, or each of the runs."""
    states = [state_of(one.run) for one in shown]
    if len(shown) == 1:
        return Verdict(ok=states[0].ok, text=states[0].text, reasons=list(troubles(shown[0].run)))
    words = [state.word for state in states]
    told = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    ok = False if any(state.ok is False for state in states) else None if any(s.ok is None for s in states) else True
    reasons = [f"{one.name}: {state.text}" for one, state in zip(shown, states, strict=True)]
    return Verdict(ok=ok, text=f"{len(shown)} runs: {told}", reasons=reasons)


def troubles(run: RunRead) -> Iterator[str]:
    """What is worth a word beside the state."""
    if run.nonfinite:
        first, last = min(run.nonfinite), max(run.nonfinite)
        several = f"{len(run.nonfinite):,} steps were not finite and were left out, from step {first:,} to {last:,}"
        yield several if first < last else f"step {first:,} was not finite and was left out"
    failures = [told for start in run.starts[:-1] if (told := ended(start)) and told.startswith("failed")]
    yield from (f"an earlier start {told}" for told in failures)
    if len(run.starts) > 1:
        yield f"it was started {len(run.starts)} times; each start went on from the last checkpoint"
    yield from run.notes


def wrong(shown: Sequence[Shown]) -> list[PageBlock]:
    """Steps that were left out, and troubles of several runs, which the banner does not tell."""
    found: list[PageBlock] = []
    if len(shown) > 1:
        found.append(Paragraphs([f"{one.name}: {told}" for one in shown for told in troubles(one.run)]))
    for one in shown:
        rows = [[f"{step:,}", f"{bad:,}" if bad else "none alone"] for step, bad in one.run.nonfinite.items()]
        columns = ["step that was left out", "examples that were not finite"]
        found.append(DataTable(columns, rows, numeric=columns, max_rows=10, caption=one.label("Not finite")))
    return found


def starts(shown: Sequence[Shown]) -> list[PageBlock]:
    """Each start with its end, where, of what; then the commands."""
    found: list[PageBlock] = []
    for one in shown:
        rows = [_row(i, start, running=one.run.locked is True and i == len(one.run.starts)) for i, start in
                enumerate(one.run.starts, 1)]  # fmt: skip
        columns = ["start", "began", "ended", "at step", "how", "machine", "commit", "torch"]
        found.append(DataTable(columns, rows, caption="" if one.alone else one.name))
        commands = dict.fromkeys(str(start["command"]) for start in one.run.starts if start.get("command"))
        found += [ShellCommand(command) for command in commands]
    return found


def duration_of(run: RunRead) -> str:
    """Of all starts together; nothing where one's end is not known."""
    length = minutes(run)
    if length is None:
        return ""
    return f"{length:.1f} min" if length < 120 else f"{length / 60:.1f} h"


def moment(found: datetime | None) -> str:
    return "" if found is None else found.strftime("%Y-%m-%d %H:%M:%S %Z")


def _row(number: int, start: Mapping[str, object], *, running: bool) -> list[str]:
    end = start.get("ended")
    told: Mapping[str, object] = end if isinstance(end, Mapping) else {}
    how = ended(start) or ("still going on" if running else "not known")
    machine = start.get("machine")
    packages, git = start.get("packages"), start.get("git")
    return [
        str(number),
        moment(time_of(start)),
        moment(time_of(told)),
        str(told.get("step", "")),
        how,
        ", ".join(map(str, machine)) if isinstance(machine, list) else "",
        _commit(git),
        str(packages.get("torch", "")) if isinstance(packages, Mapping) else "",
    ]


def _commit(git: object) -> str:
    own = git.get("ldm_train") if isinstance(git, Mapping) else None
    if not isinstance(own, Mapping):
        return ""
    return str(own.get("commit"))[:10] + (" (modified)" if own.get("modified") else "")
