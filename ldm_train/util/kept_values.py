"""Values that stay the same for a whole draw of pictures: computed at its first step, kept for the others, then freed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Value = TypeVar("Value")

MOST = 4  # that one owner keeps: with and without guidance, each for two models; more are made by callers that renew them
_kept: ContextVar[dict[int, list[tuple[tuple[object, ...], object]]] | None] = ContextVar("kept", default=None)


@contextmanager
def keep_values() -> Iterator[None]:
    """Let `keep` keep values in this block, in this thread."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def keep(owner: object, inputs: tuple[object, ...], compute: Callable[[], Value]) -> Value:
    """Return what `compute` returns, or what it returned in this block for the same owner and inputs (the very objects).

    Outside a block of `keep_values` nothing is kept. The inputs, and the owner, must not change in the block.
    """
    kept = _kept.get()
    if kept is None:
        return compute()
    # Owner and inputs are kept too, so that no other object can get the identity of one that was freed.
    values, key = kept.setdefault(id(owner), []), (owner, *inputs)
    for known, value in values:
        if len(known) == len(key) and all(one is other for one, other in zip(known, key, strict=True)):
            return value  # type: ignore[return-value]
    value = compute()
    values.append((key, value))
    del values[:-MOST]
    return value
