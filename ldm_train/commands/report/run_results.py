"""Show the numbers of runs: metrics with their best values, evaluations with their commands, and the use of time."""

from collections.abc import Iterator, Mapping, Sequence

from ldm_train.commands.report.run_curves import MEASURED, SHARES, ReportedRun, list_metric_names
from ldm_train.reports.axes import format_number
from ldm_train.reports.charts import Bars
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs, ShellCommand
from ldm_train.run_dir.metric_names import best_value, lower_is_better, metric_title
from ldm_train.run_dir.run_settings import format_setting
from ldm_train.util.held_out_figures import pair_names

MANY_PICTURES = 1000  # as `metrics/sets.py` has it, which imports torch
ROWS = 200  # at most, in a table of an evaluation
SHARE_WORDS = {
    "time/wait_for_data": "waiting for data",
    "time/share_pictures": "pictures",
    "time/share_validation": "validation",
    "time/share_metrics": "metrics",
}


def build_metrics_table(runs: Sequence[ReportedRun]) -> DataTable:
    """Return a table of the metrics measured during training: the last value, and the best one with its step."""
    rows = []
    for name in [*MEASURED, "held_out_psnr", "train_psnr", *list_metric_names(runs)]:
        for one in (one for one in runs if name in one.run.series):
            series = one.run.series[name].finite
            found = best_value(name, series)
            if found is not None:
                title, (step, value_at_step) = metric_title(name), found
                direction = "lowest" if lower_is_better(name) else "highest"
                row = [title, format_number(series.last), format_number(value_at_step), f"{step:,}", direction]
                rows.append(row if one.is_only else [f"{title}, {one.name}", *row[1:]])
    columns = ["measured during training", "last", "best", "at step", "best is the"]
    return DataTable(columns, rows, numeric=columns[1:4])


def build_sets_note(runs: Sequence[ReportedRun]) -> Paragraphs:
    """State the number of pictures behind the metrics, and whether they are too few for a Fréchet distance."""
    return Paragraphs([one.label(_measured_on(one.run.sets[-1])) for one in runs if one.run.sets])


def _measured_on(metadata: Mapping[str, object]) -> str:
    against = "held-out pictures" if metadata.get("held_out") else "training pictures"
    drawn = f"{metadata.get('pictures')} pictures, drawn in {metadata.get('steps')} steps"
    sentence = f"Metrics of sets are of {drawn}, against {against}."
    count = metadata.get("pictures")
    if metadata.get("held_out") and metadata.get("taught_pictures"):
        sentence += f" Those of trained captions are of {metadata['taught_pictures']}."
    if isinstance(count, int) and count < MANY_PICTURES:
        sentence += " Precision, recall and retrieval of so few can be high for pure noise."
    if not metadata.get("rank_deficient"):
        return sentence
    few = f"These are fewer than the {metadata.get('features')} features of {metadata.get('extractor')}"
    return f"{sentence} {few}: compare the FID only with results for as many pictures, and prefer the KID."


def build_evaluation_blocks(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return the results of `ldm-train evaluate` that are in the run directories."""
    blocks: list[PageBlock] = []
    for one in runs:
        for name, result in one.run.evaluations.items():
            blocks.append(_evaluation_table(result, one.label(name)))
            blocks += [_rows(key, part) for key, part in result.items() if _is_table(part)]
            blocks.append(ShellCommand(_command(result.get("command"))))
    return blocks


def _evaluation_table(result: Mapping[str, object], name: str) -> DataTable:
    """Return the values of an evaluation; if some are of trained captions, they stand next to those of held-out ones."""
    values = {key: part for key, part in _flat(result) if key not in ("kind", "command")}
    pairs = pair_names(values)
    both = any(taught in values and key in values for key, taught in pairs.items())
    columns = ["evaluation", name, "95 % interval"]
    if both:
        columns = ["evaluation", f"{name}: held out", "95 % interval", "trained", "95 % interval"]
        keys = [(key, taught) for key, taught in pairs.items()]
    else:
        keys = [(key, "") for key in values]
    rows = []
    for pair in keys:
        cells = [cell for key in pair for cell in (_text(values.get(key, "")), format_interval(result, key))]
        rows.append([pair[0], *cells][: len(columns)])
    if not any(cell for row in rows for cell in row[2::2]):  # without intervals
        columns, rows = [columns[0], *columns[1::2]], [[row[0], *row[1::2]] for row in rows]
    return DataTable(columns, rows, max_rows=30)


def format_interval(result: Mapping[str, object], name: str) -> str:
    """Return the interval of a number of an evaluation as "low to high", or nothing if it has none."""
    intervals = result.get("intervals")
    ends = intervals.get(name) if isinstance(intervals, Mapping) else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return ""
    return f"{format_number(ends[0])} to {format_number(ends[1])}"


def build_time_bars(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return bars of the shares of the wall-clock time so far."""
    blocks: list[PageBlock] = []
    for one in runs:
        named = {name: series.finite for name, series in one.run.series.items() if name.startswith(SHARES)}
        shares = {SHARE_WORDS.get(name, name.partition("_")[2].replace("_", " ")): s.last for name, s in named.items()
                  if len(s.values)}  # fmt: skip
        shares = {name: min(max(share, 0.0), 1.0) for name, share in shares.items()}
        rows = [("training", max(0.0, 1 - sum(shares.values()))), *shares.items()] if shares else []
        blocks.append(
            Bars([(name, share, f"{share:.1%}") for name, share in rows], unit=one.label("share of the wall-clock"))
        )
    return blocks


def measure_watching_share(runs: Sequence[ReportedRun]) -> float | None:
    """Return the share of the wall-clock time for pictures, validation and metrics; None if it is unknown or runs differ."""
    series = [s.finite for one in runs for name, s in one.run.series.items() if name.startswith("time/share_")]
    return sum(s.last for s in series if len(s.values)) if series and len(runs) == 1 else None


def _command(command: object) -> str:
    return " ".join(map(str, command)) if isinstance(command, list) else str(command or "")


def _flat(result: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield values by dotted names, without lists of rows, which become tables."""
    for key, part in result.items():
        if key == "intervals":
            continue  # they are runs next to their numbers
        if isinstance(part, Mapping):
            yield from _flat(part, f"{prefix}{key}.")
        elif not _is_table(part):
            yield f"{prefix}{key}", part


def _is_table(part: object) -> bool:
    return isinstance(part, list) and bool(part) and all(isinstance(row, Mapping) for row in part)


def _rows(name: str, part: object) -> DataTable:
    assert isinstance(part, list)
    flat = [dict(_flat(row)) for row in part[:ROWS]]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    texts = [
        [f"{_text(row.get(column, ''))} {format_interval(result, column)}".strip() for column in columns]
        for row, result in zip(flat, part, strict=False)
    ]
    numeric = [key for key in columns if all(isinstance(row.get(key, 0), int | float) for row in flat)]
    return DataTable(columns or [name], texts if columns else [], numeric=numeric, caption=name)


def _text(part: object) -> str:
    if isinstance(part, float) or (isinstance(part, int) and not isinstance(part, bool)):
        return format_number(part)
    if isinstance(part, list) and part and all(isinstance(one, float) for one in part):
        return ", ".join(format_number(one) for one in part)
    return format_setting(part)
