"""The blocks of a page's sections. All text is plain text: the page escapes it, and cuts very long texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from ldm_train.reports.charts import Bars, Histogram
from ldm_train.reports.curves import Charts
from ldm_train.reports.embedded_pictures import EmbeddedPicture
from ldm_train.reports.heatmap import Heatmap

Strings = list[str] | tuple[str, ...]  # not Sequence[str], which a single string would be too


@dataclass(frozen=True)
class Facts:
    """Names and their values; with a text in `fold`, they are folded behind it."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]
    fold: str = ""

    @property
    def empty(self) -> bool:
        return not self.rows


@dataclass(frozen=True)
class DataTable:
    """A table whose first column names the row.

    Args:
        columns: their names.
        rows: a text for each column.
        numeric: names of the columns to align right.
        max_rows: how many rows are visible; further ones are folded.
        max_folded: how many rows are folded; of further ones the page says only how many there are, to stay small.
    """

    kind: ClassVar[str] = "table"
    columns: Strings
    rows: Sequence[Strings]
    numeric: Strings = ()
    max_rows: int = 20
    max_folded: int = 1000
    caption: str = ""

    def __post_init__(self) -> None:
        assert set(self.numeric) <= set(self.columns), f"numeric columns {self.numeric} of {self.columns}"
        assert all(len(row) == len(self.columns) for row in self.rows), f"each row has {len(self.columns)} cells"

    @property
    def empty(self) -> bool:
        return not self.rows


@dataclass(frozen=True)
class Thumbnail:
    """A decoded picture; a box with a message replaces None, a picture that cannot be decoded."""

    picture: Image.Image | None
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Thumbnails:
    """Pictures side by side."""

    kind: ClassVar[str] = "thumbnails"
    pictures: Sequence[Thumbnail]

    @property
    def empty(self) -> bool:
        return not self.pictures


@dataclass(frozen=True)
class WholePicture:
    """A picture at its own size; a box with a message replaces None, a picture that cannot be decoded."""

    embedded: EmbeddedPicture | None
    alt: str
    label: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures below each other, at most as wide as the page.

    Args:
        columns: headings of the parts of a picture from left to right, in rows of `across`.
        indent: per cent of the width before the first heading.
        rows: whether each picture's label stands next to it.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[WholePicture]
    caption: str = ""
    columns: Strings = ()
    across: int = 0
    indent: float = 0.0
    rows: bool = False

    @property
    def empty(self) -> bool:
        return not self.pictures

    @property
    def width(self) -> int:
        """The largest width that they are shown at, in pixels: twice their own, to make small ones visible."""
        return max([480, *(2 * one.embedded.width for one in self.pictures if one.embedded)])


@dataclass(frozen=True)
class Paragraphs:
    """Paragraphs of text that keep their line breaks."""

    kind: ClassVar[str] = "text"
    paragraphs: Strings

    @property
    def empty(self) -> bool:
        return not any(self.paragraphs)


@dataclass(frozen=True)
class ShellCommand:
    """A command for a terminal; one click selects all of it."""

    kind: ClassVar[str] = "command"
    text: str

    @property
    def empty(self) -> bool:
        return not self.text


@dataclass(frozen=True)
class FilmFrame:
    """Pictures side by side at one step of something, with facts about it."""

    label: str
    pictures: Sequence[WholePicture]
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Film:
    """Frames of which a slider shows one at a time; without a script all are below each other.

    Args:
        first: the number of the frame that is shown before somebody moves the slider.
        width: largest width of a picture on the page, pixels.
    """

    kind: ClassVar[str] = "film"
    frames: Sequence[FilmFrame]
    caption: str = ""
    first: int = 0
    width: int = 256

    @property
    def empty(self) -> bool:
        return not self.frames


PageBlock = (
    Facts | DataTable | Bars | Histogram | Charts | Heatmap | Thumbnails | Pictures | Film | Paragraphs | ShellCommand
)
