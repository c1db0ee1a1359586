"""Annotations of pictures: captions, whether a picture is held out, and further fields, or why they cannot be used."""

import difflib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from ldm_train.data.sources.caption_texts import cut_parameters, join_tags
from ldm_train.data.sources.items import format_name
from ldm_train.util.inputs import MAX_TEXT, READ_ERRORS
from ldm_train.util.safe_json import parse_values
from ldm_train.util.text import as_word

HELD_OUT_SPLITS = {"held_out", "validation", "valid", "val", "dev", "test"}
TRAINING_SPLITS = {"train", "training", "", "none"}
CAPTION_COLUMNS = ("caption", "captions", "text", "prompt")
BOM = b"\xef\xbb\xbf"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # marks at the beginning of texts of Windows' programs

Lines = Literal["each", "one"]  # each line of a file is a caption, or all lines are one


def require_lines(lines: str) -> None:
    """Raise ValueError for another value of `source.lines` than the two that are accepted."""
    if lines not in get_args(Lines):
        raise ValueError(f"source.lines={lines} is unknown; accepted are {', '.join(get_args(Lines))}")


def describe_parameters(count: int) -> list[str]:
    """Return a note about files with parameters of a generation, if there are any."""
    files = "1 text file" if count == 1 else f"{count:,} text files"
    return [f"parameters of a generation (Negative prompt, Steps, …) are left out of the captions of {files}"] * (count > 0)


class NotAnObjectError(ValueError):
    """JSON that is not an object."""


@dataclass(frozen=True)
class Annotation:
    """The annotation of one picture in one place.

    Args:
        origin: the place, for messages.
        captions: none if there is a problem.
        problem: why there is no caption.
        damaged: whether the place cannot be read, so other places are not used either.
        has_parameters: whether parameters of a generation after the captions were left out.
    """

    origin: str
    captions: tuple[str, ...] = ()
    held_out: bool = False
    fields: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
    damaged: bool = False
    has_parameters: bool = False


def join_annotations(annotations: Sequence[Annotation], *, join_captions: bool = False) -> Annotation:
    """Return the first captions and all fields of annotations of one picture, or the first damaged annotation.

    Args:
        join_captions: return the captions of all, each once.
    """
    damaged = [one for one in annotations if one.damaged]
    if damaged:
        return damaged[0]
    best = next((one for one in annotations if one.captions), annotations[0])
    captions = tuple(dict.fromkeys(text for one in annotations for text in one.captions)) if join_captions else best.captions
    fields = {name: text for one in annotations for name, text in one.fields.items()}
    return replace(best, captions=captions, held_out=any(one.held_out for one in annotations), fields=fields)


def is_same_text(captions: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether two places have the same captions, if line breaks and blanks make no difference."""
    return " ".join(" ".join(captions).split()) == " ".join(" ".join(others).split())


def annotate_from_values(values: Mapping[str, object], *, column: str, origin: str, apart: Iterable[str] = ()) -> Annotation:
    """Return the annotation in a row of a table.

    Args:
        column: has the captions.
        apart: columns that do not become fields.
    """
    captions = join_tags(column, list_texts(values.get(column)))
    unusable = _unusable(captions, origin)
    split = read_split(values)
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


def read_split(values: Mapping[str, object]) -> str:
    """Return the value of `split` in a row of a table, in lower case; "none" or "" if there is none."""
    return format_as_text(values.get("split")).strip().lower()


def annotate_from_text(content: bytes, *, origin: str, lines: Lines = "each") -> Annotation:
    """Return the annotation in a text file."""
    try:
        text = decode_text(content)
    except ValueError as error:
        return Annotation(origin, problem=f"no caption: {origin} {error}", damaged=True)
    written = re.split(r"\r\n|\r|\n", text)
    captions = list_texts(kept := cut_parameters(written))
    annotation = annotate_from_captions((" ".join(captions),) if lines == "one" and captions else captions, origin=origin)
    return replace(annotation, has_parameters=len(kept) < len(written))


def annotate_from_captions(captions: tuple[str, ...], *, origin: str) -> Annotation:
    """Return an annotation that has only captions."""
    unusable = _unusable(captions, origin)
    problem = unusable if captions else f"no caption: {origin} is empty"
    return Annotation(origin, () if problem else captions, problem=problem, damaged=unusable is not None)


def annotate_from_json(content: bytes, *, column: str, origin: str) -> Annotation:
    """Return the annotation in a JSON object, with captions in `column` or, without it, in one of `CAPTION_COLUMNS`.

    Other JSON, such as a list of tags, is no caption, and other places are used.
    """
    try:
        values = parse_json_object(content)
    except NotAnObjectError as error:
        return Annotation(origin, problem=f"no caption: {origin} {error}")
    except ValueError as error:
        return Annotation(origin, problem=f"no caption: {origin} {error}", damaged=True)
    return annotate_from_values(values, column=choose_caption_column(values, column), origin=origin)


def choose_caption_column(values: Mapping[str, object], column: str, *, further: Sequence[str] = ()) -> str:
    """Return the first of `column`, `CAPTION_COLUMNS` and `further` that has a text, or `column`."""
    return next((name for name in (column, *CAPTION_COLUMNS, *further) if list_texts(values.get(name))), column)


def parse_json_object(content: bytes) -> dict[str, object]:
    """Return a JSON object.

    Raises:
        ValueError: with a message that continues the name of the place, such as "is not JSON".
        NotAnObjectError: the same, for other JSON.
    """
    text = decode_text(content)
    try:
        values = parse_values(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise NotAnObjectError(f"is not a JSON object but {format_name(text.strip()[:40])}")
    return dict(values)


def decode_text(content: bytes) -> str:
    """Return text in UTF-8, or in UTF-16 with a byte order mark; raises as `parse_json_object`."""
    if content.startswith(UTF_16):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(f"starts as UTF-16 but is not ({error.reason}); save it as UTF-8") from error
    try:
        return content.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        byte, place = error.object[error.start], error.start + len(content) - len(error.object)
        raise ValueError(f"is not UTF-8: byte 0x{byte:02x} at {place}; save it as UTF-8") from error


def list_texts(value: object) -> tuple[str, ...]:
    """Return the texts of one text or a list, stripped, without empty ones and values that are not text."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in several if isinstance(text, str) and text.strip())


def format_as_text(value: object) -> str:
    """Return any value as a text that UTF-8 can encode; empty for one that cannot be written."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
    except READ_ERRORS:  # nested too deeply, or a number with thousands of digits
        return ""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text  # the same object, since many rows may share it


def read_key(value: object) -> str | None:
    """Return a key from a column's value; None if it is empty or an absolute path, which differs on other machines."""
    key = "" if value is None else format_as_text(value).strip()
    return None if not key or os.path.isabs(key) else key


def _unusable(captions: Iterable[str], origin: str) -> str | None:
    """Return why captions cannot be used as text, None if they can."""
    for caption in captions:
        if "\0" in caption:
            return f"no caption: {origin} contains a NUL byte, so it is binary: {format_name(caption[:40])}"
        try:
            size = len(caption.encode())
        except UnicodeEncodeError:
            return f"no caption: {origin} is not valid Unicode: {format_name(caption[:40])}"
        if size > MAX_TEXT:  # not cut, which could change its meaning
            return f"no caption: {origin} has a caption of {size:,} bytes; at most {MAX_TEXT:,} are read"
    return None


def suggest_column(column: str, known: Iterable[str], setting: str) -> str:
    """Return the end of a message about a missing column: the existing columns, and the one that was likely meant."""
    names = [str(name) for name in known]
    usual = [name for name in names if setting == "caption_column" and name.lower() in CAPTION_COLUMNS]
    likely = difflib.get_close_matches(column, names, n=1) or usual[:1]
    return f"it has {format_columns(names)}; " + (
        f"did you mean {as_word(f'source.{setting}', likely[0])}?" if likely else f"set source.{setting}"
    )


def format_columns(columns: Iterable[str]) -> str:
    """Return the names of columns for a message."""
    return ", ".join(format_name(str(column)) for column in columns) or "none"
