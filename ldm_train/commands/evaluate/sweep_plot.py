"""Plot the measurements of a sweep as SVG: a panel for each, with intervals and a curve for each number of steps."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from ldm_train.metrics.numbers import Numbers

WIDTH, HEIGHT, LEFT, TOP, GAP = 300, 210, 64, 30, 44  # size of a panel and the space around it, pixels
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # Okabe and Ito: safe for colour-blind readers
COLUMNS = 3


@dataclass(frozen=True)
class SweepPoint:
    """The numbers at one point of a sweep."""

    guidance: float
    steps: int
    numbers: Numbers


@dataclass(frozen=True)
class Curve:
    """A label, and points (x, value, low, high) from left to right."""

    label: str
    points: list[tuple[float, float, float, float]]


def plot_sweep(points: Sequence[SweepPoint], names: Sequence[str]) -> str:
    """Return an SVG file with guidance as x axis and a curve per number of steps; steps as x axis if guidance is fixed."""
    along_steps = len({point.guidance for point in points}) == 1
    x_name = "steps" if along_steps else "guidance"
    rows = -(-len(names) // COLUMNS)
    width, height = min(COLUMNS, len(names)) * (WIDTH + LEFT + GAP), rows * (HEIGHT + TOP + 2 * GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, name in enumerate(names):
        x, y = number % COLUMNS * (WIDTH + LEFT + GAP) + LEFT, number // COLUMNS * (HEIGHT + TOP + 2 * GAP) + TOP
        parts += [
            f'<g transform="translate({x} {y})">',
            *draw_panel(name, build_curves(points, name, along_steps), x_name),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def build_curves(points: Sequence[SweepPoint], name: str, along_steps: bool) -> list[Curve]:
    """Return the curves of one measurement."""
    values: dict[str, list[tuple[float, float, float, float]]] = {}
    for point in points:
        value = float(point.numbers.values[name])
        low, high = point.numbers.intervals.get(name, (value, value))
        label = f"guidance {point.guidance:g}" if along_steps else f"{point.steps} steps"
        values.setdefault(label, []).append((point.steps if along_steps else point.guidance, value, low, high))
    return [Curve(label, sorted(places)) for label, places in values.items()]


def draw_panel(name: str, curves: Sequence[Curve], x_name: str) -> Iterator[str]:
    places = [place for curve in curves for place in curve.points]
    x_of = map_to_pixels([place[0] for place in places], 12, WIDTH - 12)
    y_of = map_to_pixels([end for place in places for end in place[1:]], HEIGHT - 10, 10)
    yield f'<text x="{WIDTH / 2}" y="-10" text-anchor="middle" font-weight="bold">{escape(name)}</text>'
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>'
    for x in sorted({place[0] for place in places}):
        yield f'<text x="{x_of(x):.1f}" y="{HEIGHT + 16}" text-anchor="middle">{x:g}</text>'
    for y in (min(place[2] for place in places), max(place[3] for place in places)):
        yield f'<text x="-6" y="{y_of(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT + 32}" text-anchor="middle">{x_name}</text>'
    for number, curve in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y, _, _ in curve.points)
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y, low, high in curve.points:
            at = f"{x_of(x):.1f}"
            ends = f'y1="{y_of(low):.1f}" y2="{y_of(high):.1f}"'
            yield f'<line x1="{at}" x2="{at}" {ends} stroke="{colour}" stroke-opacity="0.5"/>'
            yield f'<circle cx="{at}" cy="{y_of(y):.1f}" r="3.5" fill="{colour}"/>'
        middle = WIDTH / len(curves) * (number + 0.5)
        yield f'<text x="{middle:.1f}" y="{HEIGHT + 50}" text-anchor="middle" fill="{colour}">{curve.label}</text>'


def map_to_pixels(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Return a function from the range of the values to pixels; it returns the middle if all values are equal."""
    low, high = min(values), max(values)
    return lambda value: (start + end) / 2 if high == low else start + (value - low) / (high - low) * (end - start)
