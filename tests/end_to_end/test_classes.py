"""Class-conditional training from folders of pictures: text is not the only condition."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.data.cache.reader import LatentCache

COLOURS = {"blue things": (0, 0, 255), "green things": (0, 200, 0), "red things": (255, 0, 0)}
ENCODE = ["source=class_folders", "text_encoder=class_labels", "text_encoder.width=16", "autoencoder=identity"]
SIXTEEN = ["image_size=16", "dtype=float32"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    for name, colour in COLOURS.items():
        for number in range(4):
            path = folder / name / ("deeper" if number else "") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), tuple(max(0, part - 5 * number) for part in colour)).save(path)
    return folder


@pytest.fixture(scope="module")
def class_cache(classes: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("caches") / "classes"
    answer = ldm_train("encode", f"source.path={classes}", f"cache={cache}", *ENCODE, *SIXTEEN)
    assert answer.code == 0, answer.err
    assert "3 classes: blue things, green things, red things" in answer.out
    return cache


def test_the_cache_names_the_classes(class_cache: Path) -> None:
    cache = LatentCache(class_cache)
    assert cache.manifest.encoding["captions"]["classes"] == sorted(COLOURS)  # type: ignore[index, call-overload]
    names = ["", *sorted(COLOURS)]
    assert sorted(cache.caption_texts) == names
    assert cache.numbered(torch.arange(4)).tokens.tolist() == [[names.index(text)] for text in cache.caption_texts]


def test_a_class_conditional_run_learns_its_classes(
    class_cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "pictures"
    learning = ["batch_size=12", "optimizer.lr=1e-2", "max_steps=150", "ema.decay=0.95"]
    unwatched = ["validation.every=1000", "pictures.every=1000", "checkpoint.every=1000"]
    answer = train(class_cache, run_dir, "prediction=velocity", *learning, *unwatched)
    assert answer.code == 0, answer.err
    asked = 'prompts=["red things","green things","blue things"]'
    answer = ldm_train("sample", f"run_dir={run_dir}", f"out={out}", "steps=10", "guidance.scale=1.5", "device=cpu", asked)
    assert answer.code == 0, answer.err
    means = [np.asarray(Image.open(out / f"000{number}.png")).reshape(-1, 3).mean(0) for number in range(3)]
    assert [int(mean.argmax()) for mean in means] == [0, 1, 2]
    answer = ldm_train("sample", f"run_dir={run_dir}", f"out={out}", "device=cpu", 'prompts=["a fox"]')
    assert answer.code == 1
    assert "'a fox'" in answer.err
    assert "blue things, green things, red things" in answer.err
    explain_classes(ldm_train, run_dir, tmp_path)


def explain_classes(ldm_train: Callable, run_dir: Path, folder: Path) -> None:
    """A run with classes is explained like others, and what is about words is left out or refused."""
    answer = ldm_train("explain", f"run_dir={run_dir}", f"out={folder}/page.html", "steps=2", "device=cpu")
    assert answer.code == 0, answer.err
    page = (folder / "page.html").read_text()
    assert "“blue things”" in page
    assert "Attention to each word" not in page
    answer = ldm_train("tokens", "a fox", f"run_dir={run_dir}")
    assert answer.code == 1
    assert "blue things, green things, red things" in answer.err
    asked = [f"out={folder}/words", 'prompts=["red things"]', "attention=true", "device=cpu"]
    answer = ldm_train("sample", f"run_dir={run_dir}", *asked)
    assert answer.code == 1
    assert "ClassLabels" in answer.err
    assert not (folder / "words").exists()


def test_a_run_with_other_classes_is_refused(class_cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(class_cache, tmp_path / "run", "text_encoder=class_labels", "text_encoder.classes=[a,b]")
    assert answer.code == 1
    assert (
        "text_encoder.classes: the cache has ['blue things', 'green things', 'red things'], this run expects" in answer.err
    )
