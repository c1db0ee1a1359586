"""Every item of a source is looked at once, whatever it is and however it ends."""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture
from ldm_train.data.scan.inspection import FEW_PICTURES, Decoder, Inspected, inspect_items, survey_from_inspection
from ldm_train.data.sources.items import Item, PictureBytes, PictureFile, TablePicture
from tests.data.bad_pictures import bad_pictures

DECODER = Decoder("white", 10_000_000)


def png(colour: object = "red", size: tuple[int, int] = (4, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")  # type: ignore[arg-type]
    return file.getvalue()


def item(key: str, content: bytes, *, folder: Path | None = None) -> Item:
    if folder is None:
        return Item(key, PictureBytes(content), (key,), key)
    (folder / key).write_bytes(content)
    return Item(key, PictureFile(folder / key), (key,), key)


@dataclass(frozen=True)
class Deadly:
    """A picture whose reading ends the process that reads it, as a decoder's crash does."""

    path: Path
    lasting = True

    def read(self) -> bytes:
        os._exit(3)

    def stamp(self) -> None:
        return None


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_bad_picture_is_reported_and_none_disappears(workers: int, tmp_path: Path) -> None:
    bad = bad_pictures()
    found = list(inspect_items((item(n, c, folder=tmp_path) for n, (c, _) in bad.items()), DECODER, workers=workers))
    assert [one.item.key for one in found] == list(bad)
    for one in found:
        reason = bad[one.item.key][1]
        assert (one.problem is None) == (reason is None), one
        assert (reason or "") in (one.problem or "")
    assert survey_from_inspection(found).problems.keys() == {name for name, (_, reason) in bad.items() if reason}


@pytest.mark.slow
def test_processes_find_what_this_one_finds(tmp_path: Path) -> None:
    items = [item(f"{n}.png", png((n, 0, 0), (8, 8 + n))) for n in range(2 * FEW_PICTURES)]
    items[3] = Item("gone", PictureFile(tmp_path / "gone"), ("x",), "x")
    items[4] = Item("row", TablePicture(lambda row: png("blue"), 7), ("x",), "x")
    assert list(inspect_items(items, DECODER, workers=2)) == list(inspect_items(items, DECODER, workers=1))


@pytest.mark.slow
def test_a_picture_that_ends_its_process_is_reported_and_the_others_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.data.scan.inspection.as_picklable", lambda picture: picture)
    items = [item(f"{n}.png", png((n, 0, 0))) for n in range(20)]
    items[5] = Item("deadly", Deadly(Path()), ("x",), "x")
    found = {one.item.key: one.problem for one in inspect_items(items, DECODER, workers=2)}
    assert len(found) == 20
    assert "crashes the process" in (found.pop("deadly") or "")
    assert set(found.values()) == {None}


def test_a_stream_s_pictures_are_kept_as_far_as_memory_is_meant_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    content = png()
    monkeypatch.setattr("ldm_train.data.scan.inspection.KEPT_BYTES", 3 * len(content))
    found = list(inspect_items((item(str(n), content) for n in range(5)), DECODER))
    assert [one.item.picture is None for one in found] == [False, False, True, True, True]
    assert {one.digest for one in found} == {found[0].digest}


def look(content: bytes) -> Inspected:
    return DECODER(item("x", content))


def test_what_is_reported_of_a_picture() -> None:
    assert look(png()).flat
    assert look(png()).size == (6, 4)
    assert not look(bad_pictures()["png_pixels_crc_wrong"][0]).flat
    assert look(bad_pictures()["profile_broken.png"][0]).profile
    assert look(bad_pictures()["profile_broken.png"][0]).problem is None
    assert "more than max_pixels" in (look(png(size=(4000, 4000))).problem or "")
    assert "background" not in (look(png()).problem or "")


MANY_FRAMES = {"two_frames.gif", "two_frames.png", "two_frames.webp", "two_frames.tiff"}


def test_pictures_with_more_frames_are_recognised() -> None:
    bad = bad_pictures()
    assert {name for name, (content, reason) in bad.items() if not reason and look(content).more_frames} == MANY_FRAMES


@pytest.mark.parametrize("name", sorted(MANY_FRAMES))
def test_a_damaged_second_frame_does_not_make_a_picture_unusable(name: str) -> None:
    frames = bad_pictures()[name][0]
    for end in range(12, len(frames), 3):
        try:
            decode_picture(frames[:end])
        except DECODE_ERRORS:
            assert look(frames[:end]).problem
        else:
            assert look(frames[:end]).problem is None


def test_a_problem_of_the_source_does_not_hide_that_of_the_picture() -> None:
    found = DECODER(Item("x", PictureBytes(b"no picture"), (), "x", problem="no caption: x is empty"))
    assert (found.problem or "").startswith("no caption: x is empty; the picture does not decode")
    assert DECODER(Item("x", None, (), "x", problem="named, and not there")).problem == "named, and not there"
