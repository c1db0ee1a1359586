"""Two processes at once: one is stopped at an operation, the other one runs to its end, then the first goes on.

Two that write the same place must come to what one of them alone, or one after the other, comes to; whoever is refused is
refused by name. A reader must leave what it reads from alone.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.campaign import Outcome, after_changes, distinct, last_words, shown
from faults.compare import Digests, differences, digest
from faults.shim import Action, Fault, read_log
from faults.world import AUTOENCODER, ENCODE, EVALUATE, FOLDER, SAMPLE, TRAIN, World
from faults.zygote import Ended


@dataclass(frozen=True)
class Pair:
    """What is stopped, and what runs meanwhile; `reader`: the second one only reads, and writes into `seen` alone."""

    first: list[str]
    second: list[str]
    reader: bool = False


ENCODED = [*ENCODE, "source.path=pictures", "cache=again/cache"]
TRAINED = [*TRAIN, "cache=again/cache", "run_dir=made/run"]
NEW = [*ENCODE, "cache=made/cache"]
LIVE = [*TRAIN, "run_dir=cut"]
FILE, REPORT = ["export", "run_dir=run", "out=made/a.safetensors"], ["report", "out=made/a.html"]
SEEN = ["run_dir=cut", "steps=2", "device=cpu", "prompts=[a]", "out=seen/pictures"]
PAIRS: dict[str, Pair] = {
    "two encode": Pair([*NEW, "source.path=pictures"], [*NEW, "source.path=few"]),
    "two train": Pair([*TRAIN, "run_dir=made/run"], [*TRAIN, "run_dir=made/run", "seed=1"]),
    "two train_autoencoder": Pair([*AUTOENCODER, "run_dir=made/run"], [*AUTOENCODER, "run_dir=made/run", "seed=1"]),
    "two export file": Pair(FILE, [*FILE, "weights=raw"]),
    "two export folder": Pair([*FOLDER, "out=again/pipeline"], [*FOLDER, "out=again/pipeline", "weights=raw"]),
    "two sample": Pair([*SAMPLE, "prompts=[a,b]", "out=made/a"], [*SAMPLE, "prompts=[c,d,e]", "out=made/a"]),
    "two evaluate": Pair([*EVALUATE, "out=made/numbers.json"], [*EVALUATE, "out=made/numbers.json", "seed=1"]),
    "two report": Pair([*REPORT, "run_dir=run"], [*REPORT, "run_dir=cut"]),
    "train while encode swaps its cache": Pair(ENCODED, TRAINED),
    "encode swaps the cache while train reads it": Pair(TRAINED, ENCODED),
    "report while train writes": Pair(LIVE, ["report", "run_dir=cut", "out=seen/page.html"], reader=True),
    "runs while train writes": Pair(LIVE, ["runs", "."], reader=True),
    "sample while train writes": Pair(LIVE, ["sample", *SEEN], reader=True),
    "export while train writes": Pair(LIVE, ["export", "run_dir=cut", "out=seen/a.safetensors"], reader=True),
}


class Meeting:
    """Two command lines, and all that they may come to."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name, self.pair = world, name, PAIRS[name]
        first, second = self.pair.first, self.pair.second
        self.alone = {"first": self._after([first])}
        self.operations = read_log(world.log)
        if not self.pair.reader:
            self.alone["second"] = self._after([second])
        self.both = {} if self.pair.reader else {"first, second": self._after([first, second])}
        if not self.pair.reader:
            self.both["second, first"] = self._after([second, first])

    def _after(self, commands: Sequence[Sequence[str]]) -> Digests:
        """The world after these commands, one after the other; whether one of them is refused does not matter."""
        self.world.restore()
        for number, words in enumerate(commands):
            ended = self.world.run(words)
            if number == 0 and ended.code:
                raise RuntimeError(f"{shlex.join(words)} ended with {ended.code} alone:\n{ended.output}")
        return digest(self.world.path)

    def faults(self) -> list[Fault]:
        """A stop at each operation of the first command before which the disk changed."""
        places = after_changes(distinct(self.operations), nothing=("flush",))
        return [Fault("stop", operation.number, Action.STOP) for operation in places]

    def try_fault(self, fault: Fault) -> Outcome:
        """Stop the first there, run the second, and let the first end."""
        self.world.restore()
        child = self.world.start(self.pair.first, fault)
        early = child.wait()
        second = self.world.run(self.pair.second, name="second")
        child.resume() if early is None else None
        first = early or child.wait()
        assert first is not None
        hit = next((operation for operation in read_log(self.world.log) if operation.hit), None)
        found = {name: value for name, value in digest(self.world.path).items() if not self._is_readers(name)}
        problems = _bad_end("first", first, self.world.path) + _bad_end("second", second, self.world.path)
        what = f"first {_word(first)}, second {_word(second)}"
        return Outcome(
            self.name,
            "stop",
            fault.at,
            what,
            "the end" if hit is None else shown(hit, self.world.path),
            "".join(last_words(ended) for ended in (first, second) if ended.code),
            problems + self._mixed(first, second, found),
        )

    def _is_readers(self, name: str) -> bool:
        return self.pair.reader and name.partition("/")[0] == "seen"

    def _mixed(self, first: Ended, second: Ended, found: Digests) -> list[str]:
        """How the world differs from each that it may be, given who ended well."""
        if self.pair.reader:
            return differences(self.alone["first"], found) + ([f"the writer ended with {first.code}"] if first.code else [])
        if first.code and second.code:
            return [f"both were refused: {last_words(first)} | {last_words(second)}"]
        allowed = {**self.both, **({"first": self.alone["first"]} if second.code else {})}
        allowed |= {"second": self.alone["second"]} if first.code else {}
        if found in allowed.values():
            return []
        return [f"not as {name}: {'; '.join(differences(world, found)[:4])}" for name, world in allowed.items()]


def _word(ended: Ended) -> str:
    return "ended well" if ended.code == 0 else "was refused"


def _bad_end(which: str, ended: Ended, world: Path) -> list[str]:
    """A traceback, or a refusal that names nothing in the world."""
    if "Traceback" in ended.output or ended.code not in (0, 1):
        return [f"the {which}: exit code {ended.code}: {last_words(ended)}"]
    if ended.code and "/" not in last_words(ended):
        return [f"the {which} names no file or folder: {last_words(ended)}"]
    return []
