"""What a section of a page can hold. All text is plain text: the page escapes it, and cuts what does not end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from ldm_train.reports.charts import Bars, Histogram
from ldm_train.reports.curves import Charts
from ldm_train.reports.embedded_pictures import Embedded
from ldm_train.reports.heatmap import Heatmap

Strings = list[str] | tuple[str, ...]  # no Sequence[str]: a string is one too, of letters


@dataclass(frozen=True)
class Facts:
    """Names and their values; with words for `fold` they are behind these."""

    kind: ClassVar[str] = "facts"
    rows: Sequence[tuple[str, str]]
    fold: str = ""

    @property
    def empty(self) -> bool:
        return not self.rows


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row.

    Args:
        columns: their names.
        rows: a text for each column.
        numeric: names of the columns to align right.
        max_rows: how many are in sight; the rest is folded.
        max_folded: how many the fold holds; of the rest only the number is told, for a browser must open the page.
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
    """A picture, as a file's bytes or decoded; None, or what does not decode, is shown as a box that says so."""

    picture: bytes | Image.Image | None
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
class Whole:
    """A picture as large as it is; None, for what does not decode, is shown as a box that says so."""

    embedded: Embedded | None
    alt: str
    label: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures below each other, as wide as the page at most.

    Args:
        columns: what they show, from the left, and in rows of `across`; `indent` per cent of the width are before them.
        rows: whether each one's label stands beside it.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Whole]
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
        """At which they are shown at most, pixels: twice their own, so that small ones can be seen."""
        return max([480, *(2 * one.embedded.width for one in self.pictures if one.embedded)])


@dataclass(frozen=True)
class Text:
    """Paragraphs, with their line ends."""

    kind: ClassVar[str] = "text"
    paragraphs: Strings

    @property
    def empty(self) -> bool:
        return not any(self.paragraphs)


@dataclass(frozen=True)
class Command:
    """What to type into a terminal: one click selects all of it."""

    kind: ClassVar[str] = "command"
    text: str

    @property
    def empty(self) -> bool:
        return not self.text


Block = Facts | Table | Bars | Histogram | Charts | Heatmap | Thumbnails | Pictures | Text | Command
