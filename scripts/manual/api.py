"""Pages of the API reference: for each room of the package, a directive for every module, which mkdocstrings fills."""

from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "ldm_train"
ROOMS = ("types", "draws", "generation", "diffusion", "samplers", "networks", "metrics", "weights")


def list_modules(room: str) -> list[str]:
    """Return the names of a room's modules; a package's `__init__` counts only if it defines something."""
    path = PACKAGE / f"{room}.py"
    files = [path] if path.is_file() else sorted((PACKAGE / room).rglob("*.py"))
    named = [file for file in files if file.stem != "__init__" or "def " in file.read_text(encoding="utf-8")]
    return [".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__") for file in named]


def make_pages() -> Iterator[tuple[str, str]]:
    """Yield the path (relative to docs/) and the content of the page of each room."""
    for room in ROOMS:
        modules = list_modules(room)
        if not modules:
            raise ValueError(f"the API reference lists {room}, which is not in {PACKAGE}")
        options = (
            "\n    options:\n      show_if_no_docstring: true" if room == "types" else ""
        )  # a protocol's members have none
        body = "\n\n".join(f"## `{name}`\n\n::: {name}{options}" for name in modules)
        yield f"reference/api/{room}.md", f"# ldm_train.{room}\n\n{body}\n"
