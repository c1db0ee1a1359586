"""Sources of own code: what they yield is looked at, and their errors say which item it was."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.items import Item, PictureBytes, PictureFile
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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("key", 5), ("key", ""), ("origin", None), ("held_out", "yes"), ("fields", {"age": 76}), ("fields", None)),
        *(("problem", 5), ("repeats", 0), ("repeats", "2"), ("repeats", 1.5)),
    ],
)
def test_a_value_of_another_kind_is_named(name: str, value: object) -> None:
    item = replace(Item("a", PICTURE, ("x",), "here"), **{name: value})
    with pytest.raises(ValueError, match=rf"Own.items\(\) failed at item 1: {name} of .* must be ") as error:
        list(Own(item))
    assert repr(value) in str(error.value)


def test_a_source_that_ends_the_process_is_named() -> None:
    class Ending(Own):
        def items(self) -> Iterator[Item]:
            raise SystemExit(4)

    with pytest.raises(ValueError, match=r"Ending.items\(\) failed at item 1: SystemExit: 4"):
        list(Ending())


@dataclass(frozen=True)
class Wrong:
    """A picture that returns or raises something."""

    content: object
    lasting = True

    def read(self) -> object:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    def stamp(self) -> object:
        return "yesterday"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.zeros((4, 4, 3), np.uint8), "returned a ndarray.*bytes"),
        ("text", "returned a str.*bytes"),
        (None, "returned a NoneType.*bytes"),
        (KeyError("dose"), "KeyError: 'dose'"),
    ],
)
def test_a_picture_that_gives_no_bytes_is_a_problem_of_its_own(content: object, says: str) -> None:
    good = PictureBytes(make_png())
    items = [Item("a", Wrong(content), ("x",), "here"), Item("b", good, ("y",), "here")]  # type: ignore[arg-type]
    survey = survey_items(Own(*items), max_pixels=1000)
    assert [scanned.item.key for scanned in survey.scanned] == ["b"]
    assert re.search(rf"Wrong\.read\(\) .*{says}", survey.problems["a"])


def test_a_picture_may_return_any_bytes_and_no_stamp() -> None:
    [item] = Own(Item("a", Wrong(bytearray(make_png())), ("x",), "here"))  # type: ignore[arg-type]
    assert item.picture is not None
    assert (item.picture.read(), item.picture.stamp()) == (make_png(), None)


def make_png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG")
    return content.getvalue()


def test_a_source_must_call_its_base_class() -> None:
    class Bare(Own):
        def __init__(self) -> None:
            self.found = ()

    with pytest.raises(ValueError, match=r"source._target_=mine.Bare: notes .*super\(\).__init__\(\)"):
        check_kind(Bare(), "mine.Bare", "source")


def test_a_problem_needs_no_picture() -> None:
    item = Item("a", None, (), "here", problem="not there")
    assert list(Own(item)) == [item]


@pytest.mark.parametrize(("group", "base"), [("source", "Source"), ("callbacks", "Callback")])
def test_what_lacks_the_base_class_is_refused_with_its_name(group: str, base: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{group}._target_=mine.Plain makes a Plain, .*derive the class from \S*\.{base}$"
    ):
        check_kind(Plain(), "mine.Plain", group)
