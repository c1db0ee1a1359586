"""`ldm-train sample … attention=true`: which words drew what."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.assembly.attention_picture import colour_map, draw_attention
from ldm_train.assembly.stored_run import open_run
from ldm_train.assembly.word_attention import REST, START, WordAttention, WordRecorder, list_words
from ldm_train.conditioners.text_encoder import small
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings

PROMPTS = ["a black circle", "Dreamshape on a lime background"]


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".png"}


@pytest.mark.parametrize("words", [[], ["sampler=heun", "guidance.scale=1"], ["guidance.interval=[0.5,3]"]], ids=range(3))
def test_the_drawn_pictures_are_the_same_bit_for_bit(
    words: list[str], ldm_train: Callable, trained: Path, tmp_path: Path
) -> None:
    for name, more in (("without", []), ("with", ["attention=true"])):
        answer = ldm_train("sample", f"run_dir={trained}", f"prompts={PROMPTS}", f"out={tmp_path}/{name}", *words, *more)
        assert answer.code == 0, answer.err
    without, with_maps = read_all(tmp_path / "without"), read_all(tmp_path / "with")
    maps = {name: with_maps.pop(name) for name in ("0000-attention.png", "0001-attention.png")}
    assert with_maps == without
    assert maps["0000-attention.png"] != maps["0001-attention.png"]
    listed = json.loads((tmp_path / "with/pictures.json").read_text())["files"]
    assert set(maps) < set(listed)


def test_the_next_command_replaces_the_maps(ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    words = ["sample", f"run_dir={trained}", f"out={tmp_path}/out"]
    assert ldm_train(*words, f"prompts={PROMPTS}", "attention=true").code == 0
    assert ldm_train(*words, f"prompts={PROMPTS[:1]}").code == 0
    assert set(read_all(tmp_path / "out")) == {"0000.png", "grid.png"}
    Image.new("RGB", (4, 4)).save(tmp_path / "out/0000-attention.png")
    answer = ldm_train(*words, f"prompts={PROMPTS[:1]}", "attention=true")
    assert answer.code == 1
    assert "0000-attention.png" in answer.err


def test_words_have_all_their_tokens_and_the_rest_the_others() -> None:
    encoder = small(width=16, layers=1, heads=2, context_length=6, chunks=2)
    assert list_words(encoder, "Dreamshape cat one two three") == [
        (START, [0]), ("dreamshape", [1, 2]), ("cat", [3]), ("one", [4]), ("two", [7]), ("three", [8]), (REST, []),
    ]  # fmt: skip
    assert [word for word, _ in list_words(encoder, "a b c d e f g h i j")][-2:] == ["h", REST]  # what is cut is not read
    assert list_words(encoder, "") == [(START, [0]), (REST, [])]


def test_the_words_of_a_prompt_and_the_tokens_around_them_sum_to_one(trained: Path) -> None:
    run = open_run(compose_as(SampleSettings, [f"run_dir={trained}", "prompts=x", "out=x", "device=cpu"]))
    with WordRecorder(run.parts.network, run.parts.text_encoder, PROMPTS, setting="x") as recorder:
        run.generation(PROMPTS, run.recipe, callback=recorder)
    for found, words in zip(recorder.attention, (5, 7), strict=True):
        assert len(found.words) == words
        for maps in found.maps.values():
            assert maps.shape[:2] == (run.recipe.steps, words)
            assert_close(maps.sum(1), torch.ones_like(maps[:, 0]))
        assert_close(found.combined.sum(1), torch.ones_like(found.combined[:, 0]))


def test_a_picture_s_maps_do_not_depend_on_its_batch(trained: Path) -> None:
    run = open_run(compose_as(SampleSettings, [f"run_dir={trained}", "prompts=x", "out=x", "device=cpu"]))
    found = []
    for prompts, numbers in ((PROMPTS, [0, 1]), (PROMPTS[1:], [1])):
        with WordRecorder(run.parts.network, run.parts.text_encoder, prompts, setting="x") as recorder:
            run.generation(prompts, run.recipe, numbers=torch.tensor(numbers), callback=recorder)
        found.append(recorder.attention[-1].combined)
    assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


def test_a_row_is_a_word_and_its_brightest_place_that_of_the_map() -> None:
    maps = torch.zeros(2, 2, 2, 2)
    maps[:, 0, 0, 1] = maps[:, 1] = 0.5
    maps[:, 1, 0, 1] = 0.0
    drawn = draw_attention(WordAttention(["fox", REST], {(2, 2): maps}), torch.zeros(3, 8, 8, dtype=torch.uint8))
    assert drawn.dtype == torch.uint8
    yellow, violet = torch.tensor([253, 231, 37]), torch.tensor([68, 1, 84])
    coloured = colour_map(maps[0, 0], (8, 8), highest=0.5)
    assert coloured[:, 1, 6].tolist() == yellow.tolist()
    assert coloured[:, 6, 1].tolist() == violet.tolist()
    for colour in (yellow, violet):
        assert (drawn == colour[:, None, None].to(torch.uint8)).all(0).any()


@pytest.mark.parametrize("words", [["x.guidance=[1,2]"], ["interpolate=3"]], ids=range(2))
def test_it_goes_with_pictures_of_prompts_only(words: list[str], ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    given = [f"run_dir={trained}", f"prompts={PROMPTS}", f"out={tmp_path}/out", "attention=true", *words]
    answer = ldm_train("sample", *given)
    assert answer.code == 1
    assert "attention=true" in answer.err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"attention=true.*Linear"):
        WordRecorder(torch.nn.Linear(1, 1), small(width=16, layers=1, heads=2), ["a"], setting="attention=true")
