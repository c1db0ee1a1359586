"""What one place tells of a picture: captions, whether it is held out, further fields; or why that is of no use."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import MAX_TEXT, READ_ERRORS
from ldm_train.util.safe_json import parse_values

HELD_OUT_SPLITS = {"held_out", "validation", "val", "test"}
TRAINING_SPLITS = {"train", "training", "", "none"}
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Annotation:
    """What stands at `origin`; no captions where there is a problem, which `damaged` says is one of the place itself."""

    origin: str
    captions: tuple[str, ...] = ()
    held_out: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    damaged: bool = False


def join_annotations(told: Sequence[Annotation]) -> Annotation:
    """What several places tell of one picture: the first captions, all fields. One that is damaged spoils the others."""
    damaged = [one for one in told if one.damaged]
    if damaged:
        return damaged[0]
    best = next((one for one in told if one.captions), told[0])
    fields = {name: text for one in told for name, text in one.fields.items()}
    return replace(best, held_out=any(one.held_out for one in told), fields=fields)


def annotate_from_values(values: Mapping[str, object], *, column: str, origin: str, apart: Iterable[str] = ()) -> Annotation:
    """A row of a table: captions of its `column`, `split`, and all else but the columns in `apart` as fields."""
    captions = list_texts(values.get(column))
    unusable = _unusable(captions, origin)
    split = format_as_text(values.get("split")).strip().lower()
    consumed = {column, *apart} | ({"split"} if split in HELD_OUT_SPLITS | TRAINING_SPLITS else set())
    fields = {format_as_text(k): format_as_text(v) for k, v in values.items() if k not in consumed and v is not None}
    if column not in values:
        problem: str | None = f"no caption: {origin} has no {column!r}; {suggest_column(column, values, 'caption_column')}"
    elif not captions:
        problem = f"no caption: {origin} has no text in {column!r}"
    else:
        problem = unusable
    return Annotation(
        origin, () if problem else captions, split in HELD_OUT_SPLITS, fields, problem, damaged=unusable is not None
    )


def annotate_from_text(content: bytes, *, origin: str) -> Annotation:
    """A text file of a caption a line."""
    try:
        text = decode_utf8(content)
    except ValueError as error:
        return Annotation(origin, problem=f"no caption: {origin} {error}", damaged=True)
    return annotate_from_captions(list_texts(re.split(r"\r\n|\r|\n", text)), origin=origin)


def annotate_from_captions(captions: tuple[str, ...], *, origin: str) -> Annotation:
    """Captions and nothing else."""
    unusable = _unusable(captions, origin)
    problem = unusable if captions else f"no caption: {origin} is empty"
    return Annotation(origin, () if problem else captions, problem=problem, damaged=unusable is not None)


def annotate_from_json(content: bytes, *, column: str, origin: str) -> Annotation:
    """A JSON object; where it has no `column`, under one of the usual names of captions."""
    try:
        values = parse_json_object(content)
    except ValueError as error:
        return Annotation(origin, problem=f"no caption: {origin} {error}", damaged=True)
    named = [name for name in (column, *CAPTION_COLUMNS) if list_texts(values.get(name))]
    return annotate_from_values(values, column=named[0] if named else column, origin=origin)


def parse_json_object(content: bytes) -> dict[str, object]:
    """Raises ValueError, whose words follow the name of the place, for all but one JSON object."""
    text = decode_utf8(content)
    try:
        values = parse_values(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"is not a JSON object but {format_name(text.strip()[:40])}")
    return dict(values)


def decode_utf8(content: bytes) -> str:
    """Text with or without a byte order mark. Raises ValueError, whose words follow the name of the place."""
    try:
        return content.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        byte, place = error.object[error.start], error.start + len(content) - len(error.object)
        raise ValueError(f"is not UTF-8: byte 0x{byte:02x} at {place}; save it as UTF-8") from error


def list_texts(value: object) -> tuple[str, ...]:
    """One text or a list of them, without what is empty or no text."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in several if isinstance(text, str) and text.strip())


def format_as_text(value: object) -> str:
    """Any value as a text that UTF-8 can hold; empty for one that cannot be written."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    except READ_ERRORS:  # nested too deep, or a number of thousands of digits
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text  # the same object, which many rows may share


def read_key(value: object) -> str | None:
    """A name out of a column; None for an empty one, or a path of this machine alone."""
    key = "" if value is None else format_as_text(value).strip()
    return None if not key or os.path.isabs(key) else key


def _unusable(captions: Iterable[str], origin: str) -> str | None:
    """Why these captions are no text, if so."""
    for caption in captions:
        if "\0" in caption:
            return f"no caption: {origin} holds a NUL byte, so it is binary: {format_name(caption[:40])}"
        try:
            size = len(caption.encode())
        except UnicodeEncodeError:
            return f"no caption: {origin} is not valid Unicode: {format_name(caption[:40])}"
        if size > MAX_TEXT:  # cut, it would say something else
            return f"no caption: {origin} has a caption of {size:,} bytes; at most {MAX_TEXT:,} are read"
    return None


def suggest_column(column: str, known: Iterable[str], setting: str) -> str:
    """The columns there are, and the one that was likely meant: the end of a message that misses one."""
    names = [str(name) for name in known]
    usual = [name for name in names if setting == "caption_column" and name.lower() in CAPTION_COLUMNS]
    likely = difflib.get_close_matches(column, names, n=1) or usual[:1]
    return f"it has {format_columns(names)}; " + (
        f"did you mean source.{setting}={likely[0]}?" if likely else f"set source.{setting}"
    )


def format_columns(columns: Iterable[str]) -> str:
    return ", ".join(format_name(str(column)) for column in columns) or "none"
