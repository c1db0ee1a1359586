"""What is shown of a source's captions, and which of them are called odd; how much of a source may be unusable."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from ldm_train.data.scan.source_review import (
    group_problems,
    judge_labels,
    judge_unread,
    looks_like_one_text,
    review_captions,
)
from ldm_train.data.sources.items import Item, PictureBytes
from ldm_train.util.prompt_syntax import find_web_ui_syntax, list_syntax_notes


def items_with(*captions: tuple[str, ...]) -> tuple[Sequence[tuple[str, ...]], Callable[[int], Item]]:
    """Return captions, and the function that gives the item of each."""
    return captions, lambda place: Item(f"{place}.png", PictureBytes(b""), captions[place], "")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_three_captions_are_shown_as_they_are_trained(count: int) -> None:
    examples, warnings = review_captions(*items_with(*((f"sks, a cat {n}",) for n in range(count))))
    assert len(examples) == min(count, 3)
    assert all("'sks, a cat " in line and ".png" in line for line in examples)
    assert warnings == []


def test_examples_are_of_different_captions_and_on_one_line() -> None:
    examples, _ = review_captions(*items_with(*[("same\nline",)] * 50, ("other", "second")))
    assert len(examples) == 2
    assert "'same\\nline'" in examples[0]
    assert "'second' (2 of 2)" in examples[1]


def test_pictures_without_captions_have_nothing_to_review() -> None:
    assert review_captions(*items_with((), ())) == ([], [])


ODD: dict[str, tuple[list[tuple[str, ...]], str]] = {
    "many": ([tuple(f"a cat number {n}" for n in range(24))], "24"),
    "list": ([("- Mood: calm", "- Style: ink"), ("a cat",)], "source.lines=one"),
    "json": ([("{", '"mood": "calm",', "}")], "source.lines=one"),
    "wrapped": ([("A painting of a large cat which is sitting on", "a sofa, and looks at the wall.")], "source.lines=one"),
    "comma": ([("a painting of a house by the sea,", "by Monet", "4k")], "source.lines=one"),
    "goes on": ([("A painting of", "a house")], "source.lines=one"),
    "keys": ([("Subject: a house", "Mood: calm")], "source.lines=one"),
    "paragraphs": (
        [("a house by the sea", "It is white and has a red roof. Behind it are trees.", "The mood is calm.")],
        "source.lines=one",
    ),
    "key=value": ([("a cat",), ("de.utf8=eine Katze",)], "'de.utf8=eine Katze'"),
    "scripts": ([("a cat",), ("猫",)], "'猫'"),
    "weights": ([("a cat",), ("a (red:1.2) cat",)], "'a (red:1.2) cat'"),
    "boxes": ([("0 0.51 0.49 0.2 0.3",)], "no letters"),
    "markup": ([("<b>cat</b>",)], "HTML"),
    "underscores": ([("long_hair, blue_eyes",)], "underscores"),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_captions_are_named(kind: str) -> None:
    captions, words = ODD[kind]
    _, warnings = review_captions(*items_with(*captions))
    assert len(warnings) == 1
    assert words in warnings[0]


@pytest.mark.parametrize(
    "captions",
    [
        ("A cat on a sofa.", "A sofa with a cat on it.", "the cat sleeps", "two cats", "a drawing"),
        ("1girl, solo, long hair, :3",),
        ("a photo of <toy> in a café, 35mm (ratio 1:2), f/2.8 = bright",),
        ("ein Bär, naïve façade, 10 µm, 5ª",),
        ("猫", "犬"),
        ("file_name is a word in a caption", "another", "and another"),
    ],
)
def test_ordinary_captions_are_not_odd(captions: tuple[str, ...]) -> None:
    assert review_captions(*items_with(captions))[1] == []


@pytest.mark.parametrize(
    ("captions", "is_refused"),
    [
        ([("0 0.51 0.49 0.2 0.3", "17 0.1 .2 0.3 1 0.5 0.6"), ("1 0.5 0.5 1 1",), ("a cat",)], True),
        ([("0 0.51 0.49 0.2 0.3",), ("a cat",)], False),
        ([("7",), ("8",)], False),
        ([("1 2 3",)], False),
        ([], False),
    ],
)
def test_labels_of_boxes_are_refused_as_captions(captions: list[tuple[str, ...]], is_refused: bool) -> None:
    problem = judge_labels(*items_with(*captions))
    assert (problem is not None) == is_refused
    assert not problem or ("YOLO" in problem and "2 of 3" in problem and "0.png" in problem)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a (red:1.2) cat", "(red:1.2)"),
        ("cat <lora:ink:0.8>", "<lora:ink:0.8>"),
        ("a cat BREAK a dog", "BREAK"),
        ("((cat))", "((cat))"),
        ("a cat. Negative prompt: dog", "Negative prompt:"),
        ("a cat (2:1), a break <toy>", None),
    ],
)
def test_syntax_of_web_uis_is_found_in_prompts(text: str, part: str | None) -> None:
    assert find_web_ui_syntax(text) == part
    assert [
        part in note and "pictures.prompts" in note for note in list_syntax_notes([text, "x"], "pictures.prompts") if part
    ] == ([True] if part else [])


@pytest.mark.parametrize(
    ("lines", "alike"), [((), False), (("- one",), False), (("1. a", "2. b"), True), (("a", "b"), False)]
)
def test_lines_of_one_text_need_two(lines: tuple[str, ...], alike: bool) -> None:
    assert looks_like_one_text(lines) == alike


@pytest.mark.parametrize(
    ("unread", "usable", "unusable", "most", "kind"),
    [
        ({}, 9, 0, 0.5, "nothing"),
        ({}, 9, 1, 0.5, "nothing"),
        ({}, 1, 1, 0.5, "error"),
        ({".heic": 1}, 9, 0, 0.5, "warning"),
        ({".heic": 7}, 2, 0, 0.5, "error"),
        ({".heic": 7}, 2, 0, 1, "warning"),
        ({".heic": 7}, 2, 0, 0.9, "warning"),
    ],
)
def test_a_share_that_is_not_read_is_a_warning_and_half_is_an_error(
    unread: dict[str, int], usable: int, unusable: int, most: float, kind: str
) -> None:
    error, warning = judge_unread(Counter(unread), usable=usable, unusable=unusable, most=most)
    assert (error is not None, warning is not None) == (kind == "error", kind == "warning")
    words = error or warning or ""
    assert kind == "nothing" or f"{sum(unread.values()) + unusable:,} of " in words
    assert not unread or "7 .heic" in words or "1 .heic" in words
    assert kind != "error" or "max_unusable=1" in words


def test_problems_of_one_kind_are_one_line() -> None:
    problems = {f"{n}.png": f"m.jsonl line {n} names {n}.png, which is not there" for n in range(100)}
    lines = list(group_problems({**problems, "b.png": "damaged", "c.png": "damaged"}))
    assert len(lines) == 3
    assert "0.png" in lines[0]
    assert "99 more" in lines[0]
    assert lines[1:] == ["b.png: damaged", "c.png: damaged"]


def test_examples_are_of_pictures_that_are_used() -> None:
    items = items_with(*((f"a cat {n}",) for n in range(5)))
    examples, _ = review_captions(*items, lambda item: item.key not in ("0.png", "4.png"))
    assert len(examples) == 3
    assert not any("0.png" in line or "4.png" in line for line in examples)


def test_pictures_without_a_caption_are_counted() -> None:
    (line,) = group_problems({f"{n}.png": "no caption: there is no .txt" for n in range(8)})
    assert "8 pictures" in line
    assert "0.png" in line
    assert ".txt" in line
