"""Files that browsers send are checked before anything is decoded, and found by their names only."""

import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.commands.playground import uploads
from ldm_train.commands.playground.sessions import BrowserSession, HistoryEntry, Sessions
from ldm_train.commands.playground.uploads import Uploads


def encode(size: tuple[int, int], kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, "red").save(content, kind)
    return content.getvalue()


def claim_size(width: int, height: int) -> bytes:
    """A small PNG file whose header claims many pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = encode((1, 1))
    return content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_kept_as_it_was_sent(kind: str, tmp_path: Path) -> None:
    kept, content = Uploads(tmp_path / "uploads"), encode((40, 30), kind)
    names = {kept.keep(content), kept.keep(content)}
    assert len(names) == 2, "nobody can guess a name from the content"
    for name in names:
        assert kept.find(name).read_bytes() == content
        assert kept.find(name).parent == tmp_path / "uploads"
        assert Image.open(io.BytesIO(kept.render(name))).size == (40, 30)


def test_one_picture_is_decoded_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, at_once, most = uploads.decode_picture, [0], [0]

    def count(*given: object, **named: object) -> object:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        at_once[0] -= 1
        return decode(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "decode_picture", count)
    kept = Uploads(tmp_path)
    name = kept.keep(encode((20, 10)))
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(kept.render, [name] * 4))) == 1
    assert most == [1]


def test_a_large_picture_is_shown_smaller(tmp_path: Path) -> None:
    kept = Uploads(tmp_path)
    assert Image.open(io.BytesIO(kept.render(kept.keep(encode((2000, 1000)))))).size == (768, 384)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no picture",
        b"<svg onload=alert(1)>",
        b"<!doctype html><script>alert(1)</script>",
        claim_size(100_000, 100_000),
        claim_size(9000, 9000),
        encode((30, 30))[:-30],
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused_and_not_kept(content: bytes, tmp_path: Path) -> None:
    kept = Uploads(tmp_path / "uploads")
    with pytest.raises(ValueError, match="picture"):
        kept.render(kept.keep(content))
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"IHDR" not in content] == []


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "LARGEST_FILE", 100)
    monkeypatch.setattr(uploads, "read_upright_size", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="100 are taken"):
        Uploads(tmp_path).keep(b"1" * 101)


@pytest.mark.parametrize(
    "name", ["", "..", "../secret.png", "/etc/passwd", "secret.png", "a" * 22 + ".png", "a" * 22 + "/.png"]
)
def test_only_names_of_uploads_are_found(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(encode((1, 1)))
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "secret.png").write_bytes(encode((1, 1)))
    with pytest.raises(ValueError, match="no upload"):
        Uploads(tmp_path / "uploads").find(name)


@pytest.mark.parametrize(
    "path", ["", "../00001.png", "{key}/../{key}/00001.png", "{key}/../../secret.png", "{key}/00002.png", "x/00001.png"]
)
def test_only_paths_of_pictures_are_found(path: str, tmp_path: Path) -> None:
    sessions = Sessions(tmp_path / "pictures")
    session = sessions.open("browser")
    kept = sessions.save(session, "00001.png", b"1")
    (tmp_path / "secret.png").write_bytes(b"2")
    assert sessions.find_picture(kept).read_bytes() == b"1"
    with pytest.raises(ValueError, match="no picture"):
        sessions.find_picture(path.format(key=session.key))


def test_cancelling_waits_for_the_end_of_the_drawing() -> None:
    session, cancelled = BrowserSession(), threading.Event()
    session.cancel()  # nothing is drawn yet

    def cancel() -> None:
        session.cancel()
        cancelled.set()

    with session.drawing() as stop:
        thread = threading.Thread(target=cancel)
        thread.start()
        assert stop.wait(20)
        assert not cancelled.wait(0.05)
    assert cancelled.wait(20)
    thread.join()
    with session.drawing() as stop:
        assert not stop.is_set()


def test_sessions_are_apart_and_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.commands.playground.sessions.MOST_SESSIONS", 3)
    monkeypatch.setattr("ldm_train.commands.playground.sessions.HISTORY", 2)
    sessions = Sessions(tmp_path)
    one, other = sessions.open("one"), sessions.open("other")
    assert sessions.open("one") is one
    assert sessions.open(None) is not sessions.open(None)
    for number in (1, 2, 3):
        one.add(HistoryEntry(number, f"{one.key}/{number:05d}.png", "run", "a fox", {}, "", 0.1, 1))
    assert [entry.number for entry in one.entries] == [2, 3]
    assert other.entries == []
    for number in (1, 3):
        with pytest.raises(ValueError, match="no picture"):
            (one if number == 1 else other).find(number)
    sessions.close("other")
    assert other.stop.is_set()
    assert sessions.open("other") is not other
    for name in "abc":
        sessions.open(name)
    assert sessions.open("one") is not one
