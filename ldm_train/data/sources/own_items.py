"""Check the items that own sources yield, and what their pictures return when they are read."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from ldm_train.data.sources.items import EncodedPicture, Item
from ldm_train.util.inputs import READ_ERRORS


class WrongItemError(ValueError):
    """An own source yielded something else than an item, or one with values of another kind."""


@dataclass(frozen=True)
class OwnPicture:
    """A picture of an own class, which may return or raise anything."""

    picture: EncodedPicture

    @property
    def lasting(self) -> bool:
        return bool(self.picture.lasting)

    def read(self) -> bytes:
        """Return the bytes of a picture file.

        Raises:
            ValueError: `read` returned something else, or raised.
        """
        name = f"{type(self.picture).__name__}.read()"
        try:
            content = self.picture.read()
        except READ_ERRORS:
            raise
        except Exception as error:
            raise ValueError(f"{name} failed ({type(error).__name__}: {error})") from error
        if not isinstance(content, bytes | bytearray | memoryview):
            raise ValueError(
                f"{name} returned a {type(content).__name__}; it must return the bytes of a picture file, such as a PNG's"
            )
        return bytes(content)

    def stamp(self) -> tuple[int, int] | None:
        """Return size and modification time; None, so that the picture is read again, if `stamp` fails or gives others."""
        try:
            found = self.picture.stamp()
        except Exception:
            return None
        fits = isinstance(found, tuple) and len(found) == 2 and all(isinstance(number, int) for number in found)
        return found if fits else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_picture(value: object) -> bool:
    return value is None or all(hasattr(value, name) for name in ("read", "stamp", "lasting"))


PICTURE = "an object with read(), stamp() and lasting, such as ldm_train.data.sources.items.PictureFile(path)"
FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "key": ("a text, its name in the source", lambda value: isinstance(value, str) and value != ""),
    "picture": (PICTURE, _is_picture),
    "captions": (
        "a tuple of texts, such as ('a fox',)",
        lambda value: isinstance(value, tuple) and all(map(_is_text, value)),
    ),
    "origin": ("a text, for messages", _is_text),
    "held_out": ("True or False", lambda value: isinstance(value, bool)),
    "fields": (
        "a dictionary of texts",
        lambda value: isinstance(value, dict) and all(map(_is_text, [*value, *value.values()])),
    ),
    "maps": (
        "a dictionary of pictures by their names",
        lambda value: (
            isinstance(value, dict)
            and all(map(_is_text, value))
            and None not in value.values()
            and all(map(_is_picture, value.values()))
        ),
    ),
    "problem": ("a text, or None", lambda value: value is None or _is_text(value)),
    "repeats": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
}


def check_item(item: object) -> Item:
    """Return an item of own code, whose picture is checked when it is read.

    Raises:
        WrongItemError: it is something else, or has a value of another kind.
    """
    if not isinstance(item, Item):
        raise WrongItemError(f"it yielded a {type(item).__name__}, and must yield ldm_train.data.sources.items.Item")
    for name, (kind, fits) in FIELDS.items():
        if not fits(value := getattr(item, name)):
            raise WrongItemError(f"{name} of {item.key!r:.100} must be {kind}, and is {value!r:.100}")
    maps = {name: guard_picture(file) for name, file in item.maps.items()}
    return replace(item, picture=None if item.picture is None else guard_picture(item.picture), maps=maps)


def guard_picture(picture: EncodedPicture) -> EncodedPicture:
    """Return a picture of which what an own class returns is checked."""
    return picture if type(picture).__module__.startswith("ldm_train.") else OwnPicture(picture)
