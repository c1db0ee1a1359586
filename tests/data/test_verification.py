"""How much of a cache is read before a run trains on it."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.cache.verification import MEMORY, verify_cache
from ldm_train.util.files import hidden_path


@pytest.fixture
def copied(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def count_bytes(folder: Path, how: str) -> int:
    read: list[int] = []
    verify_cache(LatentCache(folder), how, progress=read.append)
    return sum(read)


def size_of(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in LatentCache(folder).manifest.digests())


def damage(folder: Path, *, later: bool) -> str:
    """Change the last byte of a shard of latents, and its time only if `later`; return its name."""
    path = sorted(folder.glob("latents-*"))[0]
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + later))
    return path.name


def test_content_reads_all_each_time_and_leaves_nothing(copied: Path) -> None:
    assert [count_bytes(copied, "content") for _ in range(2)] == [size_of(copied)] * 2
    assert [path.name for path in copied.parent.iterdir()] == ["cache"]


def test_none_reads_nothing_and_misses_damage(copied: Path) -> None:
    damage(copied, later=True)
    assert count_bytes(copied, "none") == 0


def test_stat_reads_once(copied: Path) -> None:
    assert [count_bytes(copied, "stat") for _ in range(3)] == [size_of(copied), 0, 0]


def test_stat_reads_what_has_another_time_and_names_its_damage(copied: Path) -> None:
    verify_cache(LatentCache(copied), "stat")
    name = damage(copied, later=True)
    for _ in range(2):  # what was wrong is not remembered
        with pytest.raises(ValueError, match=name):
            verify_cache(LatentCache(copied), "stat")


@pytest.mark.parametrize("how", ["content", "stat"])
def test_a_byte_that_changed_with_its_time_put_back_is_found(how: str, copied: Path) -> None:
    verify_cache(LatentCache(copied), how)
    name = damage(copied, later=False)
    with pytest.raises(ValueError, match=name):
        verify_cache(LatentCache(copied), how)


@pytest.mark.parametrize("how", ["content", "stat", "none"])
@pytest.mark.parametrize("file", ["latents-*", "captions-*", "index.safetensors"])
@pytest.mark.parametrize("left", [0, -1, None], ids=["empty", "shorter", "missing"])
def test_a_file_that_is_cut_or_missing_is_named_however_much_is_read(
    how: str, file: str, left: int | None, copied: Path
) -> None:
    verify_cache(LatentCache(copied), how)
    path = sorted(copied.glob(file))[0]
    if left is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=path.name):
        verify_cache(LatentCache(copied), how)


@pytest.mark.parametrize("how", ["content", "stat", "none"])
def test_a_cache_of_another_format_is_refused_however_much_is_read(how: str, copied: Path) -> None:
    verify_cache(LatentCache(copied), how)
    manifest = copied / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"format": values["format"] + 1}))
    with pytest.raises(ValueError, match=str(values["format"] + 1)):
        verify_cache(LatentCache(copied), how)


def test_stat_reads_files_that_were_encoded_anew(copied: Path) -> None:
    """Also where another cache took its place, whose files have the length and, by accident, the time of the former ones."""
    verify_cache(LatentCache(copied), "stat")
    manifest = copied / "manifest.json"
    values = json.loads(manifest.read_text())
    name = next(iter(values["shards"]))
    values["shards"][name]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=name):
        verify_cache(LatentCache(copied), "stat")


def test_a_file_that_cannot_be_read_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("ldm_train.data.cache.manifest.digest_file", fail)
    with pytest.raises(ValueError, match=r"Input/output error.*cannot be read"):
        verify_cache(LatentCache(copied))


def test_a_place_that_cannot_be_written_only_costs_time(copied: Path) -> None:
    hidden_path(copied, MEMORY).mkdir()
    assert [count_bytes(copied, "stat") for _ in range(2)] == [size_of(copied)] * 2


@pytest.mark.parametrize("text", ["{", "[]", '{"index.safetensors": 5}'])
def test_a_damaged_memory_is_no_memory(text: str, copied: Path) -> None:
    verify_cache(LatentCache(copied), "stat")
    hidden_path(copied, MEMORY).write_text(text)
    assert count_bytes(copied, "stat") == size_of(copied)
    assert count_bytes(copied, "stat") == 0
