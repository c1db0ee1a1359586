"""Sources of own code: what they yield is looked at, and their errors say which item it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm_train.data.sources.items import Item, PictureFile
from ldm_train.data.sources.source import Source
from ldm_train.settings.own_code import check_kind

PICTURE = PictureFile(Path("a.png"))


class Own(Source):
    """Yields what it is given; an error is raised in its place."""

    def __init__(self, *items: object) -> None:
        super().__init__()
        self.found = items

    def items(self) -> Iterator[Item]:
        for item in self.found:
            if isinstance(item, Exception):
                raise item
            yield item  # type: ignore[misc]


class Plain:
    """Has the method, but not what iterates it."""

    def items(self) -> Iterator[Item]:
        return iter(())


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("a.png", "yielded a str"),
        (Item("a", PICTURE, "age=76", "here"), r"captions of 'a'.*tuple.*'age=76'"),  # type: ignore[arg-type]
        (Item("a", PICTURE, (76,), "here"), r"captions of 'a'.*\(76,\)"),  # type: ignore[arg-type]
        (Item("a", Path("a.png"), ("x",), "here"), r"picture of 'a'.*read\(\).*PosixPath"),  # type: ignore[arg-type]
        (KeyError("dose"), "Own.* failed at item 2: KeyError: 'dose'"),
        (ValueError("my own words"), "Own.* failed at item 2: ValueError: my own words"),
    ],
)
def test_what_is_no_item_is_named(item: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        list(Own(Item("first", PICTURE, ("x",), "here"), item))


def test_a_problem_needs_no_picture() -> None:
    item = Item("a", None, (), "here", problem="not there")
    assert list(Own(item)) == [item]


@pytest.mark.parametrize(("group", "base"), [("source", "Source"), ("callbacks", "Callback")])
def test_what_lacks_the_base_class_is_refused_with_its_name(group: str, base: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{group}._target_=mine.Plain makes a Plain, .*derive the class from \S*\.{base}$"
    ):
        check_kind(Plain(), "mine.Plain", group)
