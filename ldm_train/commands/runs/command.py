"""`ldm-train runs DIR`: list the runs in a folder and its subfolders, as a table or as JSON."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ldm_train.reports.axes import format_number
from ldm_train.run_dir.metric_names import BINS, LIMITS, best_value, lower_is_better, metric_title, say_if_few_held_out
from ldm_train.run_dir.reading import RunRead, Series, is_run_directory, read_runs
from ldm_train.run_dir.run_settings import ABSENT, list_differences, list_loss_differences, short_names
from ldm_train.run_dir.run_state import Word, state_of, time_of
from ldm_train.settings.schema.using import RunsSettings
from ldm_train.util.held_out_figures import TAUGHT
from ldm_train.util.messages import warn
from ldm_train.util.text import nearest

DASHBOARDS = {"tensorboard", "wandb", "mlflow", "trackio"}
PASSED_OVER = DASHBOARDS | {"checkpoints", "samples", "nonfinite", "evaluations", "autoencoder"}
PLACES = ("started", "name", "state", "step", "speed")
COLOURS: dict[Word, str] = {
    "running": "cyan", "finished": "green", "interrupted": "yellow", "failed": "red", "killed": "red", "stopped": "yellow"
}  # fmt: skip
FIRST = ("validation_loss", "held_out_psnr", "metrics/kid", "metrics/retrieval", "metrics/clip_score")
NOISE_ERROR = "validation_noise_mse"
SHOWN = 4  # metrics in the table; the JSON has all
WIDE = 10_000  # columns if the output is not a terminal, so that nothing is cut
BEGINNING = datetime.min.replace(tzinfo=UTC)


def run(settings: RunsSettings) -> None:
    """Print the runs in a folder.

    Raises:
        ValueError: there is no such folder, it contains no run, or `sort` names no column or metric.
    """
    folder = Path(settings.dir)
    if not folder.is_dir():
        raise ValueError(f"dir={folder} is not a folder; `ldm-train runs DIR` lists the runs in DIR")
    runs, warnings = read_runs(find_run_dirs(folder))
    for warning in warnings:
        warn(warning)
    if not runs:
        damaged = f" ({len(warnings)} cannot be read)" if warnings else ""
        raise ValueError(f"dir={folder} contains no run{damaged}; a run directory has a config.yaml and a run.json")
    runs = sort_runs(runs, str(settings.sort))
    if differences := list_loss_differences(runs):
        print(
            f"note: the losses of these runs are not of one kind ({'; '.join(differences)}); compare {NOISE_ERROR}, "
            "the error of the noise that each implies, or metrics of pictures",
            file=sys.stderr,
        )
    for one in runs:
        if few := say_if_few_held_out(one):
            print(f"note: {one.path}: {few}", file=sys.stderr)
    if settings.format == "json":
        print(json.dumps(list_plain_runs(runs), indent=2))
    else:
        print_table(runs, Console(width=None if sys.stdout.isatty() else WIDE))


def print_table(runs: Sequence[RunRead], console: Console) -> None:
    """Print one table if it fits; else as many columns as fit, and a second table of the settings that differ."""
    unbounded = console.options.update(width=WIDE)
    whole = build_table(runs)
    if whole.__rich_measure__(console, unbounded).maximum <= console.width:
        return console.print(whole)
    for left_out in (("what differs",), ("what differs", "started"), ("what differs", "started", "its best", "best")):
        smaller = build_table(runs, left_out=left_out)
        if smaller.__rich_measure__(console, unbounded).minimum <= console.width:
            break
    console.print(smaller)
    return console.print(build_differences_table(runs))


def find_run_dirs(folder: Path) -> Iterator[Path]:
    """Yield run directories by name, without searching the folders that runs write."""
    for place, below, _ in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith(".") and name not in PASSED_OVER)
        if is_run_directory(Path(place)):
            yield Path(place)


def sort_runs(runs: Sequence[RunRead], by: str) -> list[RunRead]:
    """Return runs sorted by a column or metric; runs without the value come last.

    Raises:
        ValueError: `by` is neither a column nor a metric of any run.
    """
    if by == "started":
        return sorted(runs, key=lambda run: read_first_start(run) or BEGINNING, reverse=True)
    if by == "name":
        return sorted(runs, key=lambda run: str(run.path))
    if by == "state":
        return sorted(runs, key=lambda run: state_of(run).word)
    if by in ("step", "speed"):
        return sorted(runs, key=lambda run: -(run.step if by == "step" else read_speed(run) or 0))
    name = _metric(runs, by)
    sign = 1 if lower_is_better(name) else -1

    def place(run: RunRead) -> tuple[bool, float]:
        found = best_value(name, run.series[name]) if name in run.series else None
        return (found is None, sign * found[1] if found else 0.0)

    return sorted(runs, key=place)


def _metric(runs: Sequence[RunRead], by: str) -> str:
    known = {name for run in runs for name in run.series if not name.startswith("time/")}
    for name in (by, f"metrics/{by}"):
        if name in known:
            return name
    plain = {name.removeprefix("metrics/") for name in known if not name.endswith(LIMITS)}
    short = sorted(name for name in plain if "/" not in name)
    suggestion = nearest(by, [*PLACES, *short])
    raise ValueError(f"sort={by} is not known; accepted: {', '.join([*PLACES, *short])}{suggestion}")


def select_metrics(run: RunRead) -> dict[str, Series]:
    """Return the series that measure how good a run is, by name."""
    kinds = ("validation_", TAUGHT, "metrics/", "held_out_", "train_psnr")
    series = {name: s for name, s in run.series.items() if name.startswith(kinds) and not name.startswith(BINS)}
    return {name: s for name, s in series.items() if not name.endswith(LIMITS)}


def build_table(runs: Sequence[RunRead], *, left_out: tuple[str, ...] = ()) -> Table:
    """Return a table with a row for each run; the settings that differ are in one column.

    Args:
        left_out: prefixes of the names of columns to leave out.
    """
    differ = _differs(runs)
    measure = NOISE_ERROR if list_loss_differences(runs) else "validation_loss"
    rows = [_row(name, run, differs, measure) for name, run, differs in zip(_names(runs), runs, differ, strict=True)]
    metrics = [name for name in _columns(runs) if name not in ("validation_loss", measure)]
    for row, run in zip(rows, runs, strict=True):
        row |= {f"best {metric_title(name)}": Text(_best(run, name)) for name in metrics}
        row["what differs"] = row.pop("what differs")  # move it to the end
    shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    kept = [name for name in rows[0] if not name.startswith(left_out or ("-",))]
    for name in kept:
        words = name in ("run", "state", "started", "what differs")
        shown.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=name in ("state", "started"))
    for row in rows:
        shown.add_row(*(row[name] for name in kept))
    return shown


def _row(name: str, run: RunRead, differs: str, measure: str) -> dict[str, Text]:
    last, word = run.series.get(measure), state_of(run).word
    plain = {
        "started": _moment(read_first_start(run)),
        "step": f"{run.step:,}/{run.max_steps:,}",
        "samples/s": _rounded(read_speed(run)),
        measure.replace("_", " "): format_number(last.last) if last else "",
        "its best": _best(run, measure),
        "what differs": differs,
    }
    words = {name: Text(value) for name, value in plain.items()}
    return {"run": Text(name), "state": Text(word, style=COLOURS[word]), **words}


def build_differences_table(runs: Sequence[RunRead]) -> Table:
    """Return a table of the settings that differ, with a row for each run; empty if none differs."""
    shown = Table("", "what differs", box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=True)
    differ = _differs(runs)
    for name, differs in zip(_names(runs), differ, strict=True) if any(differ) else ():
        shown.add_row(Text(name), Text(differs))
    return shown


def _names(runs: Sequence[RunRead]) -> list[str]:
    return short_names([run.path for run in runs])


def _differs(runs: Sequence[RunRead]) -> list[str]:
    """Return the settings of each run that are not the same in all runs."""
    others = {
        name: values for name, values in list_differences(runs).items() if name != "max_steps"
    }  # is in the column of steps
    return [", ".join(f"{name}={v[i]}" for name, v in others.items() if v[i] != ABSENT) for i in range(len(runs))]


def list_plain_runs(runs: Sequence[RunRead]) -> list[dict[str, object]]:
    """Return the runs as plain values for JSON."""
    others = list_differences(runs)
    return [
        {
            "run_dir": str(run.path),
            "state": state_of(run).word,
            "message": state_of(run).text,
            "step": run.step,
            "saved_step": run.saved,
            "max_steps": run.max_steps,
            "samples_per_second": read_speed(run),
            "started": None if read_first_start(run) is None else str(run.starts[0].get("time")),
            "starts": len(run.starts),
            "metrics": {name: _plain(name, series) for name, series in select_metrics(run).items()},
            "differs": {name: values[i] for name, values in others.items() if values[i] != ABSENT},
        }
        for i, run in enumerate(runs)
    ]


def read_speed(run: RunRead) -> float | None:
    """Return the examples per second that were logged last, or None."""
    found = run.series.get("time/samples_per_second")
    return None if found is None or not len(found.finite.values) else found.finite.last


def read_first_start(run: RunRead) -> datetime | None:
    """Return the time of the first start, or None if it is unknown."""
    return time_of(run.starts[0]) if run.starts else None


def _columns(runs: Sequence[RunRead]) -> list[str]:
    every = sorted({name for run in runs for name in select_metrics(run)})
    return [name for first in FIRST for name in every if name.startswith(first) and not name.endswith("_raw")][:SHOWN]


def _best(run: RunRead, name: str) -> str:
    found = best_value(name, run.series[name]) if name in run.series else None
    return "" if found is None else format_number(found[1])


def _plain(name: str, series: Series) -> dict[str, float | int | None]:
    found = best_value(name, series)
    last = series.last if len(series.finite.values) and series.finite.steps[-1] == series.steps[-1] else None
    return {"last": last, "best": None if found is None else found[1], "best_step": None if found is None else found[0]}


def _rounded(value: float | None) -> str:
    return "" if value is None else format_number(float(f"{value:.3g}"))


def _moment(found: datetime | None) -> str:
    return "" if found is None else found.astimezone().strftime("%Y-%m-%d %H:%M")
