"""Read what a browser or a program asks for: a few settings of `ldm-train sample`, by name, and nothing that names a file.

Files are named by what `Uploads` gave them; runs, samplers and adapters by the choices of the page.
"""

import math
from collections.abc import Callable, Collection, Mapping

from ldm_train.assembly.studio_choices import Choices
from ldm_train.commands.playground.uploads import Uploads
from ldm_train.util.text import list_names, nearest, shorten

LONGEST_TEXT = 20_000  # letters of a prompt
MOST_STEPS = 1000
MOST_BETWEEN = 9  # pictures of an interpolation
LARGEST_SIDE = 4096  # pixels
INTEGERS = ("seed", "steps", "first_number", "mask_edge")
NUMBERS = ("guidance.scale", "guidance.rescale", "guidance.condition_scale", "strength")
SWITCHES = ("attention", "paste_original")
LISTS = ("size", "guidance.interval")
FILES = ("picture", "mask")
CHOSEN = ("sampler", "spacing", "weights")
NAMES = (*INTEGERS, *NUMBERS, *SWITCHES, *LISTS, *FILES, *CHOSEN, "negative_prompt", "adapters", "upscaler")
WEIGHTS = ("ema", "raw")


def read_request(
    settings: Mapping[str, object],
    choices: Choices,
    adapters: Collection[str],
    uploads: Uploads,
    *,
    upscaler: str | None = None,
) -> dict[str, object]:
    """Return settings as `Studio.draw` takes them; None leaves one to the run.

    Args:
        adapters: the paths of those whose factors may be set.
        upscaler: the run that may enlarge what is drawn; None for none.

    Raises:
        ValueError: a setting that the page does not have, or a value of another kind.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f'settings={shorten(str(settings))} must be values by their names, such as {{"steps": 30}}')
    changes: dict[str, object] = {}
    for name, value in settings.items():
        if value is None or value == "" or value == []:
            continue
        if name == "upscaler":
            changes[name] = read_upscaler(value, upscaler)
        else:
            changes[name] = find_reader(name, choices, adapters, uploads)(name, value)
    return changes


def find_reader(name: str, choices: Choices, adapters: Collection[str], uploads: Uploads) -> Callable[[str, object], object]:
    """Return the function that reads the value of a setting.

    Raises:
        ValueError: the page does not have this setting.
    """
    group, _, own = name.partition(".")
    if name in FILES or (group == "map" and own in choices.maps):
        return lambda name, value: read_upload(name, value, uploads)
    if group == "number" and own in choices.numbers:
        return read_number
    options = {"sampler": choices.samplers, "spacing": choices.spacings, "weights": WEIGHTS}
    readers: dict[str, Callable[[str, object], object]] = {
        **dict.fromkeys(INTEGERS, read_whole),
        **dict.fromkeys(NUMBERS, read_number),
        **dict.fromkeys(SWITCHES, read_switch),
        **dict.fromkeys(LISTS, read_pair),
        **dict.fromkeys(CHOSEN, lambda name, value: read_choice(name, value, options[name])),
        "negative_prompt": read_text,
        "adapters": lambda name, value: read_factors(name, value, adapters),
    }
    if name not in readers:
        known = [*NAMES, *(f"number.{one}" for one in choices.numbers), *(f"map.{one}" for one in choices.maps)]
        raise ValueError(f"{shorten(name)} is no setting of this page{nearest(name, known)}; there are {', '.join(known)}")
    return readers[name]


def read_text(name: str, value: object) -> str:
    """Return a text of limited length."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ValueError(f"{name} must be a text of at most {LONGEST_TEXT:,} letters")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{name} has half of a character, a surrogate without the other one; send it as UTF-8")
    return value


def read_upload(name: str, value: object, uploads: Uploads) -> str:
    """Return the path of a file that was sent."""
    try:
        return str(uploads.find(read_text(name, value)))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def read_number(name: str, value: object) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={shorten(str(value))} must be a number")
    return float(value)


def read_whole(name: str, value: object) -> int:
    """Return a whole number, also one that is written as 3.0."""
    number = read_number(name, value)
    if not number.is_integer() or abs(number) > 2**53 or (name == "steps" and number > MOST_STEPS):
        most = f" of at most {MOST_STEPS}" if name == "steps" else ""
        raise ValueError(f"{name}={number:g} must be a whole number{most}")
    return int(number)


def read_between(value: object) -> int:
    """Return the number of pictures of an interpolation."""
    count = read_whole("count", value)
    if not 2 <= count <= MOST_BETWEEN:
        raise ValueError(f"count={count} must be from 2 to {MOST_BETWEEN} pictures")
    return count


def read_switch(name: str, value: object) -> bool:
    """Return whether something is switched on."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={shorten(str(value))} must be true or false")
    return value


def read_pair(name: str, value: object) -> list[float] | list[int]:
    """Return two numbers; of a size, whole ones; of noise levels, None is no upper limit."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name}={shorten(str(value))} must be two numbers")
    if name != "size":
        low, high = value
        return [read_number(name, low), math.inf if high is None else read_number(name, high)]
    sides = [read_whole(name, one) for one in value]
    if max(sides) > LARGEST_SIDE:
        raise ValueError(f"size={sides} must be at most {LARGEST_SIDE} pixels on a side")
    return sides


def read_choice(name: str, value: object, options: Collection[str]) -> str:
    """Return one of some words."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{name}={shorten(str(value))} must be one of {list_names(options, 20)}")
    return value


def read_upscaler(value: object, upscaler: str | None) -> str:
    """Return the run that enlarges."""
    if upscaler is None:
        raise ValueError("upscaler: this page enlarges nothing; start it with upscaler=RUN")
    return read_choice("upscaler", value, [upscaler])


def read_factors(name: str, value: object, adapters: Collection[str]) -> dict[str, float]:
    """Return the factors of adapters by their paths."""
    if not isinstance(value, dict) or not value.keys() <= {*adapters}:
        raise ValueError(f"{name} must be factors of {list_names(adapters, 20) or 'none, since the page has no adapters'}")
    return {path: read_number(f"{name}.{path}", factor) for path, factor in value.items()}
