"""Put measured figures into pages: `<!-- table: NAME -->` becomes a table, `{{ FILE.KEY:.3f }}` a number of docs/results."""

import re
from collections.abc import Callable

from manual import measured, tables_cache, tables_choices, tables_quality, tables_speed, tables_training

TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        tables_quality.quickstart,
        tables_cache.caches,
        tables_training.exactness,
        tables_training.costs,
        tables_training.faults,
        tables_training.optimizers,
        tables_quality.finetune,
        tables_quality.ranking,
        tables_quality.expectations,
        tables_quality.spaces,
        tables_quality.autoencoders,
        tables_speed.step,
        tables_speed.sampling,
        tables_speed.bfloat16,
        tables_speed.preset,
        tables_speed.full,
    )
}
TABLE = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
FIGURE = re.compile(r"\{\{ (\w+)((?:\.\w+)+):([^}]+) \}\}")


def fill_figures(page: str) -> str:
    """Return a page with its tables and figures.

    Raises:
        KeyError: a table or a figure is not known.
    """
    tables = TABLES | {"fit_rules": tables_choices.fit_rules}
    page = TABLE.sub(lambda match: tables[match[1]](), page)
    return FIGURE.sub(lambda match: format(measured.number(match[1], *match[2].strip(".").split(".")), match[3]), page)


def make_page() -> str:
    """Return the page of all measured results."""
    sections = (f"## {describe(function)[0]}\n\n{describe(function)[1]}{function()}" for function in TABLES.values())
    files = (f"- [`{path.name}`](results/{path.name})" for path in sorted(measured.FOLDER.glob("*.json")))
    return fill_figures("\n\n".join([INTRODUCTION, *sections, "## All files", "\n".join(files)]) + "\n")


def describe(function: Callable[[], str]) -> tuple[str, str]:
    """Return the heading and the explanation of a table, from its function's docstring."""
    heading, _, text = (function.__doc__ or "").partition("\n\n")
    explanation = " ".join(text.split())
    return heading.strip().rstrip("."), f"{explanation}\n\n" if explanation else ""


INTRODUCTION = """\
# Measured results

Every figure on this page is read from a JSON file in `docs/results` when the manual is built. The script that wrote the file
is named next to it; run it to measure your own machine. All of these were measured on two CPU cores. No GPU was measured.\
"""
