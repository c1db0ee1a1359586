"""The page of the tutorial: the cells of docs/tutorial.ipynb, with the pictures and texts that they gave."""

import json
from collections.abc import Iterator
from pathlib import Path

NOTEBOOK = Path(__file__).parent.parent.parent / "docs" / "tutorial.ipynb"
Cell = dict[str, object]


def read_cells() -> list[Cell]:
    """Return the cells of the notebook."""
    cells: list[Cell] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return cells


def join_text(text: object) -> str:
    """Return a text of a notebook, which is stored as one string or as a list of lines."""
    return text if isinstance(text, str) else "".join(str(line) for line in text) if isinstance(text, list) else ""


def make_page() -> str:
    """Return the notebook as a page."""
    return "\n\n".join(part for cell in read_cells() for part in _convert(cell)) + "\n"


def _convert(cell: Cell) -> Iterator[str]:
    source = join_text(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        data = output.get("data", {})
        if "image/png" in data:
            content = join_text(data["image/png"]).replace("\n", "")
            yield f'<img alt="the pictures that this cell shows" src="data:image/png;base64,{content}">'
        elif text := join_text(output.get("text")) or join_text(data.get("text/plain")):
            yield f"```text\n{text.rstrip()}\n```"
