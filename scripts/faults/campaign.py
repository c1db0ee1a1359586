"""One command of the campaign: undisturbed, then with each fault, then again without it."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path

from faults.compare import Digests, differences, digest
from faults.shim import Action, Fault, Operation, cut_files, read_log
from faults.world import COMMANDS, KEPT, WRITTEN, World
from faults.zygote import Ended

KINDS: dict[str, tuple[Action, str]] = {
    "kill": (Action.KILL, "EIO"),
    "power cut": (Action.POWER_CUT, "EIO"),
    "ENOSPC": (Action.FAIL_FROM_HERE, "ENOSPC"),
    "EIO": (Action.FAIL_ONCE, "EIO"),
}
WRITES = ("write", "open")
DASHBOARDS = re.compile(r"/(tensorboard/|metrics\.csv|tables/\S*)$")  # which a run goes on without, with a warning


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
        if unstable := differences(self.expected, self._undisturbed()[0]):
            raise RuntimeError(f"{name} does not end the same twice where nothing is wrong: {unstable}")
        self._again: dict[object, list[str]] = {}  # by the world that a fault left

    def _undisturbed(self) -> tuple[Digests, list[Operation]]:
        self.world.restore()
        ended = self.world.run(self.words)
        if ended.code:
            raise RuntimeError(f"{self.name} ended with {ended.code} where nothing was wrong:\n{ended.output}")
        return digest(self.world.path), read_log(self.world.log)

    @cached_property
    def _kept(self) -> Digests:
        """What a user has, and what the command only reads: a death at any moment must leave it as it is."""
        before = digest(self.world.prepared)
        return {name: before[name] for name in before if name in KEPT or name.partition("/")[0] not in WRITTEN}

    def faults(self, kinds: Iterable[str]) -> list[Fault]:
        """Every fault of these kinds; a power cut right after the end, too.

        Left out: a full disk for what takes no room, and a death before an operation that finds the disk as the one before.
        """
        operations = distinct(self.operations)
        places = {
            Action.KILL: after_changes(operations, nothing=("flush",)),
            Action.POWER_CUT: after_changes(operations, nothing=()),
            Action.FAIL_FROM_HERE: [operation for operation in operations if operation.takes_room],
            Action.FAIL_ONCE: operations,
        }
        found = []
        for kind in kinds:
            action, error = KINDS[kind]
            found += [Fault(kind, operation.number, action, error) for operation in places[action]]
            if action is Action.POWER_CUT:
                found.append(Fault(kind, len(self.operations) + 1000, action, error))
        return found

    def try_fault(self, fault: Fault) -> Outcome:
        """Run the command with a fault, then, unless it went on and ended well, again without one."""
        self.world.restore()
        ended = self.world.run(self.words, fault)
        hit = next((operation for operation in read_log(self.world.log) if operation.hit), None)
        unnamed = self._unnamed(ended) if ended.code > 0 else []
        if fault.action is Action.POWER_CUT and ended.code < 0:
            cut_files(self.world.log, self.world.path)
        found = digest(self.world.path)
        place = "the end" if hit is None else shown(hit, self.world.path)
        outcome = Outcome(self.name, fault.kind, fault.at, "died", place, "", [])
        if ended.code == 0 or hit is None:
            problems = differences(self.expected, found)
            if "warning" in ended.output and fault.action in (Action.FAIL_ONCE, Action.FAIL_FROM_HERE):
                problems = [line for line in problems if not DASHBOARDS.search(line)]
            return replace(outcome, what="went on" if hit else "ended", problems=problems)
        lost = {name: value for name, value in self._kept.items() if found.get(name) != value}
        problems = [*unnamed, *(f"lost at once: {name}" for name in lost), *self._after(found)]
        if ended.code > 0:
            outcome = replace(outcome, what="failed", message=last_words(ended))
        return replace(outcome, problems=problems)

    def _after(self, found: Digests) -> list[str]:
        """What is wrong after the command was run again in a world that a fault left like this."""
        key = tuple(sorted(found.items())), self.world.starts()
        if key not in self._again:
            again = self.world.run(self.words)
            problems = [f"again: exit code {again.code}: {last_words(again)}"] if again.code else []
            self._again[key] = problems + differences(self.expected, digest(self.world.path))
        return self._again[key]

    def _unnamed(self, ended: Ended) -> list[str]:
        """What is wrong with the message of a command that failed."""
        said = last_words(ended)
        if ended.code > 2 or not said.startswith("ldm-train:"):
            return [f"no message, exit code {ended.code}: {said}"]
        hits = [operation for operation in read_log(self.world.log) if operation.hit]
        if not any(_is_named(hit, said, self.world.path) for hit in hits):
            return [f"the message does not name the file: {said}"]
        return []


def distinct(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out of several writes in a row to one file, and its openings between them, all but the first and the last."""
    rows = [[*row] for _, row in groupby(operations, lambda op: (op.path, op.number * (op.name not in WRITES)))]
    return [operation for row in rows for operation in (row[:1] + row[-1:] if len(row) > 1 else row)]


def after_changes(operations: Sequence[Operation], *, nothing: Collection[str]) -> list[Operation]:
    """Leave out the operations that find the disk as the one before found it: what is named `nothing` changes nothing."""
    found = list(operations[:1])
    for before, operation in pairwise(operations):
        if not before.changes_nothing and before.name not in nothing:
            found.append(operation)
    return found


def _is_named(operation: Operation, message: str, world: Path) -> bool:
    """Whether a message has the path of an operation's file, of a neighbour (the final name), of its folder, or in it."""
    words = re.findall(r"[^\s'\"=:,;()]+/[^\s'\"=:,;()]+|(?<=')[^\s'\"=:,;()/]+(?=')", message)  # paths, and names in quotes
    named = {world / word for word in words} - {world}
    return any(
        name in (path, *path.parents) or name.parent == path.parent or path in name.parents
        for path in map(Path, operation.path.split(" -> "))
        for name in named
        if world in name.parents
    )


def shown(operation: Operation, world: Path) -> str:
    """An operation with names from the world's folder on."""
    return f"{operation.name} {operation.path}".replace(f"{world}/", "")


def last_words(ended: Ended) -> str:
    """The message of a command that ended, or what else it printed last."""
    lines = [line for line in ended.output.strip().splitlines() if line.strip()]
    said = [number for number, line in enumerate(lines) if line.startswith("ldm-train:")]
    return " / ".join(lines[said[-1] :] if said else lines[-2:])[:400]
