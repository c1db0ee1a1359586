"""An evaluation's result as files: JSON for programs, Markdown for people, and a plot of a sweep."""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.commands.evaluate.measured import Numbers
from ldm_train.commands.evaluate.output_files import COMMENT, KIND
from ldm_train.commands.evaluate.sweep_plot import Point, curves
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.util.files import atomic_write

COUNTS = ("pictures", "held_out_pairs", "held_out_examples", "real_pictures", "step", "steps", "seed", "resamples")


@dataclass(frozen=True)
class Result:
    """Measured numbers, what is told of how they came about, and both at every point of a sweep."""

    numbers: Numbers
    told: dict[str, object]
    sweep: list[tuple[dict[str, object], Numbers]] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """As it stands in the JSON file."""
        found: dict[str, object] = {
            "kind": KIND,
            "command": shlex.join(["ldm-train", *sys.argv[1:]]),
            **self.numbers.values,
            **self.told,
            "intervals": intervals(self.numbers),
        }
        if self.sweep:
            found["sweep"] = [
                {**numbers.values, "guidance": told["guidance"], "steps": told["steps"], "intervals": intervals(numbers)}
                for told, numbers in self.sweep
            ]
        return found


def intervals(numbers: Numbers) -> dict[str, list[float]]:
    return {name: list(ends) for name, ends in numbers.intervals.items()}


def write(config: EvaluateSettings, result: Result) -> None:
    """All files, each whole or not at all, and the numbers on the terminal."""
    out, text = Path(config.out), json.dumps(result.plain(), indent=2)
    if result.sweep:
        plot = curves(sweep_points(result.sweep), measures(result.sweep[0][1]))
        atomic_write(out.with_suffix(".svg"), f"{COMMENT}\n{plot}")
    lines = [COMMENT, *markdown(result, out.with_suffix(".svg").name)]
    atomic_write(out.with_suffix(".md"), "\n".join(lines) + "\n")
    atomic_write(out, text + "\n")
    print(text)
    print(f"written to {out}")


def measures(numbers: Numbers) -> list[str]:
    """The names of what is a measure, not a count or a flag."""
    return [name for name, value in numbers.values.items() if name not in COUNTS and not isinstance(value, bool | str)]


def markdown(result: Result, plot: str) -> Iterator[str]:
    plain = result.plain()
    yield from ("# Evaluation", "", f"`{plain['command']}`", "")
    yield from ("| metric | value | 95 % interval |", "|---|---|---|")
    for name in measures(result.numbers):
        ends = result.numbers.intervals.get(name)
        interval = "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"
        yield f"| `{name}` | {result.numbers.values[name]:.4g} | {interval} |"
    for name, flag in result.numbers.values.items():
        if flag is True:
            yield from ("", f"`{name}`: fewer pictures than features, so it compares only at this very number of them.")
    yield from ("", "| setting | value |", "|---|---|")
    counts: dict[str, object] = {name: value for name, value in result.numbers.values.items() if name in COUNTS}
    for name, value in (counts | result.told).items():
        yield f"| {name} | {told(value)} |"
    if result.sweep:
        yield from ("", "## Sweep", "", *sweep_table(result.sweep), "", f"![The sweep's measures]({plot})")


def told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return str(value)


def sweep_table(sweep: Sequence[tuple[dict[str, object], Numbers]]) -> Iterator[str]:
    names = measures(sweep[0][1])
    yield f"| guidance | steps | {' | '.join(f'`{name}`' for name in names)} |"
    yield "|---|---|" + "---|" * len(names)
    for point, (_, numbers) in zip(sweep_points(sweep), sweep, strict=True):
        cells = []
        for name in names:
            ends = numbers.intervals.get(name)
            interval = "" if ends is None else f" ({ends[0]:.4g} to {ends[1]:.4g})"
            cells.append(f"{numbers.values[name]:.4g}{interval}")
        yield f"| {point.guidance:g} | {point.steps} | {' | '.join(cells)} |"


def sweep_points(sweep: Sequence[tuple[dict[str, object], Numbers]]) -> list[Point]:
    found = []
    for told_of_it, numbers in sweep:
        guidance, steps = told_of_it["guidance"], told_of_it["steps"]
        assert isinstance(guidance, dict)
        assert isinstance(steps, int)
        found.append(Point(float(guidance["scale"]), steps, numbers))
    return found
