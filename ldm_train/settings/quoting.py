"""Quote the values of texts and paths on a command line, so that Hydra's grammar reads them exactly as they were typed."""

import re

from hydra.core.override_parser.types import Quote, QuotedString

from ldm_train.settings.schema.commands import kind_of
from ldm_train.settings.schema.kinds import takes_container, takes_text

ITEM = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^\s,\[\]{}'"][^,\[\]{}]*)\s*"""  # a quoted or a bare text in a list
LIST = re.compile(rf"\[\s*{ITEM}(?:,\s*{ITEM})*\]")


def quote(text: str) -> str:
    """Return a text in quotes, as Hydra's grammar reads it."""
    return QuotedString(text, Quote.double).with_quotes()


def quote_text(verb: str, word: str, targets: dict[str, str]) -> str:
    """Return a word with its value in quotes if its setting takes a text; of a list, each item that is not quoted.

    Null and quoted values stay as they are, and so does an interpolation.

    Args:
        targets: the constructor of each group.
    """
    name, equals, value = word.partition("=")
    found = kind_of(verb, name.lstrip("+"), targets)
    if not equals or found is None or word.startswith("~") or not takes_text(found[0]) or "${" in value:
        return word
    if is_quoted(value) or value == "null":
        return word
    if value.startswith("[") and takes_container(found[0], list):
        return f"{name}={quote_items(value)}"
    if value.startswith("{") and takes_container(found[0], dict):
        return word
    return f"{name}={quote(value)}"


def quote_items(value: str) -> str:
    """Return a list as it is typed, `[a b,'c']`, with every text in quotes; a list of anything else as it is."""
    if not LIST.fullmatch(value):
        return value
    items = [item.strip() for item in re.findall(ITEM, value[1:-1])]
    return "[" + ",".join(item if is_quoted(item) or item == "null" else quote(item) for item in items) + "]"


def is_quoted(value: str) -> bool:
    """Return whether a value stands in quotes."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
