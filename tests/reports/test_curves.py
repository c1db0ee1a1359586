"""Curves: what is drawn of them, on which axes, and that nothing which matters is lost on the way."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm_train.reports.axes import PlotAxis, format_number
from ldm_train.reports.curves import MAX_POINTS, Charts, CurveLine, Curves, choose_points, smooth_values
from ldm_train.reports.heatmap import Heatmap
from ldm_train.reports.page import Page, PageSection, render_page
from ldm_train.util.colour_scale import COLOUR_STOPS, mix_colour
from tests.reports.test_page import Read

NUMBERS = st.floats(-1e9, 1e9, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])


def line(*values: float, **more: object) -> CurveLine:
    return CurveLine("a line", np.arange(len(values), dtype=np.float64), np.array(values, dtype=np.float64), **more)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=300), st.integers(4, 60))
def test_the_extremes_and_the_ends_are_kept(values: list[float], most: int) -> None:
    array = np.array(values)
    kept = choose_points(array, most)
    assert len(kept) <= max(most, 2) * 1.5 + 2
    assert {0, len(values) - 1} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    finite = array[np.isfinite(array)]
    if len(finite):
        of_kept = array[kept][np.isfinite(array[kept])]
        assert (of_kept.min(), of_kept.max()) == (finite.min(), finite.max())


def test_a_short_line_is_drawn_whole() -> None:
    assert choose_points(np.arange(MAX_POINTS, dtype=np.float64), MAX_POINTS).tolist() == list(range(MAX_POINTS))


@pytest.mark.parametrize("width", [1, 3, 7, 101])
def test_smoothing_is_the_mean_of_the_finite_values_around(width: int) -> None:
    values = np.array([1.0, 2.0, math.nan, 4.0, 8.0, 16.0, math.inf, 32.0])
    for i, found in enumerate(smooth_values(values, width).tolist()):
        around = values[max(0, i - width // 2) : i + width // 2 + 1]
        expected = around[np.isfinite(around)]
        assert found == pytest.approx(expected.mean()) if len(expected) else math.isnan(found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, max_size=20), st.booleans())
def test_an_axis_holds_all_values_and_its_ticks(values: list[float], log: bool) -> None:
    axis = PlotAxis.around(values, log=log)
    assert axis.low < axis.high
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    assert all(-1e-6 <= axis.place(value) <= 100 + 1e-6 for value in shown)
    ticks = axis.ticks()
    assert len(ticks) <= 13
    assert all(0 <= place <= 100 for place, _ in ticks)
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1500, "1,500"),
        (0.1 + 0.2, "0.3"),
        (0.00012, "0.00012"),
        (2e-7, "2e-7"),
        (-1.5e-9, "-1.5e-9"),
        (1234.5, "1,234"),
        (2.5e6, "2.5e6"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert format_number(value) == text


def test_gaps_are_gaps() -> None:
    plot = Curves("a plot", [line(1, 2, math.nan, 4, math.inf, 6)])
    [shown] = plot.coloured_lines
    assert shown.path(plot.x_axis, plot.y_axis).count("M") == 3
    assert json.loads(plot.data)["lines"][0]["y"] == [1, 2, None, 4, None, 6]


def test_a_single_wild_step_does_not_flatten_the_mean() -> None:
    plot = Curves("a plot", [line(1, 1e6, 1, faint=True), line(1, 2, 1)])
    assert plot.y_axis.high < 3


def test_lines_of_one_label_are_one_in_the_legend() -> None:
    plot = Curves("a plot", [line(1, 2, faint=True, colour=0), line(1, 2, colour=0)])
    assert plot.legend == []
    other = Curves("a plot", [*plot.lines, CurveLine("another", np.arange(2.0), np.arange(2.0))])
    assert [shown.line.label for shown in other.legend] == ["a line", "another"]
    assert [shown.line.faint for shown in other.legend] == [False, False]


def test_data_ends_no_element() -> None:
    plot = Curves("a plot", [CurveLine("</script><!-- & \u2028", np.arange(2.0), np.arange(2.0))])
    assert not set("<>&") & set(plot.data)
    assert json.loads(plot.data)["lines"][0]["label"] == "</script><!-- & \u2028"


def test_a_page_has_a_script_where_a_curve_is_and_nowhere_else() -> None:
    curves = Read(render_page(Page("a", sections=[PageSection("b", [Charts([Curves("c", [line(1, 2)])])])])))
    assert [script.get("type") for script in curves.all("script")] == ["application/json", None]
    empty = Read(render_page(Page("a", sections=[PageSection("b", [Charts([Curves("c", [line(math.nan)])])])])))
    assert empty.all("script") == []
    assert empty.all("h2") == []


def test_a_plot_is_reported_in_numbers_too() -> None:
    plot = Curves("c", [line(*range(100)), CurveLine("other", np.array([0.0, 99.0]), np.array([5.0, math.nan]))])
    columns, rows = plot.table
    assert columns == ["step", "a line", "other"]
    assert rows[0] == ["0", "0", "5"]
    assert rows[-1] == ["99", "99", ""]
    assert len(rows) <= 12
    assert plot.summary.startswith("a line: 0 at 0, 99 at 99, from 0 to 99")


def test_a_heatmap_has_a_cell_for_each_positive_value() -> None:
    values = [[1.0, 10.0], [100.0, math.nan], [0.0, -1.0]]
    found = Heatmap("a map", [5, 10, 15], [-1.0, 0.0, 3.0], values, x_name="step", y_name="height", unit="loss")
    assert [(column, top, height) for column, top, height, _, _ in found.cells] == [(0, 75, 25), (0, 0, 75), (1, 75, 25)]
    assert found.cells[0][3] == mix_colour(0)
    assert found.cells[2][3] == mix_colour(1)
    assert found.cells[0][4] == "step 5, height -1 to 0: 1"
    assert found.limits == ("1", "100")
    page = Read(render_page(Page("a", sections=[PageSection("b", [found])])))
    assert len(page.all("rect")) == 3


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.3, 0.99, 1.0, 2.0])
def test_colours_are_between_their_neighbours(share: float) -> None:
    parts = [int(mix_colour(share)[i : i + 2], 16) for i in (1, 3, 5)]
    assert all(min(c[k] for c in COLOUR_STOPS) <= part <= max(c[k] for c in COLOUR_STOPS) for k, part in enumerate(parts))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=8), max_size=4), st.booleans(), st.booleans())
def test_any_curves_can_be_drawn(values: list[list[float]], log: bool, band: bool) -> None:
    lines = [line(*v, low=np.array(v) - 1, high=np.array(v) + 1) if band else line(*v, dots=True) for v in values]
    html = render_page(Page("a", sections=[PageSection("b", [Charts([Curves("c", lines, log=log)])])]))
    paths = [str(path["d"]) for path in Read(html).all("path")]
    assert not any("nan" in path or "inf" in path for path in paths)
