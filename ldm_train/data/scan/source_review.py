"""Review what a source yields, for people: examples of captions, what is odd about them, and how much cannot be used."""

import posixpath
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise

from ldm_train.data.sources.caption_texts import is_box_label
from ldm_train.data.sources.items import MISSING, Item, format_name
from ldm_train.util.packed_columns import TextColumn, select_distinct
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
    every: Sequence[tuple[str, ...]],
    item_of: Callable[[int], Item],
    is_usable: Callable[[Item], bool] = lambda item: True,
) -> tuple[list[str], list[str]]:
    """Return three captions as they are trained, and warnings about odd ones.

    Args:
        every: the captions of each item, which are read one by one, since there may be millions.
        item_of: returns the item of a place in `every`; it is called of a few.
        is_usable: whether the caption of an item may be an example; it is called of a few items.
    """
    captioned, texts = array("Q"), TextColumn()
    many, most, split, lines = 0, list[int](), 0, list[int]()
    for place, captions in enumerate(every):
        if not any(captions):
            continue
        captioned.append(place)
        for text in filter(None, captions):
            texts.append(text)
        if len(captions) > MANY:
            many += 1
            most = [place] if not most or len(captions) > len(every[most[0]]) else most
        if len(captions) > 1 and looks_like_one_text(captions):
            split += 1
            lines = lines or [place]
    examples = [
        f"caption of {format_name(item.key)}: {format_caption(item.captions[number % len(item.captions)])}"
        + (f" ({number % len(item.captions) + 1} of {len(item.captions):,})" if len(item.captions) > 1 else "")
        for number, item in enumerate(_choose_examples(captioned, item_of, is_usable))
    ]
    warnings = [
        f"{many:,} of {len(captioned):,} pictures have more than {MANY} captions, {format_name(item.key)} has "
        f"{len(item.captions):,}; one of them is drawn at each step. If the lines of a text file are one text, set "
        "source.lines=one"
        for item in map(item_of, most)
    ]
    warnings += [
        f"the captions of {split:,} of {len(captioned):,} pictures look like lines of one text, such as "
        f"{format_caption(item.captions[0], 40)} and {format_caption(item.captions[1], 40)} "
        "(source.lines=one makes one caption of a text file)"
        for item in map(item_of, lines)
    ]
    return examples, warnings + list(_list_odd(select_distinct(texts)))


def judge_labels(every: Iterable[tuple[str, ...]], item_of: Callable[[int], Item]) -> str | None:
    """Return an error if the captions of most pictures are labels of an object detector; see `review_captions`."""
    captioned, boxes, place_of_first = 0, 0, None
    for place, captions in enumerate(every):
        if any(captions):
            captioned += 1
            if all(map(is_box_label, captions)):
                boxes += 1
                place_of_first = place if place_of_first is None else place_of_first
    if place_of_first is None or 2 * boxes <= captioned:
        return None
    first = item_of(place_of_first)
    return (
        f"the captions of {boxes:,} of {captioned:,} pictures look like YOLO labels, not captions, such as "
        f"{format_caption(first.captions[0])} of {format_name(first.key)}; source.captions_from=FOLDER reads captions "
        "elsewhere, and source.captions=template with source.template=TEXT makes them"
    )


def _choose_examples(places: Sequence[int], item_of: Callable[[int], Item], is_usable: Callable[[Item], bool]) -> list[Item]:
    """Return the first item, one from the middle and the last, or others, with different captions if possible."""
    spread = [places[place] for place in (0, len(places) // 2, len(places) - 1)] if places else []
    chosen: dict[tuple[str, ...], Item] = {}
    for item in map(item_of, [*spread, *places[:100]]):
        if len(chosen) < EXAMPLES and item.captions not in chosen and is_usable(item):
            chosen[item.captions] = item
    return list(chosen.values())


def _list_odd(captions: Sequence[str]) -> Iterator[str]:
    """Yield a warning about each kind of odd captions, with the first of them; captions must be distinct."""
    tests: dict[str, Callable[[str], object]] = {
        f"have the syntax of a web UI, which {NO_EFFECT}": find_web_ui_syntax,
        "begin as key=value": KEY_AND_VALUE.match,
        "have HTML or addresses": MARKUP.search,
        "have numbers and no letters": NUMBERS.fullmatch,
    }
    for description, test in tests.items():
        odd, first = _count_odd(captions, test)
        if odd:
            yield f"{odd:,} of {len(captions):,} captions {description}, such as {format_caption(first)}"
    foreign, first = _count_odd(captions, lambda text: not text.isascii() and any(map(is_other_script, text)))
    if 0 < foreign < len(captions):
        yield (
            f"{foreign:,} of {len(captions):,} captions have letters of another script than Latin, such as "
            f"{format_caption(first)}"
        )
    joined, first = _count_odd(captions, re.compile(r"[^\W_]_[^\W_]").search)
    if 2 * joined > len(captions):
        yield (
            f"{joined:,} of {len(captions):,} captions have underscores, such as {format_caption(first)}; text "
            "encoders expect blanks: long hair, not long_hair"
        )


def _count_odd(captions: Iterable[str], test: Callable[[str], object]) -> tuple[int, str]:
    """Return the number of captions that a test finds, and the first of them in their order."""
    count, first = 0, ""
    for text in captions:
        if test(text):
            count, first = count + 1, min(first or text, text)
    return count, first


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
