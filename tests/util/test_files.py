"""Files are as they were or complete, whatever fails; nothing temporary stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ldm_train.util import files
from ldm_train.util.files import (
    atomic_file,
    atomic_path,
    atomic_write,
    flush_folder,
    link_file,
    remove_temporaries,
    temporary_path,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_missing_parents_and_the_mode_of_ordinary_files(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "folder" / "a.txt", "ä")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == "ä".encode()
    assert (tmp_path / "new" / "folder" / "a.txt").stat().st_mode == plain.stat().st_mode
    assert names(tmp_path / "new" / "folder") == ["a.txt"]


def test_a_library_that_makes_its_own_file_gives_one_of_ordinary_mode(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_path(tmp_path / "a.safetensors", failures=(OSError, SafetensorError)) as temporary:
        save_file({"x": torch.arange(3)}, temporary)
    assert load_file(tmp_path / "a.safetensors")["x"].tolist() == [0, 1, 2]
    assert (tmp_path / "a.safetensors").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError("of the writer"), KeyboardInterrupt()])
def test_what_was_there_stays_when_writing_fails(tmp_path: Path, error: BaseException) -> None:
    atomic_write(tmp_path / "a", "old")

    def write_and_fail() -> None:
        with atomic_file(tmp_path / "a") as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        write_and_fail()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failed_flush_or_rename_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    atomic_write(tmp_path / "a", "old")
    owner = os if function == "fsync" else Path
    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(OSError, match="a") as caught:
        atomic_write(tmp_path / "a", "new")
    assert str(tmp_path / "a") in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert caught.value.errno == number
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_file_systems_that_refuse_modes_folder_flushes_links_and_locks_are_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def flush_files_only(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "fsync", flush_files_only)
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
        temporary.write_text("text")
    link_file(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == ["a", "b"]
    assert (tmp_path / "b").read_text() == "text"


@pytest.mark.slow
def test_what_a_killed_process_left_is_taken_over_and_cleared(tmp_path: Path) -> None:
    code = "import os, sys; from pathlib import Path; from ldm_train.util.files import atomic_file\n"
    code += "with atomic_file(Path(sys.argv[1])) as file: file.write(b'half' * 9999); file.flush(); os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert names(tmp_path) == [temporary_path(tmp_path / "a").name]
    shutil.copy(temporary_path(tmp_path / "a"), temporary_path(tmp_path / "b"))
    atomic_write(tmp_path / "a", "whole")
    assert (tmp_path / "a").read_text() == "whole"
    (tmp_path / "user.writing").touch()
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["a", "user.writing"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as first:
        with pytest.raises(ValueError, match="a"):
            atomic_write(tmp_path / "a", "second")
        first.write(b"first")
    assert (tmp_path / "a").read_text() == "first"
    atomic_write(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "second"


def test_a_file_that_is_being_written_is_not_cleared(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as file:
        remove_temporaries(tmp_path)
        file.write(b"whole")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "whole"


def test_the_system_s_reason_is_reported_where_a_library_hides_it(tmp_path: Path) -> None:
    def fail() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            raise RuntimeError("unexpected position 64") from None

    with pytest.raises(OSError, match="No space left") as error, atomic_path(tmp_path / "a", failures=(RuntimeError,)):
        fail()
    assert error.value.errno == errno.ENOSPC
    assert names(tmp_path) == []


def test_long_names_and_links_to_files_elsewhere(tmp_path: Path) -> None:
    long = tmp_path / ("n" * 255)
    atomic_write(long, "text")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "file")
    atomic_write(tmp_path / "link", "through")
    assert long.read_text() == "text"
    assert (tmp_path / "elsewhere" / "file").read_text() == "through"
    assert (tmp_path / "link").is_symlink()


def test_a_second_name_for_a_file_replaces_an_older_one_and_leaves_nothing(tmp_path: Path) -> None:
    for content in ("one", "two"):
        atomic_write(tmp_path / "last", content)
        for _ in range(2):
            link_file(tmp_path / "last", tmp_path / "kept")
        assert (tmp_path / "kept").read_text() == content
        assert names(tmp_path) == ["kept", "last"]


def test_a_failed_flush_of_a_folder_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=str(tmp_path)):
        flush_folder(tmp_path)
