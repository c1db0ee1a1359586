"""Review what a source yields, for people: examples of captions, what is odd about them, and how much cannot be used."""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

from ldm_train.data.sources.caption_texts import is_box_label
from ldm_train.data.sources.items import MISSING, Item, format_name
from ldm_train.util.prompt_syntax import NO_EFFECT, find_web_ui_syntax
from ldm_train.util.text import shorten

EXAMPLES = 3
MANY = 8  # captions of one picture; COCO's have 5
LISTED = 3  # problems of one kind that are printed one by one
LIST_LINE = re.compile(r"([-*•\u2013]|\d{1,2}[.)])\s|\W+$|.*[:{\[]$|\"[^\"]*\":|\w+( \w+)?: \S")
GOES_ON = re.compile(r"([,;]|\s(and|or|with|of|the|a|an|in|on|by|to))$")
NEXT_SENTENCE = re.compile(r"\w\w[.!?]\s+[^\W\da-z_]")
KEY_AND_VALUE = re.compile(r"[\w.@-]+=\S")
MARKUP = re.compile(r"</\w+>|<br\s*/?>|&(amp|quot|lt|gt|nbsp|#\d+);|https?://")
NUMBERS = re.compile(r"[\W_]*\d[\W\d_]*")
SENTENCE_ENDS = tuple(".!?\"'\u201d\u3002\uff01\uff1f")


def review_captions(
    items: Iterable[Item], is_usable: Callable[[Item], bool] = lambda item: True
) -> tuple[list[str], list[str]]:
    """Return three captions as they are trained, and warnings about odd ones.

    Args:
        is_usable: whether the caption of an item may be an example; it is called of a few items.
    """
    captioned = [item for item in items if any(item.captions)]
    examples = [
        f"caption of {format_name(item.key)}: {format_caption(item.captions[number % len(item.captions)])}"
        + (f" ({number % len(item.captions) + 1} of {len(item.captions):,})" if len(item.captions) > 1 else "")
        for number, item in enumerate(_choose_examples(captioned, is_usable))
    ]
    several = Counter(item.captions for item in captioned if len(item.captions) > 1)
    warnings = []
    many = [item for item in captioned if len(item.captions) > MANY]
    if many:
        most = max(many, key=lambda item: len(item.captions))
        warnings.append(
            f"{len(many):,} of {len(captioned):,} pictures have more than {MANY} captions, {format_name(most.key)} has "
            f"{len(most.captions):,}; one of them is drawn at each step. If the lines of a text file are one text, set "
            "source.lines=one"
        )
    split = {captions: count for captions, count in several.items() if looks_like_one_text(captions)}
    if split:
        first, second, *_ = next(iter(split))
        warnings.append(
            f"the captions of {sum(split.values()):,} of {len(captioned):,} pictures look like lines of one text, such as "
            f"{format_caption(first, 40)} and {format_caption(second, 40)} "
            "(source.lines=one makes one caption of a text file)"
        )
    return examples, warnings + list(_list_odd(sorted({text for item in captioned for text in item.captions})))


def judge_labels(items: Iterable[Item]) -> str | None:
    """Return an error if the captions of most pictures are labels of an object detector."""
    captioned = [item for item in items if any(item.captions)]
    boxes = [item for item in captioned if all(map(is_box_label, item.captions))]
    if 2 * len(boxes) <= len(captioned):
        return None
    return (
        f"the captions of {len(boxes):,} of {len(captioned):,} pictures look like YOLO labels, not captions, such as "
        f"{format_caption(boxes[0].captions[0])} of {format_name(boxes[0].key)}; source.captions_from=FOLDER reads captions "
        "elsewhere, and source.captions=template with source.template=TEXT makes them"
    )


def _choose_examples(items: Sequence[Item], is_usable: Callable[[Item], bool]) -> list[Item]:
    """Return the first item, one from the middle and the last, or others, with different captions if possible."""
    spread = [items[place] for place in (0, len(items) // 2, len(items) - 1)] if items else []
    chosen: dict[tuple[str, ...], Item] = {}
    for item in [*spread, *items[:100]]:
        if len(chosen) < EXAMPLES and item.captions not in chosen and is_usable(item):
            chosen[item.captions] = item
    return list(chosen.values())


def _list_odd(captions: Sequence[str]) -> Iterator[str]:
    tests: dict[str, Callable[[str], object]] = {
        f"have the syntax of a web UI, which {NO_EFFECT}": find_web_ui_syntax,
        "begin as key=value": KEY_AND_VALUE.match,
        "have HTML or addresses": MARKUP.search,
        "have numbers and no letters": NUMBERS.fullmatch,
    }
    for description, test in tests.items():
        odd = [text for text in captions if test(text)]
        if odd:
            yield f"{len(odd):,} of {len(captions):,} captions {description}, such as {format_caption(odd[0])}"
    foreign = [text for text in captions if not text.isascii() and any(map(is_other_script, text))]
    if foreign and len(foreign) < len(captions):
        yield (
            f"{len(foreign):,} of {len(captions):,} captions have letters of another script than Latin, such as "
            f"{format_caption(foreign[0])}"
        )
    joined = [text for text in captions if re.search(r"[^\W_]_[^\W_]", text)]
    if 2 * len(joined) > len(captions):
        yield (
            f"{len(joined):,} of {len(captions):,} captions have underscores, such as {format_caption(joined[0])}; text "
            "encoders expect blanks: long hair, not long_hair"
        )


def looks_like_one_text(lines: Sequence[str]) -> bool:
    """Return whether lines look like parts of one text: a list, JSON, paragraphs, or lines that go on in the next one."""
    odd = sum(LIST_LINE.match(line) is not None for line in lines)
    paragraphs = sum(NEXT_SENTENCE.search(line) is not None for line in lines)
    wrapped = sum(
        (len(line) > 40 or line[:1].isupper()) and not line.endswith(SENTENCE_ENDS) and after[:1].islower()
        for line, after in pairwise(lines)
    )
    goes_on = any(GOES_ON.search(line) for line in lines[:-1])
    return len(lines) > 1 and (goes_on or 3 * (odd + paragraphs + wrapped) >= len(lines))


@cache
def is_other_script(character: str) -> bool:
    """Return whether a character is a letter, and not a Latin one."""
    return character.isalpha() and not unicodedata.name(character, "LATIN").startswith(
        ("LATIN", "FEMININE", "MASCULINE", "MICRO")
    )


def format_caption(text: str, most: int = 200) -> str:
    """Return a caption in quotes, on one line."""
    return f"'{shorten(format_name(text), most)}'"


def judge_unread(unread: Counter[str], *, usable: int, unusable: int, most: float) -> tuple[str | None, str | None]:
    """Return an error if too large a share of the pictures cannot be used, and a warning if some are of unread kinds.

    Args:
        unread: pictures of kinds that are not read, by suffix.
        usable, unusable: number of the other pictures.
        most: the share from which on it is an error; 1 accepts everything.
    """
    lost, total = unread.total() + unusable, unread.total() + unusable + usable
    if not lost:
        return None, None
    kinds = ", ".join(f"{count:,} {format_name(suffix)}" for suffix, count in unread.most_common(5))
    words = f"{lost:,} of {total:,} pictures ({lost / total:.0%}) cannot be used"
    words += f": {kinds} are not of the kinds that are read; convert them to PNG or JPEG" if unread else ""
    if lost >= most * total and most < 1:
        return f"{words}; max_unusable=1 uses the others", None
    return None, words if unread else None


def group_problems(problems: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each problem in the keys' order, and one for many problems of the same kind."""
    kinds: dict[str, list[str]] = {}
    for key, problem in sorted(problems.items()):
        kinds.setdefault(_kind(key, problem), []).append(key)
    for keys in kinds.values():
        if len(keys) > LISTED:
            first, problem = format_name(keys[0]), format_name(problems[keys[0]])
            if problem.startswith(MISSING):
                yield (
                    f"{len(keys):,} pictures have no caption (the first: {first}): {problem.removeprefix(MISSING)}; "
                    "fit needs captions; `ldm-train encode` and `ldm-train train` with text_encoder=unconditional need none"
                )
            else:
                yield f"{first} and {len(keys) - 1:,} more of this kind: {problem}"
        else:
            yield from (f"{format_name(key)}: {format_name(problems[key])}" for key in keys)


def _kind(key: str, problem: str) -> str:
    """Return a problem without the parts that differ between pictures: names, numbers, quoted texts."""
    key = re.sub(r"#\d+$", "", key)
    for name in (key, posixpath.basename(key), posixpath.splitext(key)[0]):
        problem = problem.replace(format_name(name), "") if len(name) > 1 else problem
    return re.sub(r"\d[\d,.]*|'[^']*'|\"[^\"]*\"", "", problem)
