"""A report's numbers: metrics with their best values, evaluations with their commands, and where the time went."""

from collections.abc import Iterator, Mapping, Sequence

from ldm_train.commands.report.run_curves import MEASURED, SHARES, Shown, metric_names
from ldm_train.reports.axes import format_number
from ldm_train.reports.charts import Bars
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs, ShellCommand
from ldm_train.run_dir.metric_names import best, lower_is_better, metric_title
from ldm_train.run_dir.run_settings import value

ROWS = 200  # of a table in an evaluation
SHARE_WORDS = {
    "time/wait_for_data": "waiting for data",
    "time/share_pictures": "pictures",
    "time/share_validation": "validation",
    "time/share_metrics": "metrics",
}


def logged(shown: Sequence[Shown]) -> DataTable:
    """What was measured while a run trained: the last value, and the best one with its step."""
    rows = []
    for name in [*MEASURED, "held_out_psnr", "train_psnr", *metric_names(shown)]:
        for one in (one for one in shown if name in one.run.series):
            series = one.run.series[name].finite
            found = best(name, series)
            if found is not None:
                words = metric_title(name)
                direction = "lowest" if lower_is_better(name) else "highest"
                row = [words, format_number(series.last), format_number(found[1]), f"{found[0]:,}", direction]
                rows.append(row if one.alone else [f"{words}, {one.name}", *row[1:]])
    columns = ["measured while training", "last", "best", "at step", "best is the"]
    return DataTable(columns, rows, numeric=columns[1:4])


def measured_on(shown: Sequence[Shown]) -> Paragraphs:
    """Of how many pictures the metrics are, and where those are too few for a Fréchet distance."""
    return Paragraphs([one.label(_measured_on(one.run.sets[-1])) for one in shown if one.run.sets])


def _measured_on(told: Mapping[str, object]) -> str:
    against = "held-out pictures" if told.get("held_out") else "pictures of the training"
    words = f"Metrics of sets are of {told.get('pictures')} pictures, drawn in {told.get('steps')} steps, against {against}."
    if not told.get("rank_deficient"):
        return words
    few = f"These are fewer than the {told.get('features')} features of {told.get('extractor')}"
    return f"{words} {few}: compare its FID at this number alone, and look at its KID first."


def evaluations(shown: Sequence[Shown]) -> list[PageBlock]:
    """The results of `ldm-train evaluate`, whatever is in them."""
    found: list[PageBlock] = []
    for one in shown:
        for name, told in one.run.evaluations.items():
            rows = [(key, _text(part), interval(told, key)) for key, part in _flat(told) if key not in ("kind", "command")]
            columns = ["evaluation", one.label(name), "95 % interval"]
            some = any(ends for _, _, ends in rows)
            found.append(
                DataTable(columns, rows, max_rows=30)
                if some
                else DataTable(columns[:2], [row[:2] for row in rows], max_rows=30)
            )
            found += [_rows(key, part) for key, part in told.items() if _is_table(part)]
            found.append(ShellCommand(_command(told.get("command"))))
    return found


def interval(told: Mapping[str, object], name: str) -> str:
    """Where a number's interval is among those of an evaluation, from its lower to its upper end."""
    every = told.get("intervals")
    ends = every.get(name) if isinstance(every, Mapping) else None
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return ""
    return f"{format_number(ends[0])} to {format_number(ends[1])}"


def time_spent(shown: Sequence[Shown]) -> list[PageBlock]:
    """Shares of the wall-clock so far, as bars."""
    found: list[PageBlock] = []
    for one in shown:
        named = {name: series.finite for name, series in one.run.series.items() if name.startswith(SHARES)}
        shares = {SHARE_WORDS.get(name, name.partition("_")[2].replace("_", " ")): s.last for name, s in named.items()
                  if len(s.values)}  # fmt: skip
        shares = {name: min(max(share, 0.0), 1.0) for name, share in shares.items()}
        rows = [("training", max(0.0, 1 - sum(shares.values()))), *shares.items()] if shares else []
        found.append(
            Bars([(name, share, f"{share:.1%}") for name, share in rows], unit=one.label("share of the wall-clock"))
        )
    return found


def shares_apart(shown: Sequence[Shown]) -> float | None:
    """What part of the wall-clock of the only run went into pictures, validation and metrics; None where it is unknown."""
    series = [s.finite for one in shown for name, s in one.run.series.items() if name.startswith("time/share_")]
    return sum(s.last for s in series if len(s.values)) if series and len(shown) == 1 else None


def _command(found: object) -> str:
    return " ".join(map(str, found)) if isinstance(found, list) else str(found or "")


def _flat(told: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Values by dotted names; lists of rows are tables of their own."""
    for key, part in told.items():
        if key == "intervals":
            continue  # they stand beside their numbers
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
        [f"{_text(row.get(column, ''))} {interval(told, column)}".strip() for column in columns]
        for row, told in zip(flat, part, strict=False)
    ]
    numeric = [key for key in columns if all(isinstance(row.get(key, 0), int | float) for row in flat)]
    return DataTable(columns or [name], texts if columns else [], numeric=numeric, caption=name)


def _text(part: object) -> str:
    if isinstance(part, float) or (isinstance(part, int) and not isinstance(part, bool)):
        return format_number(part)
    if isinstance(part, list) and part and all(isinstance(one, float) for one in part):
        return ", ".join(format_number(one) for one in part)
    return value(part)
