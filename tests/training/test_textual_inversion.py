"""Runs that train a new word's vectors alone: nothing else changes, and their file draws the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from ldm_train.tasks.parts.assemble import build_parts, load_weights, open_run, read_config, read_weights
from ldm_train.tasks.parts.embeddings import FILE
from ldm_train.tasks.settings.config import compose

LEARNED = "text_encoder.tower.token_embedding.learned"
WORDS = ('text_encoder.new_words=["circle=round thing"]',)


@pytest.fixture(scope="module")
def run_dir(
    trained: Path, pictures: Path, encode: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that teaches the word "circle"."""
    folder = tmp_path_factory.mktemp("inversion")
    assert encode(pictures, folder / "cache", "dtype=float32", *WORDS).code == 0
    answer = train(folder / "cache", folder / "run", f"network.weights={trained}", f"trained=[{LEARNED}]")
    assert answer.code == 0, answer.err
    assert "circle" in answer.out
    return folder / "run"


def test_its_checkpoint_holds_the_vectors_alone_and_they_changed(run_dir: Path) -> None:
    state, _, _ = read_weights(run_dir, "ema")
    assert {name: tuple(rows.shape) for name, rows in state.items()} == {LEARNED: (2, 32)}
    assert state[LEARNED].abs().min() > 0


def test_all_else_is_what_it_stands_on(run_dir: Path, trained: Path) -> None:
    before, after = build_parts(read_config(str(trained))), build_parts(read_config(str(run_dir)))
    load_weights(trained, before)
    load_weights(run_dir, after)
    for one, other in ((before.network, after.network), (before.text_encoder, after.text_encoder)):
        theirs = dict(other.named_parameters())
        assert all(torch.equal(p, theirs[name]) for name, p in one.named_parameters())


def test_its_file_on_what_it_stands_on_draws_what_it_draws(run_dir: Path, trained: Path) -> None:
    words = ("prompts=[x]", "out=x", "steps=2", "device=cpu")
    own = open_run(compose("sample", [f"run_dir={run_dir}", *words]))
    other = open_run(compose("sample", [f"run_dir={trained}", f"embeddings=[{run_dir / FILE}]", *words]))
    assert load_file(run_dir / FILE)["circle"].shape == (2, 32)
    one, two = (run.generation(["a black circle"], run.recipe) for run in (own, other))
    assert_close(one, two, rtol=1e-5, atol=1e-5)
    plain = open_run(compose("sample", [f"run_dir={trained}", *words]))
    assert not torch.equal(plain.generation(["a black circle"], plain.recipe), two)


def test_a_cache_of_other_words_is_refused(trained: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(
        cache, tmp_path / "run", f"network.weights={trained}", f"trained=[{LEARNED}]", "text_encoder=small", *WORDS
    )
    assert answer.code == 1
    assert "new_words" in answer.err
