"""Only regular files are read, and no more of them than a limit."""

import io
import os
import socket
from pathlib import Path

import pytest

from ldm_train.util import inputs
from ldm_train.util.inputs import open_input, read_input, read_lines, read_user_text


def make_socket(path: Path) -> None:
    os.chdir(path.parent)  # its address may have 108 bytes at most
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(path.name)


MAKE = {
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": make_socket,
}


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("linked", [False, True])
def test_only_regular_files_are_read(kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    MAKE[kind](tmp_path / "x")
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(OSError, match=f"{kind}.*regular"):
        read_input(tmp_path / ("link" if linked else "x"), limit=100)


def test_a_pipe_that_takes_a_files_place_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    regular = os.stat(tmp_path / "file")
    monkeypatch.setattr(os, "stat", lambda path: regular)
    with pytest.raises(OSError, match="named pipe"), open_input(tmp_path / "pipe", limit=100):
        pass


def test_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    assert read_input(tmp_path / "link", limit=7) == b"content"
    assert read_input(tmp_path / "link", limit=3, offset=2, length=3) == b"nte"


def test_sizes_are_checked_before_reading(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", 30 * 2**30)
    with pytest.raises(OSError, match="32,212,254,720 bytes; at most 1,000"):
        read_input(tmp_path / "x", limit=1000)
    for length in (1001, -1):
        with pytest.raises(OSError, match=rf"{length:,} bytes"):
            read_input(tmp_path / "x", limit=1000, length=length)


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    with pytest.raises(OSError, match="x ends after 5 of 9 bytes"):
        read_input(tmp_path / "x", limit=100, offset=2, length=9)


def test_a_large_file_with_a_wrong_beginning_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    os.truncate(tmp_path / "x", 2**40)  # which memory would not hold

    def refuse(start: bytes) -> None:
        raise ValueError(f"{len(start)} zeros")

    with pytest.raises(ValueError, match="512 zeros"):
        read_input(tmp_path / "x", limit=2**40, check=refuse)


@pytest.mark.parametrize("long", [b"x" * 11, b"x" * 10 + b"\n", b"x" * 40 + b"\n"])
def test_a_line_that_is_too_long_spares_the_next(long: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_LINE", 10)
    monkeypatch.setattr(inputs, "BUFFER", 4)
    monkeypatch.setattr(inputs, "MAX_SKIPPED", 100)
    after = [b"next\n"] if long.endswith(b"\n") else []
    assert list(read_lines(io.BytesIO(b"first\n" + long + b"".join(after)))) == [b"first\n", None, *after]
    with pytest.raises(OSError, match="longer than 100 bytes"):
        list(read_lines(io.BytesIO(bytes(1000))))


@pytest.mark.parametrize(("content", "reason"), [(b"\xff", "UTF-8: byte 0xff at 0"), (b"x" * 11, "11 bytes; at most 10")])
def test_texts_that_cannot_be_read_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}/x.*{reason}"):
        read_user_text(tmp_path / "x", limit=10)
