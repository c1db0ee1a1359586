"""The validation loss by log-SNR, over the training: as lines of some steps, and as a heatmap of all."""

from collections.abc import Sequence
from math import isfinite
from typing import TypeGuard

import numpy as np

from ldm_train.commands.report.run_curves import Shown
from ldm_train.reports.curves import Charts, CurveLine, Curves
from ldm_train.reports.heatmap import Heatmap
from ldm_train.reports.page_blocks import PageBlock
from ldm_train.run_dir.reading import Plain, RunRead

COLUMNS = 60  # of a heatmap
MAPS = 4  # runs that get one
STEPS = ((7, "dashed"), (2, ""), (1, ""), (0, ""))  # colours and kinds of the first, two between, and the last
ENDS = ("nearly noise", "nearly clean")


def blocks(shown: Sequence[Shown]) -> list[PageBlock]:
    """Lines in one plot; a heatmap for each of the first runs."""
    found = [(one, measured(one.run)) for one in shown]
    lines = [line for one, bins in found if bins for line in (_over_time(bins) if one.alone else [_last(one, bins)])]
    title = "Loss by log-SNR" if len(shown) == 1 else "Loss by log-SNR, at each run's last measurement"
    note = f"from {ENDS[0]} on the left to {ENDS[1]} on the right"
    plot = Curves(title, lines, log=all((line.y > 0).any() for line in lines), x_name="log-SNR", note=note)
    return [Charts([plot]), *(_heatmap(one, bins) for one, bins in found[:MAPS] if len(bins) > 1)]


def measured(run: RunRead) -> list[Plain]:
    """The lines of the averaged weights, or of the raw ones where there are no others, with the last one's bins."""
    kinds = {str(line.get("weights")) for line in run.bins}
    kept = [line for line in run.bins if line.get("weights") == "ema" or "ema" not in kinds]
    return [line for line in kept if line["edges"] == kept[-1]["edges"]]


def edges_of(line: Plain) -> list[float]:
    """The bins' edges; one that is not finite is as far from the next as this from the one after."""
    found = _numbers(line["edges"])
    if not isfinite(found[0]):
        found[0] = 2 * found[1] - found[2] if len(found) > 2 else found[1] - 1
    if not isfinite(found[-1]):
        found[-1] = 2 * found[-2] - found[-3] if len(found) > 2 else found[-2] + 1
    return found


def _over_time(bins: Sequence[Plain]) -> list[CurveLine]:
    places = np.unique(np.linspace(0, len(bins) - 1, len(STEPS)).round().astype(int)).tolist()
    kinds = STEPS[-len(places) :]
    return [
        _line(bins[i], f"step {bins[i]['step']:,}", colour, dashed=bool(kind), band=i == places[-1])
        for i, (colour, kind) in zip(places, kinds, strict=True)
    ]


def _last(one: Shown, bins: Sequence[Plain]) -> CurveLine:
    return _line(bins[-1], f"{one.name}, step {bins[-1]['step']:,}", one.number, dashed=False, band=True)


def _line(told: Plain, label: str, colour: int, *, dashed: bool, band: bool) -> CurveLine:
    edges = np.array(edges_of(told))
    low, high = (_ends(told, name) if band else None for name in ("loss_low", "loss_high"))
    middles, loss = (edges[1:] + edges[:-1]) / 2, np.array(_numbers(told["loss"]))
    return CurveLine(label, middles, loss, low, high, colour=colour, dashed=dashed, dots=not dashed)


def _ends(told: Plain, name: str) -> np.ndarray | None:
    found = told.get(name)
    fits = _is_list(found) and len(found) == len(_numbers(told["loss"]))
    return np.array(_numbers(found)) if fits else None


def _heatmap(one: Shown, bins: Sequence[Plain]) -> Heatmap:
    kept = [bins[i] for i in np.unique(np.linspace(0, len(bins) - 1, COLUMNS).round().astype(int)).tolist()]
    title = "Loss by log-SNR over the training"
    return Heatmap(
        title if one.alone else f"{title}: {one.name}",
        [int(str(line["step"])) for line in kept],
        edges_of(kept[-1]),
        [_numbers(line["loss"]) for line in kept],
        x_name="step",
        y_name="log-SNR",
        unit="loss",
        ends=ENDS,
    )


def _numbers(found: object) -> list[float]:
    return [float(value) for value in found] if _is_list(found) else []


def _is_list(found: object) -> TypeGuard[list[float]]:
    return isinstance(found, list) and all(isinstance(value, int | float) for value in found)
