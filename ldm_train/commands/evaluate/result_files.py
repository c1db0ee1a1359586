"""Write the result of an evaluation: JSON for programs, Markdown for people, and a plot of a sweep."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.commands.evaluate.output_files import COMMENT, KIND
from ldm_train.commands.evaluate.sweep_plot import SweepPoint, plot_sweep
from ldm_train.metrics.numbers import Numbers
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.util.files import atomic_write
from ldm_train.util.held_out_figures import ENOUGH, pair_names
from ldm_train.util.processes import describe_call

FEWER_THAN_FEATURES = "fewer pictures than features; compare it only with results for as many pictures"
FLAGS = {
    "few_pictures": "precision, recall and retrieval of so few pictures can be high for pure noise, and the distances vary; "
    "compare them only with results for as many pictures",
    "few_held_out": f"fewer than {ENOUGH} pictures are held out: too few for these figures to mean much",
}
COUNTS = (
    "pictures",
    "taught_pictures",
    "held_out_pairs",
    "held_out_examples",
    "real_pictures",
    "step",
    "steps",
    "seed",
    "resamples",
)


@dataclass(frozen=True)
class Result:
    """The result of an evaluation.

    Args:
        numbers: what was measured.
        details: the model and the settings that were measured.
        sweep: details and numbers of every point of a sweep.
    """

    numbers: Numbers
    details: dict[str, object]
    sweep: list[tuple[dict[str, object], Numbers]] = field(default_factory=list)

    def plain(self) -> dict[str, object]:
        """Return the content of the JSON file."""
        content: dict[str, object] = {
            "kind": KIND,
            "command": describe_call(),
            **self.numbers.values,
            **self.details,
            "intervals": list_intervals(self.numbers),
        }
        if self.sweep:
            content["sweep"] = [
                {
                    **numbers.values,
                    "guidance": details["guidance"],
                    "steps": details["steps"],
                    "intervals": list_intervals(numbers),
                }
                for details, numbers in self.sweep
            ]
        return content


def list_intervals(numbers: Numbers) -> dict[str, list[float]]:
    return {name: list(ends) for name, ends in numbers.intervals.items()}


def write_result(settings: EvaluateSettings, result: Result) -> None:
    """Write all files of a result atomically, and print the JSON."""
    out, text = Path(settings.out), json.dumps(result.plain(), indent=2)
    if result.sweep:
        plot = plot_sweep(build_sweep_points(result.sweep), list_measures(result.sweep[0][1]))
        atomic_write(out.with_suffix(".svg"), f"{COMMENT}\n{plot}")
    lines = [COMMENT, *format_result(result, out.with_suffix(".svg").name)]
    atomic_write(out.with_suffix(".md"), "\n".join(lines) + "\n")
    atomic_write(out, text + "\n")
    print(text)
    print(f"wrote {out}")


def list_measures(numbers: Numbers) -> list[str]:
    """Return the names of the numbers that are measurements, without counts and flags."""
    return [name for name, value in numbers.values.items() if name not in COUNTS and not isinstance(value, bool | str)]


def format_result(result: Result, plot: str) -> Iterator[str]:
    plain = result.plain()
    yield from ("# Evaluation", "", f"`{plain['command']}`", "")
    yield from format_measures(result.numbers)
    for name, flag in result.numbers.values.items():
        if flag is True:
            yield from ("", f"`{name}`: {FLAGS.get(name, FEWER_THAN_FEATURES)}.")
    yield from ("", "| setting | value |", "|---|---|")
    counts: dict[str, object] = {name: value for name, value in result.numbers.values.items() if name in COUNTS}
    for name, value in (counts | result.details).items():
        yield f"| {name} | {format_detail(value)} |"
    if result.sweep:
        yield from ("", "## Sweep", "", *format_sweep_table(result.sweep), "", f"![The sweep's measures]({plot})")


def format_measures(numbers: Numbers) -> Iterator[str]:
    """Yield a table of the measurements, with those of trained captions next to those of held-out ones."""
    names = pair_names(list_measures(numbers))
    both = any(taught in numbers.values for taught in names.values())
    yield "| metric | held out | 95 % interval | trained | 95 % interval |" if both else "| metric | value | 95 % interval |"
    yield "|---|---|---|---|---|" if both else "|---|---|---|"
    for name, taught in names.items():
        columns = [format_value(numbers, one) for one in ((name, taught) if both else (name,))]
        yield f"| `{name}` | {' | '.join(columns)} |"


def format_value(numbers: Numbers, name: str) -> str:
    """Return the value and the interval of a measurement as two cells; they are empty if there is none."""
    ends = numbers.intervals.get(name)
    interval = "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"
    return f"{numbers.values[name]:.4g} | {interval}" if name in numbers.values else " | "


def format_detail(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return str(value)


def format_sweep_table(sweep: Sequence[tuple[dict[str, object], Numbers]]) -> Iterator[str]:
    names = list_measures(sweep[0][1])
    yield f"| guidance | steps | {' | '.join(f'`{name}`' for name in names)} |"
    yield "|---|---|" + "---|" * len(names)
    for point, (_, numbers) in zip(build_sweep_points(sweep), sweep, strict=True):
        cells = []
        for name in names:
            ends = numbers.intervals.get(name)
            interval = "" if ends is None else f" ({ends[0]:.4g} to {ends[1]:.4g})"
            cells.append(f"{numbers.values[name]:.4g}{interval}")
        yield f"| {point.guidance:g} | {point.steps} | {' | '.join(cells)} |"


def build_sweep_points(sweep: Sequence[tuple[dict[str, object], Numbers]]) -> list[SweepPoint]:
    points = []
    for details, numbers in sweep:
        guidance, steps = details["guidance"], details["steps"]
        assert isinstance(guidance, dict)
        assert isinstance(steps, int)
        points.append(SweepPoint(float(guidance["scale"]), steps, numbers))
    return points
