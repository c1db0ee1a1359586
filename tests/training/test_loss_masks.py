"""Runs in which not all of a picture counts, or not all pictures count the same, and runs on captions of drawn tags."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.data.cache.reader import LatentCache

MADE = ["image_size=16", "autoencoder=identity", "text_encoder=small", "dtype=float32"]
TEXT = ["text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
QUICK = ["max_steps=4", "pictures.every=100", "validation.every=4"]
MASKED = ["source.maps={region:regions/{name}}", "loss_mask=region"]


@pytest.fixture(scope="module")
def weighted(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures with tags as captions, weights of 2, and maps of which the left half is white."""
    folder = tmp_path_factory.mktemp("weighted") / "pictures"
    shutil.copytree(pictures, folder)
    (folder / "regions").mkdir()
    region = Image.new("L", (16, 16))
    region.paste(255, (0, 0, 8, 16))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        region.save(folder / "regions" / row["file_name"])
        row |= {"weight": 2, "text": f"black, shape, {row['background']}"}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def weighted_cache(weighted: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighted") / "cache"
    answer = encode(weighted, folder, "dtype=float32", *MASKED)
    assert answer.code == 0, answer.err
    return folder


def rows(run_dir: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def test_a_cache_stores_the_mask_of_the_loss(weighted_cache: Path) -> None:
    cache = LatentCache(weighted_cache)
    stored = cache.maps("region", torch.arange(2), torch.zeros(2, dtype=torch.int64))
    assert stored.shape == (2, 1, 16, 16)
    assert torch.equal(stored > 0, (torch.arange(16) < 8).expand_as(stored))


@pytest.mark.slow
def test_masks_weights_and_tags_are_the_same_from_a_cache_and_on_the_fly(
    weighted: Path, weighted_cache: Path, train: Callable, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    words = [*QUICK, "loss_mask=region"]
    every = [*words, "loss_weight=weight", "tags.shuffle=true", "tags.keep=1", "tags.dropout=0.2"]
    for name, more in {
        "plain": words,
        "tags": [word for word in every if not word.startswith("loss_weight")],
        "cached": every,
    }.items():
        answer = train(weighted_cache, tmp_path / name, *more)
        assert answer.code == 0, answer.err
    live = ["cache=null", "source=folder", f"source.path={weighted}", *MADE, *TEXT, MASKED[0]]
    answer = ldm_train("train", f"run_dir={tmp_path}/live", *live, *train_words, *every)
    assert answer.code == 0, answer.err
    losses = {name: rows(tmp_path / name, "loss") for name in ("plain", "tags", "cached", "live")}
    assert losses["cached"] == losses["live"]
    assert losses["cached"][0] == pytest.approx(2 * losses["tags"][0])
    assert losses["tags"] != losses["plain"]
    assert rows(tmp_path / "cached", "validation_loss")[0] != 0


@pytest.mark.slow
def test_other_maps_than_the_mask_of_the_loss_are_refused(
    cache: Path, weighted_cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *QUICK, "loss_mask=region")
    assert answer.code == 1
    assert "loss_mask=region" in answer.err
    answer = train(weighted_cache, tmp_path / "run", *QUICK, "loss_mask=region", "loss_weight=mass")
    assert answer.code == 1
    assert "mass" in answer.err


@pytest.mark.slow
def test_a_frozen_text_encoder_reads_drawn_tags_and_says_what_that_costs(
    weighted: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    assert encode(weighted, tmp_path / "cache", "text_encoder.trained=false", *MASKED).code == 0
    words = [*QUICK, MASKED[1]]
    answer = train(tmp_path / "cache", tmp_path / "run", *words, "tags.shuffle=true")
    assert answer.code == 0, answer.err
    assert "4 captions" in answer.out + answer.err
    assert train(tmp_path / "cache", tmp_path / "plain", *words).code == 0
    assert rows(tmp_path / "run", "loss") != rows(tmp_path / "plain", "loss")
