"""Plot the validation loss by log-SNR: as lines for some steps, and as a heatmap over the training."""

from collections.abc import Sequence
from math import isfinite
from typing import TypeGuard

import numpy as np

from ldm_train.commands.report.run_curves import ReportedRun, describe_targets, join_notes
from ldm_train.reports.curves import Charts, CurveLine, Curves
from ldm_train.reports.heatmap import Heatmap
from ldm_train.reports.page_blocks import PageBlock
from ldm_train.run_dir.reading import Plain, RunRead

COLUMNS = 60  # at most, in a heatmap
MAPS = 4  # at most so many runs get a heatmap
STEPS = ((7, "dashed"), (2, ""), (1, ""), (0, ""))  # colour and style of the first line, two in between, and the last
ENDS = ("nearly noise", "nearly clean")


def build_loss_blocks(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return one plot with lines, and a heatmap for each of the first runs."""
    binned = [(one, select_bins(one.run)) for one in runs]
    lines = [line for one, bins in binned if bins for line in (_over_time(bins) if one.is_only else [_last(one, bins)])]
    title = "Loss by log-SNR" if len(runs) == 1 else "Loss by log-SNR, at each run's last measurement"
    note = join_notes(f"from {ENDS[0]} on the left to {ENDS[1]} on the right", describe_targets(runs))
    plot = Curves(title, lines, log=all((line.y > 0).any() for line in lines), x_name="log-SNR", note=note)
    return [Charts([plot]), *(_heatmap(one, bins) for one, bins in binned[:MAPS] if len(bins) > 1)]


def select_bins(run: RunRead) -> list[Plain]:
    """Return the measurements of the averaged weights (else of the raw ones) that have the same bins as the last one."""
    kinds = {str(line.get("weights")) for line in run.bins}
    kept = [line for line in run.bins if line.get("weights") == "ema" or "ema" not in kinds]
    return [line for line in kept if line["edges"] == kept[-1]["edges"]]


def read_edges(line: Plain) -> list[float]:
    """Return the edges of the bins; an infinite edge is moved so that its bin is as wide as the neighbour."""
    edges = _numbers(line["edges"])
    if not isfinite(edges[0]):
        edges[0] = 2 * edges[1] - edges[2] if len(edges) > 2 else edges[1] - 1
    if not isfinite(edges[-1]):
        edges[-1] = 2 * edges[-2] - edges[-3] if len(edges) > 2 else edges[-2] + 1
    return edges


def _over_time(bins: Sequence[Plain]) -> list[CurveLine]:
    places = np.unique(np.linspace(0, len(bins) - 1, len(STEPS)).round().astype(int)).tolist()
    kinds = STEPS[-len(places) :]
    return [
        _line(bins[i], f"step {bins[i]['step']:,}", colour, dashed=bool(kind), band=i == places[-1])
        for i, (colour, kind) in zip(places, kinds, strict=True)
    ]


def _last(one: ReportedRun, bins: Sequence[Plain]) -> CurveLine:
    return _line(bins[-1], f"{one.name}, step {bins[-1]['step']:,}", one.number, dashed=False, band=True)


def _line(measurement: Plain, label: str, colour: int, *, dashed: bool, band: bool) -> CurveLine:
    edges = np.array(read_edges(measurement))
    low, high = (_ends(measurement, name) if band else None for name in ("loss_low", "loss_high"))
    middles, loss = (edges[1:] + edges[:-1]) / 2, np.array(_numbers(measurement["loss"]))
    return CurveLine(label, middles, loss, low, high, colour=colour, dashed=dashed, dots=not dashed)


def _ends(measurement: Plain, name: str) -> np.ndarray | None:
    """Return one end of the intervals, (bins,), or None if they were not measured."""
    ends = measurement.get(name)
    fits = _is_list(ends) and len(ends) == len(_numbers(measurement["loss"]))
    return np.array(_numbers(ends)) if fits else None


def _heatmap(one: ReportedRun, bins: Sequence[Plain]) -> Heatmap:
    kept = [bins[i] for i in np.unique(np.linspace(0, len(bins) - 1, COLUMNS).round().astype(int)).tolist()]
    title = "Loss by log-SNR over the training"
    return Heatmap(
        title if one.is_only else f"{title}: {one.name}",
        [int(str(line["step"])) for line in kept],
        read_edges(kept[-1]),
        [_numbers(line["loss"]) for line in kept],
        x_name="step",
        y_name="log-SNR",
        unit="loss",
        ends=ENDS,
    )


def _numbers(values: object) -> list[float]:
    return [float(value) for value in values] if _is_list(values) else []


def _is_list(values: object) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(isinstance(value, int | float) for value in values)
