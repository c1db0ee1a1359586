"""One command of the campaign: undisturbed, then with each fault, then again without it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path

from faults.compare import Digests, differences, digest
from faults.shim import Action, Fault, Operation, cut_files, read_log
from faults.world import COMMANDS, World
from faults.zygote import Ended

KINDS: dict[str, tuple[Action, str]] = {
    "kill": (Action.KILL, "EIO"),
    "power cut": (Action.POWER_CUT, "EIO"),
    "ENOSPC": (Action.FAIL_FROM_HERE, "ENOSPC"),
    "EIO": (Action.FAIL_ONCE, "EIO"),
}
WRITES = ("write", "open")


@dataclass(frozen=True)
class Outcome:
    """What a fault came to: how the command ended, and what is wrong after it was run again."""

    command: str
    kind: str
    at: int
    what: str
    operation: str
    message: str
    problems: list[str]

    def as_json(self) -> dict[str, object]:
        return asdict(self)

    def __str__(self) -> str:
        lines = "".join(f"\n      {line}" for line in self.problems)
        return f"  {self.command}: {self.kind} at {self.at} ({self.operation}): {self.what}{lines}"


class Campaign:
    """The faults of one command."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.words = world, name, COMMANDS[name]
        self.expected, self.operations = self._undisturbed()
        second, _ = self._undisturbed()
        self.unstable = differences(self.expected, second)

    def _undisturbed(self) -> tuple[Digests, list[Operation]]:
        self.world.restore()
        ended = self.world.run(self.words)
        if ended.code:
            raise RuntimeError(f"{self.name} ended with {ended.code} where nothing was wrong:\n{ended.output}")
        return digest(self.world.path), read_log(self.world.log)

    @cached_property
    def _users(self) -> Digests:
        """What was there before the command and is there after it, unchanged."""
        before = digest(self.world.room / "prepared")
        return {name: value for name, value in before.items() if self.expected.get(name) == value}

    def faults(self, kinds: Sequence[str], first: int, every: int) -> Iterator[Fault]:
        """Every fault of these kinds at each so manieth operation; a power cut right after the end, too."""
        for kind in kinds:
            action, error = KINDS[kind]
            for operation in distinct(self.operations)[first - 1 :: every]:
                if action is not Action.FAIL_FROM_HERE or operation.takes_room:
                    yield Fault(kind, operation.number, action, error)
            if action is Action.POWER_CUT:
                yield Fault(kind, len(self.operations) + 1000, action, error)

    def try_fault(self, fault: Fault) -> Outcome:
        """Run the command with a fault, then, unless it went on and ended well, again without one."""
        self.world.restore()
        ended = self.world.run(self.words, fault)
        hit = next((operation for operation in read_log(self.world.log) if operation.hit), None)
        if fault.action is Action.POWER_CUT and ended.code < 0:
            cut_files(self.world.log, self.world.path)
        outcome = Outcome(self.name, fault.kind, fault.at, "", "the end" if hit is None else self._shown(hit), "", [])
        if ended.code == 0:
            what = "went on" if hit else "not reached"
            return replace(outcome, what=what, problems=self._problems(digest(self.world.path)))
        told = _last_words(ended)
        problems = [] if ended.code < 0 else self._unnamed(ended, hit)
        lost = {name: self._users[name] for name in self._users}
        problems += [f"at once, {line}" for line in differences(lost, digest(self.world.path)) if "left" not in line]
        again = self.world.run(self.words)
        if again.code:
            problems.append(f"again: exit code {again.code}: {_last_words(again)}")
        problems += self._problems(digest(self.world.path))
        return replace(outcome, what="died" if ended.code < 0 else "failed", message=told, problems=problems)

    def _problems(self, found: Digests) -> list[str]:
        return differences(self.expected, found)

    def _shown(self, operation: Operation) -> str:
        return f"{operation.name} {operation.path}".replace(f"{self.world.path}/", "")

    def _unnamed(self, ended: Ended, hit: Operation | None) -> list[str]:
        """What is wrong with the message of a command that failed."""
        problems = []
        if "Traceback" in ended.output or ended.code > 2:
            problems.append(f"a traceback instead of a message, exit code {ended.code}: {_last_words(ended)}")
        if hit is not None and not _is_named(hit, _last_words(ended), self.world.path):
            problems.append(f"the message does not name the file: {_last_words(ended)}")
        return problems


def distinct(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out of several writes in a row to one file, and its openings between them, all but the first and the last."""
    rows = [[*row] for _, row in groupby(operations, lambda op: (op.path, op.number * (op.name not in WRITES)))]
    return [operation for row in rows for operation in (row[:1] + row[-1:] if len(row) > 1 else row)]


def _is_named(operation: Operation, message: str, world: Path) -> bool:
    """Whether a message has the path of an operation's file, of its neighbour (the final name), or of a folder around it."""
    named = {world / word for word in re.findall(rf"[^\s'\"=:,;()]+/[^\s'\"=:,;()]+", message)} - {world}
    return any(
        name in (path, *path.parents) or name.parent == path.parent
        for path in map(Path, operation.path.split(" -> "))
        for name in named
        if world in name.parents
    )


def _last_words(ended: Ended) -> str:
    lines = [line for line in ended.output.strip().splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("ldm-train:")]
    return " / ".join(lines[said[-1] :] if said else lines[-2:])[:400]
