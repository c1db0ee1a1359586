"""What encoding may replace and remove: its own cache and its own working folder, and nothing else of anybody's."""

import errno
import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.cache.shards import save_rows
from ldm_train.data.cache.staging import CacheWorkspace
from tests.folders import digests

EXACT = "dtype=float32"


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache, tmp_path / "cache"))


@pytest.mark.parametrize(
    "name", ["cache.old/a", "cache.writing/a", "cache.new/a", "cache.lock", "cache.stat.json", ".cache.old/a"]
)
def test_names_next_to_the_cache_are_the_user_s(
    name: str, own: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = digests(tmp_path)
    answer = encode(pictures, own, "dtype=float16", "unchanged_by=stat")
    assert answer.code == 0, answer.err
    after = digests(tmp_path)
    assert {path: after[path] for path in before if not path.startswith("cache/")} == {
        path: digest for path, digest in before.items() if not path.startswith("cache/")
    }


@pytest.mark.parametrize("manifest", [None, {"name": "an app", "icons": []}, {"format": 2, "files": []}, "no JSON"])
def test_a_user_s_folder_is_refused(manifest: object, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a").write_text("mine")
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        (folder / "manifest.json").write_text(text)
    before = digests(tmp_path)
    answer = encode(pictures, folder)
    assert answer.code == 1
    assert f"cache={folder}" in answer.err
    assert digests(tmp_path) == before


def test_a_run_directory_is_refused(trained: Path, pictures: Path, encode: Callable) -> None:
    before = digests(trained)
    assert encode(pictures, trained).code == 1
    assert digests(trained) == before


@pytest.mark.parametrize("given", ["", " ", ".", ".."])
def test_the_current_folder_is_never_replaced(
    given: str, pictures: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    answer = ldm_train("encode", f"source.path={pictures}", "autoencoder=identity", "image_size=16", f"cache='{given}'")
    assert answer.code == 1
    assert "cache" in answer.err
    assert digests(tmp_path) == {"here": ""}


def test_a_file_of_a_user_s_in_the_cache_is_named_and_kept(
    own: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    (own / "notes.txt").write_text("mine")
    before = digests(tmp_path)
    answer = encode(pictures, own, "dtype=float16")
    assert answer.code == 1
    assert "notes.txt" in answer.err
    assert digests(tmp_path) == before
    (own / "notes.txt").unlink()
    assert encode(pictures, own, "dtype=float16").code == 0


def test_a_file_of_the_system_in_the_cache_does_not_keep_it_from_being_replaced(
    own: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    (own / ".DS_Store").write_text("icons")
    answer = encode(pictures, own, "dtype=float16")
    assert answer.code == 0, answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    (own / "Thumbs.db").mkdir()
    answer = encode(pictures, own, EXACT)
    assert answer.code == 1
    assert "Thumbs.db" in answer.err


def test_a_link_to_what_is_not_there_is_refused(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    """Else the cache of a disk that is not mounted would be made next to the point where it is mounted."""
    (tmp_path / "cache").symlink_to(tmp_path / "disk/cache")
    answer = encode(pictures, tmp_path / "cache")
    assert answer.code == 1
    assert str(tmp_path / "disk/cache") in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_cannot_be_removed_yet_does_not_block_the_next_encoding(
    own: Path, pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network drive, where a file that a training run has open cannot be removed."""
    remove = shutil.rmtree

    def refuse(path: Path, **more: bool) -> None:
        if path.name == "discarded" and path.exists():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        remove(path, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        answer = encode(pictures, own, "dtype=float16")
    working = CacheWorkspace(own).working
    assert answer.code == 1
    assert str(working) in answer.err
    assert working.is_dir()
    assert encode(pictures, own, EXACT).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_that_may_not_be_moved_stays_and_the_message_says_what_to_allow(
    own: Path, pictures: Path, encode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, before = Path.rename, digests(own)

    def refuse(path: Path, target: Path) -> Path:
        if path == own:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        answer = encode(pictures, own, "dtype=float16")
    assert answer.code == 1
    assert f"chmod u+w {shlex.quote(str(own))}" in answer.err
    assert digests(own) == before
    assert "before an interruption" in encode(pictures, own, "dtype=float16").out


def test_an_encoding_that_is_interrupted_says_so_and_goes_on(
    cache: Path, pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.encoding import WriteParts

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WriteParts, "on_predict_batch_end", interrupt)
        answer = encode(pictures, tmp_path / "cache", EXACT)
    assert answer.code == 130
    assert "interrupted" in answer.err
    assert encode(pictures, tmp_path / "cache", EXACT).code == 0
    assert digests(tmp_path / "cache") == digests(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_may_have_the_longest_name(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    answer = encode(pictures, tmp_path / ("x" * 255))
    assert answer.code == 0, answer.err
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


def test_a_working_folder_without_our_mark_is_refused(own: Path, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    working = CacheWorkspace(own).working
    working.mkdir()
    (working / "previous").write_text("mine")
    before = digests(tmp_path)
    answer = encode(pictures, own, "dtype=float16")
    assert answer.code == 1
    assert working.name in answer.err
    assert digests(tmp_path) == before


@pytest.mark.parametrize("again", ["the same", "another type"])
def test_a_kill_between_the_two_renames_loses_nothing(
    again: str, own: Path, cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    place = CacheWorkspace(own)
    place.start()
    own.rename(place.previous)
    answer = encode(pictures, own, EXACT if again == "the same" else "dtype=float16")
    assert answer.code == 0, answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    if again == "the same":
        assert digests(own) == digests(cache)


def test_what_was_replaced_is_not_brought_back_over_a_user_s_folder(
    own: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    place = CacheWorkspace(own)
    place.start()
    own.rename(place.previous)
    own.mkdir()
    (own / "a").write_text("mine")
    assert encode(pictures, own).code == 1
    assert (own / "a").read_text() == "mine"


@pytest.mark.parametrize("left", ["a part cut short", "a batch list cut short", "a temporary file"])
def test_what_a_power_cut_tears_is_made_anew(
    left: str, cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    place = CacheWorkspace(tmp_path / "cache")
    place.start()
    if left == "a part cut short":
        (place.parts / f"{'0' * 64}.safetensors").write_bytes(b"")
        (place.parts / f"{'1' * 64}.safetensors").write_bytes((cache / "index.safetensors").read_bytes()[:-1])
    elif left == "a batch list cut short":
        place.batches.write_text("[{")
    else:
        (place.parts / ".a.ldm-train-writing").write_bytes(b"half")
    answer = encode(pictures, tmp_path / "cache", EXACT)
    assert answer.code == 0, answer.err
    assert digests(tmp_path / "cache") == digests(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_folder_that_another_process_still_writes_into_keeps_its_mark(
    cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    place = CacheWorkspace(tmp_path / "cache", shared=True)
    with pytest.raises(OSError, match="full"), place.locked():  # noqa: PT012
        place.start()
        place.batches.write_text("[]")
        raise OSError("the disk is full")
    save_rows({}, place.parts / f"{'0' * 64}.safetensors")  # of the other process, which has not failed yet
    answer = encode(pictures, tmp_path / "cache", EXACT)
    assert answer.code == 0, answer.err
    assert digests(tmp_path / "cache") == digests(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_locks_are_refused_the_file_is_named(
    number: int, own: Path, pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    before = digests(own)
    monkeypatch.setattr(fcntl, "flock", refuse)
    answer = encode(pictures, own, "dtype=float16")
    assert answer.code == 1
    assert str(tmp_path / ".cache.ldm-train-lock") in answer.err
    assert digests(own) == before


def test_where_links_and_modes_are_refused_encoding_goes_on(
    own: Path, pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one more picture: what the other files hold is taken over."""
    source = Path(shutil.copytree(pictures, tmp_path / "source"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    for name in ("link", "chmod", "fchmod"):
        monkeypatch.setattr(os, name, refuse)
    (source / "circle-red.png").unlink()
    metadata = (source / "metadata.jsonl").read_text().splitlines()
    (source / "metadata.jsonl").write_text("\n".join(line for line in metadata if "circle-red.png" not in line))
    answer = encode(source, own, EXACT)
    assert answer.code == 0, answer.err
    fresh = encode(source, tmp_path / "fresh", EXACT)
    assert fresh.code == 0, fresh.err
    assert digests(own) == digests(tmp_path / "fresh")
