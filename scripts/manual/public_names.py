"""The page of the API reference for the names that `import ldm_train` gives, and those in its modules."""

import ast
from collections.abc import Iterator
from pathlib import Path

from manual.api import ROOMS

OPTIONS = """    options:
      heading: {name}
      heading_level: 2
      show_root_heading: true
      show_root_toc_entry: true
      skip_local_inventory: {twice}"""  # links lead to the page of its room
PACKAGE = Path(__file__).parent.parent.parent / "ldm_train"


def find_file(module: str) -> Path:
    """Return the file of a module of the package."""
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def list_origins(module: str) -> dict[str, str]:
    """Return the names in a module's `__all__`, each with the full name of what it stands for."""
    tree = ast.parse(find_file(module).read_text(encoding="utf-8"))
    taken = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    [names] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    return {name: taken.get(name, f"{module}.{name}") for name in names}


def list_public() -> dict[str, str]:
    """Return every public name, such as `ldm_train.train` and `ldm_train.samplers.DDIM`, with what it stands for."""
    return dict(_public("ldm_train", "ldm_train"))


def _public(name: str, module: str) -> Iterator[tuple[str, str]]:
    for own, origin in list_origins(module).items():
        if find_file(origin).is_file():
            yield from _public(f"{name}.{own}", origin)
        else:
            yield f"{name}.{own}", origin


def make_page() -> str:
    """Return the page: a heading and a directive of mkdocstrings for every public name; functions first, modules last."""
    public = list_public()
    names = sorted(public, key=lambda name: (*place_name(name), name))
    body = "\n\n".join(f"::: {public[name]}\n{make_options(name, public[name])}" for name in names)
    first = "The names that `import ldm_train` gives. [From Python](../../python.md) has examples."
    return f"# ldm_train\n\n{first}\n\n{body}\n"


def make_options(name: str, origin: str) -> str:
    """Return the options of a name's directive."""
    return OPTIONS.format(name=name, twice=str(origin.split(".")[1] in ROOMS).lower())


def place_name(name: str) -> tuple[str, bool]:
    """Return what the page is sorted by: the module that a name is in, and whether it is a class."""
    module, _, own = name.rpartition(".")
    return module, not own.islower()
