"""Runs that train a new word's vectors alone: nothing else changes, and their file draws the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ldm_train.assembly.new_words import check_new_words, warn_of_untrained_words
from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_run import open_run
from ldm_train.assembly.stored_weights import load_weights, read_weights
from ldm_train.conditioners.text_encoder import TextEncoder, small
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.weights.embedding_files import EMBEDDINGS_FILE

LEARNED = "text_encoder.tower.token_embedding.learned"
WORDS = ('text_encoder.new_words=["circl=round thing"]',)


@pytest.fixture(scope="module")
def run_dir(
    trained: Path, pictures: Path, encode: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that teaches the word "circl", which captions of circles contain."""
    folder = tmp_path_factory.mktemp("inversion")
    assert encode(pictures, folder / "cache", "dtype=float32", *WORDS).code == 0
    answer = train(folder / "cache", folder / "run", f"network.weights={trained}", f"trained=[{LEARNED}]")
    assert answer.code == 0, answer.err
    assert "circl" in answer.out
    return folder / "run"


def test_its_checkpoint_holds_the_vectors_alone_and_they_changed(run_dir: Path) -> None:
    state, _, _ = read_weights(run_dir, "ema")
    assert {name: tuple(rows.shape) for name, rows in state.items()} == {LEARNED: (2, 32)}
    assert state[LEARNED].abs().min() > 0


def test_all_else_is_what_it_stands_on(run_dir: Path, trained: Path) -> None:
    before, after = build_parts(read_trained(trained)), build_parts(read_trained(run_dir))
    load_weights(trained, before)
    load_weights(run_dir, after)
    for one, other in ((before.network, after.network), (before.text_encoder, after.text_encoder)):
        reference = dict(other.named_parameters())
        assert all(torch.equal(p, reference[name]) for name, p in one.named_parameters())


def test_its_file_on_what_it_stands_on_draws_what_it_draws(run_dir: Path, trained: Path) -> None:
    words = ("prompts=[x]", "out=x", "steps=2", "device=cpu")
    own = open_run(compose_as(SampleSettings, [f"run_dir={run_dir}", *words]))
    other = open_run(compose_as(SampleSettings, [f"run_dir={trained}", f"embeddings=[{run_dir / EMBEDDINGS_FILE}]", *words]))
    assert load_file(run_dir / EMBEDDINGS_FILE)["circl"].shape == (2, 32)
    one, two = (run.generation(["a black circle"], run.recipe) for run in (own, other))
    assert_close(one, two, rtol=1e-5, atol=1e-5)
    plain = open_run(compose_as(SampleSettings, [f"run_dir={trained}", *words]))
    assert not torch.equal(plain.generation(["a black circle"], plain.recipe), two)


def test_a_cache_of_other_words_is_refused(trained: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(
        cache, tmp_path / "run", f"network.weights={trained}", f"trained=[{LEARNED}]", "text_encoder=small", *WORDS
    )
    assert answer.code == 1
    assert "new_words" in answer.err


def test_a_word_that_no_caption_has_is_refused_before_training(
    pictures: Path, trained: Path, encode: Callable, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    words = ('text_encoder.new_words=["<toy>=toy"]',)
    assert encode(pictures, tmp_path / "cache", *words).code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", f"network.weights={trained}", f"trained=[{LEARNED}]")
    assert answer.code == 1
    assert "<toy>" in answer.err
    assert not (tmp_path / "run").exists()
    checked = ldm_train("check", f"source.path={pictures}", "autoencoder=identity", "image_size=16", "measure=false", *words)
    assert checked.code == 1
    assert "<toy>" in checked.out


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return small(width=8, layers=1, heads=1, context_length=6, new_words=["<toy>=toy"])


def asked(*words: str) -> TrainSettings:
    own = ("cache=x", "run_dir=y", "text_encoder=small", 'text_encoder.new_words=["<toy>=toy"]')
    return compose_as(TrainSettings, [*own, *words])


@pytest.mark.parametrize(
    ("captions", "counts"),
    [
        ([["a <toy>"], ["a <TOY> there"], ["a fox"]], None),
        ([["a <toy>"], ["a fox"], ["a cat"]], "1 of 3"),
        ([["a fox", "a <toy>"], ["a cat"], ["a cat"]], "1 of 3"),
    ],
)
def test_few_captions_with_the_word_are_counted(captions: list[list[str]], counts: str | None, encoder: TextEncoder) -> None:
    warnings = check_new_words(asked(), encoder, captions)
    assert len(warnings) == (counts is not None)
    assert all("<toy>" in line and str(counts) in line for line in warnings)


@pytest.mark.parametrize("captions", [[["a toy"]], [["a fox in front of the <toy>"]], []])
def test_a_word_that_is_missing_or_cut_off_is_refused(captions: list[list[str]], encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="<toy>"):
        check_new_words(asked(), encoder, captions)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (['pictures.prompts=["a fox"]'], "pictures.prompts"),
        (["prior.prompts=a photo of <toy>"], "prior.prompts"),
        (["prior.prompts=a photo of a cat"], "prior.prompts"),
        (['pictures.prompts=["a <toy>","a fox"]', 'prior.prompts=["a Toy"]'], None),
    ],
)
def test_prompts_without_the_word_are_warned_of(words: list[str], named: str | None, encoder: TextEncoder) -> None:
    warnings = check_new_words(asked(*words), encoder, [["a <toy>"]])
    assert [named in line for line in warnings if named] == [True] * (named is not None)
    assert len(warnings) == (named is not None)


def test_words_that_are_not_trained_are_warned_of() -> None:
    settings = {"width": 8, "layers": 1, "heads": 1, "new_words": ["<toy>=toy"]}
    assert warn_of_untrained_words(small(**settings)) == []  # type: ignore[arg-type]
    [line] = warn_of_untrained_words(small(**settings, trained=False))  # type: ignore[arg-type]
    assert "<toy>" in line
    assert warn_of_untrained_words(small(width=8, layers=1, heads=1, trained=False)) == []
