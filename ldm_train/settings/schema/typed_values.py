"""Split lists and mappings as people type them: `[a b,'c, d']`, `{~/x.safetensors:0.5}`.

Texts may hold any character: a comma separates unless it stands in quotes or between brackets, and a bracket that nothing
closes is a character.
"""

import os
import re

from ldm_train.settings.safe_yaml import parse_yaml

QUOTED = r"""(?<![^\[{,:\s])(?P<quoted>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')(?=\s*(?:[,:\]}]|$))"""  # or an apostrophe
PIECE = re.compile(rf"{QUOTED}|(?P<mark>[\[\]{{}},])|.", re.DOTALL)
DEPTHS = {"[": 1, "{": 1, "]": -1, "}": -1}
PROMPT = re.compile(r"\{\s*[\"']?prompt[\"']?\s*:")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|[+-]?inf", re.IGNORECASE)


def split_items(value: str) -> list[str]:
    """Return the texts between the commas of a value, with their blanks and quotes."""
    return _split(value, brackets=True) or _split(value, brackets=False)


def _split(value: str, *, brackets: bool) -> list[str]:
    """Return the items; none if brackets count and do not match."""
    items, start, depth = list[str](), 0, 0
    for piece in PIECE.finditer(value):
        mark = piece["mark"]
        depth += DEPTHS.get(mark, 0) if brackets else 0
        if depth < 0:
            return []
        if mark == "," and depth == 0:
            items.append(value[start : piece.start()])
            start = piece.end()
    return [] if depth else [*items, value[start:]]


def is_quoted(value: str) -> bool:
    """Return whether a value is one text in quotes."""
    piece = PIECE.match(value)
    return piece is not None and piece["quoted"] == value


def unquote(value: str) -> str:
    """Return a text without the quotes around it; backslashes count before quotes only, as in Hydra's grammar."""
    if not is_quoted(value):
        return value
    return re.sub(rf"(\\+)({value[0]}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], value[1:-1])


def read_mapping(text: str) -> dict[str, object]:
    """Return the mapping that `{key:value,…}` writes; a value is a number, a list of texts, or else a text.

    Raises:
        ValueError: an item has no colon.
    """
    found: dict[str, object] = {}
    for item in split_items(text.strip()[1:-1]):
        key, colon, value = (part.strip() for part in item.rpartition(":"))
        if not colon:
            raise ValueError(f"{item!r} is not KEY:VALUE")
        found[unquote(key)] = _read_value(value)
    return found


def _read_value(value: str) -> object:
    if value.startswith("[") and value.endswith("]"):
        return [unquote(item.strip()) for item in split_items(value[1:-1])]
    return float(value) if NUMBER.fullmatch(value) else unquote(value)


def is_mapping(value: object) -> bool:
    """Return whether a value is a text that writes a mapping."""
    return isinstance(value, str) and value.startswith("{") and value.endswith("}")


def expand_home(path: str) -> str:
    """Return a path with the home folder instead of a `~` at its start."""
    return os.path.expanduser(path)


def as_objects(value: object) -> object:
    """Return names of classes as the mappings that build them."""
    found = [value] if isinstance(value, str | dict) else value
    return [{"_target_": one} if isinstance(one, str) else one for one in found] if isinstance(found, list) else found


def as_prompts(value: object) -> object:
    """Return prompts, of which one such as `{prompt: a fox, seed: 7}` is a text that writes a mapping.

    Raises:
        ValueError: such a text is no YAML.
    """
    if not isinstance(value, list):
        return [parse_yaml(str(value))] if _writes_prompt(value) else value
    return [parse_yaml(one) if _writes_prompt(one) else one for one in value]


def _writes_prompt(value: object) -> bool:
    return isinstance(value, str) and PROMPT.match(value) is not None and is_mapping(value)


def as_factors(value: object) -> object:
    """Return paths with factors from the text that writes them, and with the home folder in every path."""
    if is_mapping(value):
        return as_factors(read_mapping(str(value)))
    if isinstance(value, list):
        return [_as_entry(one) for one in value]
    return {expand_home(str(path)): factor for path, factor in value.items()} if isinstance(value, dict) else value


def _as_entry(value: object) -> object:
    """Return `{path: …, scale: …}` from the text that writes it; a path as it is."""
    entry = read_mapping(str(value)) if is_mapping(value) else value
    if not isinstance(entry, dict):
        return entry
    return {key: expand_home(one) if isinstance(one, str) else one for key, one in entry.items()}
