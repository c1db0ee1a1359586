"""Scanned pictures that are stored as columns come back as they were."""

from dataclasses import replace
from pathlib import Path

import pytest

from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.sources.items import EncodedPicture, FileSlice, Item, PictureBytes, PictureFile, TablePicture
from ldm_train.util.packed_columns import DigestColumn, Selection, TextColumn, sort_places

DIGESTS = [f"{number:064x}" for number in (7, 2**255, 2**248 + 3, 1 << 8)]
ODD = "x\udcff.png"  # a name that is not UTF-8, as the file system gives it


def fetch(row: int) -> bytes:
    return bytes(row)


PICTURES: dict[str, EncodedPicture | None] = {
    "a/b.png": PictureFile(Path("/data/a/b.png")),
    "c.png": PictureFile(Path("c.png")),
    "d.png": PictureFile(Path("/data/other")),
    "d": PictureFile(Path("/data/add")),
    ODD: PictureFile(Path("/data") / ODD),
    "t/0": FileSlice(Path("/t.tar"), 512, 2**40),
    "row/1": TablePicture(fetch, 1),
    "stream": PictureBytes(b"abc"),
    "gone": None,
}


def scan(key: str, digest: str = DIGESTS[0], **values: object) -> Scanned:
    return Scanned(replace(Item(key, PICTURES[key], ("a", "", "\ud800 b"), key), **values), digest, (3, 2**31))  # type: ignore[arg-type]


@pytest.mark.parametrize("key", PICTURES)
def test_an_item_comes_back(key: str) -> None:
    seen = [scan(key, digest) for digest in DIGESTS]
    assert list(ScannedPictures(seen)) == seen


def test_what_only_some_items_have_comes_back() -> None:
    maps = {"depth": PictureFile(Path("/maps/a/b.png")), "edges": FileSlice(Path("/t.tar"), 1, 2)}
    seen = [
        scan("d"),
        scan("c.png", captions=(), held_out=True, fields={"split": "x", "é": "\ud800"}),
        Scanned(replace(scan("a/b.png").item, maps=maps), DIGESTS[1], (1, 1), dict(zip(maps, DIGESTS[2:], strict=True))),
        scan("d.png", repeats=2**70),
        Scanned(replace(scan("t/0").item, maps={"edges": PICTURES["c.png"]}), DIGESTS[3], (1, 1), {"edges": DIGESTS[0]}),  # type: ignore[dict-item]
    ]
    columns = ScannedPictures(seen)
    assert list(columns) == seen
    assert [columns[place] for place in range(-5, 5)] == seen * 2
    assert columns.contents[:] == [one.content for one in seen]
    with pytest.raises(IndexError):
        columns[5]


def test_columns_are_sequences() -> None:
    texts, digests = TextColumn(["b", "", "\U0001f600", "a"]), DigestColumn.of(DIGESTS)
    assert texts[1:] == ["", "\U0001f600", "a"]
    assert "a" in texts
    assert digests[::-1] == DIGESTS[::-1]
    assert digests.part(1, 3) == DigestColumn.of(DIGESTS[1:3]) != digests
    assert digests.first_bits().tolist() == [int(digest[:8], 16) for digest in DIGESTS]
    assert [digests[place] for place in digests.array().argsort().tolist()] == sorted(DIGESTS)
    assert list(Selection(texts, sort_places(texts))) == sorted(texts)
    assert sort_places(sorted(texts)).tolist() == [0, 1, 2, 3]
