"""A prompt with settings of its own, as kohya's scripts write it in a line, or as a mapping.

    a fox in the snow --n blurry, text --w 64 --h 96 --d 7 --l 4.5 --s 20
    {prompt: a fox in the snow, negative: "blurry, text", width: 64, height: 96, seed: 7, guidance: 4.5, steps: 20}

The text of a mapping is taken as it is; in a line, ` --x` begins an option.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ldm_train.settings.schema.largest_values import largest
from ldm_train.util.text import nearest, shorten

LETTERS = {"n": "negative", "w": "width", "h": "height", "d": "seed", "l": "guidance", "s": "steps"}
OPTION = re.compile(r"(?:^|\s)--([A-Za-z][\w-]*)(?=\s|$)")
MOST = {"width": largest("size"), "height": largest("size"), "steps": largest("steps")}  # the least of them is 1
INTEGER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True)
class Prompt:
    """A text to draw, with the settings that it has itself; None leaves one to the command or the run.

    Args:
        where: the setting, or the file and the line, for messages.
    """

    text: str
    where: str
    negative: str | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    guidance: float | None = None
    steps: int | None = None

    @property
    def options(self) -> dict[str, str | int | float]:
        """The settings that it has itself, by name."""
        return {name: value for name in LETTERS.values() if (value := getattr(self, name)) is not None}

    def as_mapping(self) -> dict[str, str | int | float]:
        """Return the mapping that a file may hold."""
        return {"prompt": self.text, **self.options}

    def __str__(self) -> str:
        """Return the text, followed by its options as a line has them."""
        options = self.options
        return " ".join([self.text, *(f"--{key} {options[name]}" for key, name in LETTERS.items() if name in options)])


def read_line(line: str, where: str) -> Prompt:
    """Return the prompt that a line writes.

    Raises:
        ValueError: an option is not known, is there twice or has another value, or there is no text before the options.
    """
    found = list(OPTION.finditer(line))
    if not found:
        return Prompt(line, where)
    values: dict[str, object] = {}
    for option, end in zip(found, [*(one.start() for one in found[1:]), len(line)], strict=True):
        letter, value = option[1], line[option.end() : end].strip()
        if letter not in LETTERS:
            raise ValueError(f"{where}: --{letter} is not an option of a prompt; {_describe_letters(letter)}")
        if LETTERS[letter] in values:
            raise ValueError(f"{where}: --{letter} is there twice; leave one out")
        if not value:
            raise ValueError(f"{where}: --{letter} has no value; {_describe_letters(letter)}")
        values[LETTERS[letter]] = _convert(LETTERS[letter], value, f"{where}: --{letter} {value}")
    text = line[: found[0].start()].strip()
    if not text:
        raise ValueError(f"{where}: {shorten(line)!r} has options and no prompt; write the prompt before them")
    return Prompt(text, where, **values)  # type: ignore[arg-type]


def read_mapping_prompt(item: Mapping[str, object], where: str) -> Prompt:
    """Return the prompt that a mapping writes.

    Raises:
        ValueError: a key is not known, or a value is of another kind.
    """
    values = {key: value for key, value in item.items() if key != "prompt" and value is not None}
    for key in values:
        if key not in LETTERS.values():
            known = ["prompt", *LETTERS.values()]
            raise ValueError(
                f"{where}: {key} is not an option of a prompt; accepted: {', '.join(known)}{nearest(key, known)}"
            )
    text = item["prompt"]
    if text is None or isinstance(text, list | Mapping | bool):
        raise ValueError(f"{where}: prompt: {text} must be one text; quote it")
    options = {key: _convert(key, value, f"{where}: {key}: {value}") for key, value in values.items()}
    return Prompt(str(text), where, **options)  # type: ignore[arg-type]


def _convert(name: str, value: object, shown: str) -> str | int | float:
    """Return an option's value in its type.

    Args:
        shown: where it is, and the option as it was written.

    Raises:
        ValueError: it is of another type, or out of range.
    """
    if name == "negative":
        if isinstance(value, list | Mapping | bool):
            raise ValueError(f"{shown} must be one text; quote it")
        return str(value)
    if name == "guidance":
        number = _as_number(value)
        if number is None:
            raise ValueError(f"{shown} must be a number")
        return number
    whole, most = _as_whole(value), MOST.get(name)
    if whole is None or (most is not None and not 1 <= whole <= most):
        raise ValueError(f"{shown} must be a whole number{'' if most is None else f' from 1 to {most:,}'}")
    return whole


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _as_whole(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = "" if isinstance(value, bool) else str(value)
    return int(text) if INTEGER.fullmatch(text) else None


def _describe_letters(given: str) -> str:
    """Return the options that a line accepts, and the one that a longer name may mean."""
    meant = next((letter for letter, name in LETTERS.items() if len(given) > 1 and name.startswith(given)), None)
    hint = "" if meant is None else f"; did you mean --{meant}?"
    known = ", ".join(f"--{letter} {name.upper()}" for letter, name in LETTERS.items())
    return f"accepted: {known}{hint}. A text that holds -- itself can be written as a mapping: [{{prompt: …}}]"
