"""Tell captions from texts of other kinds: lists of tags, parameters of a generation, and labels of object detectors."""

import re
from collections.abc import Sequence

TAG_COLUMN = re.compile(r"(.*_)?(tags?|keywords?|labels|tag_string\w*)(_.*)?", re.IGNORECASE)
CAPTION_COLUMN = re.compile(r".*(caption|text|prompt|description|sentence).*", re.IGNORECASE)
MIN_TAGS = 4  # of a list of short texts in a column of another name
PARAMETERS = re.compile(r"\s*(Negative prompt:|Steps: *\d+, *\w+)")
BOX = re.compile(r"\s*\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}\s*")


def join_tags(column: str, texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags of a list as one caption; captions as they are.

    Tags are in a column of such a name, or are several texts of one or two words in a column that is not named as captions.
    """
    short = len(texts) >= MIN_TAGS and all("," not in text and len(text.split()) <= 2 for text in texts)
    are_tags = TAG_COLUMN.fullmatch(column) or (short and not CAPTION_COLUMN.fullmatch(column))
    return (", ".join(texts),) if are_tags and len(texts) > 1 else texts


def cut_parameters(lines: Sequence[str]) -> list[str]:
    """Return the lines of a text file up to the parameters of a generation, such as "Steps: 20, Sampler: Euler"."""
    first = next((number for number, line in enumerate(lines) if PARAMETERS.match(line)), len(lines))
    return list(lines[:first])


def is_box_label(text: str) -> bool:
    """Return whether a line has a class and a box or polygon in numbers, as YOLO's labels."""
    return BOX.fullmatch(text) is not None
