"""Quote the values of texts and paths on a command line, so that Hydra's grammar reads them exactly as they were typed."""

from typing import get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from ldm_train.settings.schema.commands import kind_of
from ldm_train.settings.schema.kinds import members, takes_container, takes_text
from ldm_train.settings.schema.typed_values import is_quoted, split_items


def quote(text: str) -> str:
    """Return a text in quotes, as Hydra's grammar reads it."""
    return QuotedString(text, Quote.double).with_quotes()


def quote_text(verb: str, word: str, targets: dict[str, str]) -> str:
    """Return a word with its value in quotes if its setting takes a text; of a list, each item that is not quoted.

    Null and quoted values stay as they are, and so does an interpolation. A mapping becomes one text, which its setting
    reads: Hydra's grammar has no quotes in keys.

    Args:
        targets: the constructor of each group.
    """
    name, equals, value = word.partition("=")
    kind = kind_of_texts(verb, word, targets)
    if not equals or "${" in value or is_quoted(value) or value == "null" or kind is None:
        return word
    if value.startswith("[") and value.endswith("]") and takes_container(kind, list):
        return f"{name}={quote_items(value)}"
    return f"{name}={quote(value)}"


def kind_of_texts(verb: str, word: str, targets: dict[str, str]) -> object | None:
    """Return the kind of a word's setting if it takes a text, several, or a mapping; else None."""
    name = word.partition("=")[0]
    found = None if word.startswith("~") else kind_of(verb, name.lstrip("+"), targets)
    return found[0] if found is not None and reads_text(found[0]) else None


def reads_text(kind: object) -> bool:
    """Return whether a setting is read from one text: it takes texts, or a mapping, which a command line writes as one."""
    return takes_text(kind) or any(get_origin(member) is dict for member in members(kind))


def quote_items(value: str) -> str:
    """Return a list as it is typed, `[a b,'c']`, with every item in quotes; one with an empty item as it is."""
    items = [item.strip() for item in split_items(value[1:-1])]
    if "" in items:
        return value
    return "[" + ",".join(item if is_quoted(item) or item == "null" else quote(item) for item in items) + "]"


def readable(word: str) -> str:
    """Return a word with its value in quotes if Hydra's grammar cannot read it; types are checked later."""
    key, equals, value = word.partition("=")
    return f"{key}={quote(value)}" if equals and value[:1] not in [*"'\"[{"] and not can_be_read(word) else word


def can_be_read(word: str) -> bool:
    """Return whether Hydra's grammar can read a word."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True
