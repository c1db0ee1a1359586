"""Read measured figures from docs/results, and write them as Markdown; links are relative to docs/."""

import json
from collections.abc import Sequence
from pathlib import Path

from ldm_train.util.safe_json import Json

FOLDER = Path(__file__).parent.parent.parent / "docs" / "results"
Row = Sequence[str]


def read_result(name: str) -> dict[str, Json]:
    """Return the content of docs/results/NAME.json."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def look_up(name: str, *keys: str | int) -> Json:
    """Return one value of a result, by the keys that lead to it."""
    value: Json = read_result(name)
    for key in keys:
        value = value[key]  # type: ignore[index]
    return value


def number(name: str, *keys: str | int) -> float:
    """Return one number of a result."""
    value = look_up(name, *keys)
    assert isinstance(value, int | float), (name, keys, value)
    return value


def make_table(header: Row, rows: Sequence[Row]) -> str:
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def link_result(name: str, text: str) -> str:
    return f"[`{text}`](results/{name}.json)"


def format_quartiles(name: str, *keys: str, share: bool = True) -> str:
    """Return a median with its quartiles, as percentages or as factors; the keys end in the median's own."""
    *parents, key = keys
    form = "{:.1%}" if share else "{:.2f}x"
    median, low, high = (form.format(number(name, *parents, f"{key}{end}")) for end in ("", "_quartile_1", "_quartile_3"))
    return f"{median} ({low.removesuffix('x')} to {high.removesuffix('x')})"
