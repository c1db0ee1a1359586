"""A manifest that was edited says otherwise than the cache's files: it is named, and nothing trains on it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.cache.manifest import read_manifest
from ldm_train.data.cache.reader import LatentCache

EDITS = {
    "entries": 1200,
    "held_out": 0,
    "captions": 5,
    "empty": 99,
    "buckets": {"16x16": 5},
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
}


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def edit(cache: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((cache / "manifest.json").read_text())
    change(manifest)
    (cache / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", EDITS)
def test_a_count_that_is_not_the_files_is_refused(name: str, copied: Path) -> None:
    edit(copied, lambda manifest: manifest.update({name: EDITS[name]}))
    with pytest.raises(ValueError, match=name):
        LatentCache(copied)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_of_a_shard_that_are_not_its_own_are_refused(name: str, copied: Path) -> None:
    def change(manifest: dict) -> None:
        shard = next(shard for shard in manifest["shards"].values() if shard["mean"])
        shard[name] = [value + 1 for value in shard[name]]

    edit(copied, change)
    with pytest.raises(ValueError, match=name):
        LatentCache(copied)


def test_another_caption_as_the_empty_one_is_refused(copied: Path) -> None:
    empty = read_manifest(copied).empty
    edit(copied, lambda manifest: manifest.update(empty=empty - 1 if empty else 1))
    with pytest.raises(ValueError, match="empty one"):
        LatentCache(copied).verify()


@pytest.mark.parametrize("name", ["autoencoder", "dtype"])
def test_an_encoding_that_lacks_a_setting_is_refused(name: str, copied: Path) -> None:
    edit(copied, lambda manifest: manifest["encoding"]["pictures"].pop(name))
    with pytest.raises(ValueError, match=name):
        read_manifest(copied)


def test_what_is_not_changed_is_accepted(copied: Path) -> None:
    LatentCache(copied).verify()


def test_an_evaluation_does_not_measure_a_damaged_cache(
    copied: Path, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    path = copied / "latents-16x16-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    words = [f"run_dir={trained}", f"cache={copied}", f"out={tmp_path / 'out.json'}", "features=null", "samples=1"]
    answer = ldm_train("evaluate", *words)
    assert answer.code == 1
    assert path.name in answer.err
