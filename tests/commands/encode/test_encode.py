"""`encode` as a function of the source: the cache becomes what a fresh encoding gives, for the work of what is new."""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.data.cache import staging
from ldm_train.data.cache.manifest import read_manifest
from ldm_train.data.cache.reader import LatentCache
from ldm_train.training.encoding import Encoding, Loaded

EXACT = "dtype=float32"
LATENTS = "latents-16x16-00000.safetensors"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(source: Path) -> list[dict]:
    return [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]


def write_rows(source: Path, rows: list[dict]) -> None:
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Counted:
    """The names of the rows that were encoded since the last look."""

    def __init__(self) -> None:
        self.pictures: list[str] = []
        self.captions: list[str] = []

    def __call__(self) -> tuple[int, int]:
        counts = len(self.pictures), len(self.captions)
        self.pictures.clear()
        self.captions.clear()
        return counts


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """`counted()` gives how many pictures and captions were encoded since it was last called."""
    counts, original = Counted(), Encoding.predict_step

    def step(self: Encoding, batch: Loaded, batch_idx: int) -> dict[str, torch.Tensor]:
        (counts.captions if batch.images is None else counts.pictures).extend(batch.names)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Encoding, "predict_step", step)
    return counts


@pytest.fixture
def source(pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "source"))


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    """A copy of the pictures' cache, to be changed."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def add(source: Path) -> None:
    Image.new("RGB", (20, 30), "teal").save(source / "a new one.png")
    write_rows(source, [*rows_of(source), {"file_name": "a new one.png", "text": "teal", "background": "teal"}])


def change(source: Path) -> None:
    Image.new("RGB", (16, 16), "pink").save(source / "circle-lime.png")


def remove(source: Path) -> None:
    (source / "square-lime.png").unlink()
    write_rows(source, [row for row in rows_of(source) if row["file_name"] != "square-lime.png"])


def rename(source: Path) -> None:
    (source / "square-lime.png").rename(source / "renamed.png")
    write_rows(
        source, [r | ({"file_name": "renamed.png"} if r["file_name"] == "square-lime.png" else {}) for r in rows_of(source)]
    )


def copy_one(source: Path) -> None:
    shutil.copy(source / "square-lime.png", source / "copied.png")
    write_rows(source, [*rows_of(source), {"file_name": "copied.png", "text": "another caption"}])


def recaption(source: Path) -> None:
    write_rows(source, [r | ({"text": ["a", "b"]} if "lime" in r["file_name"] else {}) for r in rows_of(source)])


def reorder(source: Path) -> None:
    write_rows(source, rows_of(source)[::-1])


def hold_out(source: Path) -> None:
    write_rows(source, [r | ({"split": "test"} if r["file_name"] == "circle-lime.png" else {}) for r in rows_of(source)])


def truncate(source: Path) -> None:
    content = (source / "circle-lime.png").read_bytes()
    (source / "circle-lime.png").write_bytes(content[: len(content) // 2])


CHANGES: dict[Callable[[Path], None], tuple[int, int]] = {
    add: (1, 1),
    change: (1, 0),
    remove: (0, 0),
    rename: (0, 0),
    copy_one: (0, 1),
    recaption: (0, 2),
    reorder: (0, 0),
    hold_out: (0, 0),
    truncate: (1, 0),
}


@pytest.mark.parametrize("alter", CHANGES)
def test_after_a_change_the_cache_is_the_fresh_one_for_the_work_of_what_is_new(
    alter: Callable[[Path], None], source: Path, own: Path, encode: Callable, tmp_path: Path, counted: Counted
) -> None:
    alter(source)
    answer = encode(source, own, EXACT)
    assert answer.code == 0, answer.err
    assert counted() == CHANGES[alter]
    assert encode(source, tmp_path / "fresh", EXACT).code == 0
    assert contents(own) == contents(tmp_path / "fresh")
    counted()
    again = encode(source, own, EXACT)
    assert "nothing changed, nothing to encode" in again.out
    assert counted() == (0, 0), "a picture that does not decode is known too"
    assert contents(own) == contents(tmp_path / "fresh")


def test_copies_of_a_picture_share_a_row(source: Path, own: Path, encode: Callable) -> None:
    copy_one(source)
    assert encode(source, own, EXACT).code == 0
    read = LatentCache(own)
    rows = {entry.key: (entry.bucket, entry.row) for entry in read.entries}
    assert rows["copied.png"] == rows["square-lime.png"]
    assert len(rows) == 13
    assert read.manifest.buckets == {"16x16": 12}


@pytest.mark.parametrize(
    ("words", "reported", "work"),
    [
        (["dtype=float16"], "dtype: float32 -> float16", (12, 0)),
        (["background=black"], "background: #ffffff -> #000000", (12, 0)),
        (["image_size=8"], "crop.image_size: 16 -> 8", (12, 0)),
        (["crop=random", "crop.views=2"], "crop", (12, 0)),
        (["crop.mirrored=true"], "crop.mirrored: False -> True", (12, 0)),
        (["text_encoder.context_length=8"], "context_length: 16 -> 8", (0, 14)),
    ],
)
def test_other_settings_encode_anew_what_they_change_and_say_so(
    words: list[str],
    reported: str,
    work: tuple[int, int],
    pictures: Path,
    own: Path,
    encode: Callable,
    tmp_path: Path,
    counted: Counted,
) -> None:
    inode = (own / LATENTS).stat().st_ino
    answer = encode(pictures, own, EXACT, *words)
    assert answer.code == 0, answer.err
    assert "encoded anew, since these changed" in answer.out
    assert reported in answer.out
    assert counted() == work
    assert encode(pictures, tmp_path / "fresh", EXACT, *words).code == 0
    assert contents(own) == contents(tmp_path / "fresh")
    assert (own / LATENTS).exists() == (words != ["image_size=8"])
    assert work[0] or (own / LATENTS).stat().st_ino == inode, "the latents are linked, not written again"


def test_what_is_in_the_manifest_alone_is_brought_up_to_date(
    pictures: Path, own: Path, encode: Callable, counted: Counted
) -> None:
    """A trained text encoder's width changes no row, but it is what training builds."""
    assert encode(pictures, own, EXACT, "text_encoder.width=64").code == 0
    assert counted() == (0, 0)
    assert read_manifest(own).text_encoder["config"]["width"] == 64  # type: ignore[index, call-overload]


def test_the_refusal_to_drop_many_names_them_and_prune_drops_them(source: Path, own: Path, encode: Callable) -> None:
    before = contents(own)
    gone = sorted(path.name for path in source.glob("*-red.png"))
    write_rows(source, [row for row in rows_of(source) if row["file_name"] not in gone])
    for name in gone:
        (source / name).unlink()
    answer = encode(source, own, EXACT)
    assert answer.code == 1
    assert f"3 of 12 pictures in {own} can no longer be had" in answer.err
    assert all(name in answer.err for name in gone)
    assert "prune=true" in answer.err
    assert contents(own) == before
    assert encode(source, own, EXACT, "prune=true").code == 0
    assert LatentCache(own).manifest.entries == 9


@pytest.mark.slow
def test_a_cache_tells_nothing_of_when_where_and_how_it_was_made(
    source: Path, cache: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate(source)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    one, other = tmp_path / "one", tmp_path / "another place/other"
    assert encode(source, one, EXACT, "unchanged_by=stat").code == 0
    moved = Path(shutil.move(source, tmp_path / "moved"))
    time.sleep(0.01)
    assert encode(moved, other, EXACT, "batch_size=3", "workers=1").code == 0
    assert contents(one) == contents(other)
    for reported in (tmp_path.name, socket.gethostname(), str(Path.home()), time.strftime("%Y-")):
        assert not [name for name, content in contents(one).items() if reported.encode() in content], reported


def test_a_linked_folder_stays_linked(cache: Path, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "large disk/cache")
    link = tmp_path / "cache"
    link.symlink_to(tmp_path / "large disk/cache")
    for dtype in ("float16", "bfloat16"):
        answer = encode(pictures, link, f"dtype={dtype}")
        assert answer.code == 0, answer.err
        assert read_manifest(tmp_path / "large disk/cache").encoding["pictures"]["dtype"] == dtype  # type: ignore[index, call-overload]
    assert link.is_symlink()


def test_one_writer_at_a_time(own: Path, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    before = contents(own)
    with staging.CacheWorkspace(own).locked():
        answer = encode(pictures, own, "dtype=float16")
        assert answer.code == 1
        assert "is being written by another process" in answer.err
        assert contents(own) == before
    assert encode(pictures, own, "dtype=float16").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
