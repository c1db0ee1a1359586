"""The names of figures of trained captions next to those of held-out ones, and when a figure is of too few pictures."""

from collections.abc import Iterable

ENOUGH = 20  # pictures; a figure of fewer says little
TAUGHT = "taught_"  # begins the name of a figure of trained examples; without it, the name is of held-out ones


def taught_name(name: str) -> str:
    """Return the name that a figure of held-out examples has for trained ones, as `metrics/taught_retrieval_at_1`."""
    folder, slash, own = name.rpartition("/")
    return f"{folder}{slash}{TAUGHT}{own}"


def held_out_name(name: str) -> str:
    """Return the name that a figure of trained examples has for held-out ones; any other name stays."""
    folder, slash, own = name.rpartition("/")
    return f"{folder}{slash}{own.removeprefix(TAUGHT)}"


def pair_names(names: Iterable[str]) -> dict[str, str]:
    """Return each figure's name for held-out examples and its name for trained ones; in order, each once."""
    return {held_out_name(name): taught_name(held_out_name(name)) for name in names}


def say_if_few(count: object) -> str:
    """Return "of 6 pictures: too few to mean much" for a small number of pictures, nothing for others or no number."""
    if not isinstance(count, int) or count >= ENOUGH:
        return ""
    return f"of {count} picture{'' if count == 1 else 's'}: too few to mean much"
