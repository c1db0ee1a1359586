"""Looking at a source before anything is paid for: which items can be used, and what is wrong with the others."""

from collections.abc import Callable, Sequence

from ldm_train.data.images import DECODE_ERRORS, read_image
from ldm_train.data.sources import Item


def usable(items: Sequence[Item]) -> tuple[list[Item], dict[str, str]]:
    """The items that a source found nothing wrong with, and the others' problems by key."""
    return [item for item in items if item.problem is None], {
        item.key: item.problem for item in items if item.problem is not None
    }


def undecodable(items: Sequence[Item], size: int, *, progress: Callable[[], None]) -> dict[str, str]:
    """Problems by key of the items whose picture cannot be decoded at this size; `progress` is called for each item."""
    problems = {}
    for item in items:
        try:
            read_image(item.path, size)
        except DECODE_ERRORS as error:
            problems[item.key] = decode_problem(error)
        progress()
    return problems


def decode_problem(error: BaseException) -> str:
    """What a failed decoding is called in reports."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the picture does not decode: {reason}"
