"""Captions and prompts that a text encoder cuts are reported, with how many tokens fit and from which word on it is cut."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.assembly.cut_texts import find_cut_texts, warn_of_cut_captions, warn_of_cut_prompts
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder, small
from tests.conftest import PICTURES, TEXT

LONG = " ".join(["cat"] * 14 + ["fox"] * 386)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return small(width=8, layers=1, heads=1, context_length=16)


def count_letters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "number", "word"),
    [
        ("aaaa bbbb", 1, "aaaa"),
        ("aa bb cc", 2, "bb"),
        ("a b c", 3, "c"),
        ("aaa b", 2, "b"),
        ("     ", 1, "     "),
    ],
)
def test_the_first_word_that_is_cut(text: str, number: int, word: str) -> None:
    [cut] = find_cut_texts([text, "abc", text], count_letters, 3 if text != "a b c" else 4)
    assert (cut.tokens, cut.number, cut.word) == (len(text), number, word)


def test_what_fits_is_not_reported(encoder: TextEncoder) -> None:
    fitting = " ".join(["cat"] * 14)
    assert warn_of_cut_prompts(encoder, [fitting, ""]) == []
    assert warn_of_cut_captions(encoder, [fitting]) == []
    assert warn_of_cut_prompts(ClassLabels(classes=["a b"]), ["a b"]) == []


def test_a_prompt_is_reported_with_its_tokens_and_the_word(encoder: TextEncoder) -> None:
    [line] = warn_of_cut_prompts(encoder, ["a cat", LONG], setting="pictures.prompts")
    assert line.startswith("pictures.prompts: ")
    assert {"14", "400", "15"} <= {*re.findall(r"\d+", line)}
    assert "'fox'" in line


def test_captions_are_counted_with_one_example(encoder: TextEncoder) -> None:
    [line] = warn_of_cut_captions(encoder, ["a cat", LONG, LONG + " fox", "b " * 20])
    assert "3 of 4" in line
    assert "401 tokens" in line
    assert "text_encoder.chunks=29" in line  # of 14 tokens each
    assert warn_of_cut_captions(small(width=8, layers=1, heads=1, chunks=29), [LONG + " fox"]) == []


def test_a_long_prompt_of_sample_and_of_evaluate_is_reported(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    drawing = [f"run_dir={trained}", "steps=1", "device=cpu"]
    drawn = ldm_train("sample", *drawing, f"prompts={LONG}", f"negative_prompt={LONG}", f"out={tmp_path}/out")
    assert drawn.code == 0, drawn.err
    assert "warning: prompts: " in drawn.out
    assert "warning: negative_prompt: " in drawn.out
    assert "15" in drawn.out
    words = ["features=efficientnet_lite0", f"prompts={LONG}", "samples=4", "resamples=0"]
    measured = ldm_train("evaluate", *drawing, *words, f"out={tmp_path}/out.json")
    assert measured.code == 0, measured.err
    assert "warning: prompts: " in measured.out


def test_long_captions_and_prompts_are_reported_by_encode_and_check(
    pictures: Path, encode: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        (folder / row["file_name"]).write_bytes((pictures / row["file_name"]).read_bytes())
    rows[0]["text"] = LONG
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    encoded = encode(folder, tmp_path / "cache")
    assert encoded.code == 0, encoded.err
    assert re.search(r"warning: 1 of \d+ captions", encoded.out)
    assert "'fox'" in encoded.out
    words = [*PICTURES, *TEXT, f"source.path={folder}", "measure=false", f"pictures.prompts={LONG}"]
    checked = ldm_train("check", *words)
    shown = " ".join(checked.out.split())
    assert "pictures.prompts: only 14 tokens" in shown
    assert "are cut at 14 tokens" in shown
    assert LONG[:20] in shown


def test_a_run_reports_its_own_prompts(cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", f"pictures.prompts=(fox:1.2) {LONG}", "max_steps=1", "validation.every=9")
    assert answer.code == 0, answer.err
    assert (answer.out + answer.err).count("'(fox:1.2)'") == 1
    assert "warning: pictures.prompts: " in answer.out
