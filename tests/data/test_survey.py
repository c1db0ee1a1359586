"""The first look at a source, what is remembered of it, and streams, which pass once."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.scan.survey import AT_ONCE, ScanMemory, survey_items
from ldm_train.data.sources.items import Item, PictureBytes, PictureFile
from ldm_train.training.rendering import Rendering
from tests.data.folders import captioned

EXACT = "dtype=float32"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def png(shade: int, size: tuple[int, int] = (16, 16)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (shade % 256, shade // 256, 0)).save(file, "PNG")
    return file.getvalue()


class Unread(PictureFile):
    """A file that must not be read."""

    def read(self) -> bytes:
        raise AssertionError("it was read")


@pytest.fixture
def source(pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "source"))


def test_more_items_than_are_held_at_once_come_in_order_with_their_problems() -> None:
    count = 2 * AT_ONCE + 3
    items = [
        Item(
            f"{n:05d}",
            PictureBytes(b"none" if n % 100 == 7 else png(n, (3, 2))),
            ("a",),
            "here",
            problem="odd" if n == 9 else None,
        )
        for n in range(count)
    ]
    reported: list[int] = []
    found = survey_items(iter(items), max_pixels=100, progress=lambda: reported.append(1))
    assert len(reported) == count
    assert set(found.problems) == {f"{n:05d}" for n in range(count) if n % 100 == 7 or n == 9}
    assert found.problems["00009"] == "odd"
    assert [seen.item.key for seen in found.scanned] == sorted(seen.item.key for seen in found.scanned)
    assert len(found.scanned) == count - len(found.problems)
    assert {seen.size for seen in found.scanned} == {(2, 3)}
    assert all(seen.item.picture is None for seen in found.scanned), "without a spool a stream's are let go"


def test_a_spool_keeps_what_passes_once_for_each_content(tmp_path: Path) -> None:
    items = [Item(str(n), PictureBytes(png(n % 3)), ("a",), "here") for n in range(9)]
    found = survey_items(items, max_pixels=1000, spool=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({seen.digest for seen in found.scanned})
    assert all(seen.item.picture and seen.item.picture.read() == png(int(seen.item.key) % 3) for seen in found.scanned)


def test_what_is_remembered_is_not_read_and_what_is_gone_is_forgotten(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(png(ord(name)))
    memory = tmp_path / "memory.json"
    first = survey_items(
        [Item(n, PictureFile(tmp_path / f"{n}.png"), (n,), "") for n in "ab"], max_pixels=1000, memory=ScanMemory(memory)
    )
    again = survey_items([Item("a", Unread(tmp_path / "a.png"), ("a",), "")], max_pixels=1000, memory=ScanMemory(memory))
    assert [seen.digest for seen in again.scanned] == [first.scanned[0].digest]
    assert set(ScanMemory(memory).known) == {"a"}


def test_a_damaged_memory_is_no_memory(source: Path, encode: Callable, tmp_path: Path) -> None:
    (tmp_path / ".cache.ldm-train-stat.json").write_text('{"a": [1,')
    answer = encode(source, tmp_path / "cache", EXACT, "unchanged_by=stat")
    assert answer.code == 0, answer.err


def test_trust_in_time_and_size_and_none(source: Path, encode: Callable, tmp_path: Path) -> None:
    folder, path = tmp_path / "cache", source / "circle-lime.png"
    assert encode(source, folder, EXACT, "unchanged_by=stat").code == 0
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1  # in the last chunk's checksum or before it
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert "nothing changed" in encode(source, folder, EXACT, "unchanged_by=stat").out
    noticed = encode(source, folder, EXACT, "unchanged_by=hash")
    assert noticed.code == 0
    assert "nothing changed" not in noticed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache.ldm-train-stat.json", "cache", "source"]


def test_trust_does_not_outlive_what_refuses_a_picture(source: Path, encode: Callable, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(source / "circle-lime.png")
    assert encode(source, tmp_path / "cache", EXACT, "unchanged_by=stat").code == 0
    answer = encode(source, tmp_path / "cache", EXACT, "unchanged_by=stat", "max_pixels=1000")
    assert answer.code == 0
    assert "left out circle-lime.png" in answer.out


@pytest.fixture
def own(cache: Path, tmp_path: Path) -> Path:
    """A copy of the pictures' cache, to be changed."""
    return Path(shutil.copytree(cache, tmp_path / "cache"))


def test_pictures_that_became_undecodable_are_as_good_as_gone(source: Path, own: Path, encode: Callable) -> None:
    """A copy that broke off half-way leaves headers whole, so only encoding finds out."""
    before = contents(own)
    for path in source.glob("circle-*.png"):
        path.write_bytes(path.read_bytes()[:-30])
    answer = encode(source, own, EXACT)
    assert answer.code == 1
    assert "4 of 12 pictures" in answer.err
    assert contents(own) == before


@pytest.mark.parametrize("fault", ["missing", "empty"])
def test_a_source_that_is_not_there_empties_no_cache(fault: str, own: Path, encode: Callable, tmp_path: Path) -> None:
    before = contents(own)
    if fault == "empty":
        (tmp_path / "nothing").mkdir()
    answer = encode(tmp_path / "nothing", own, EXACT, "prune=true")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert contents(own) == before


def test_a_picture_that_could_not_be_read_once_is_tried_again(
    pictures: Path, cache: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk that stumbles says nothing of the picture's bytes."""
    original = Rendering.__call__

    class Stale(PictureFile):
        def read(self) -> bytes:
            raise OSError("Stale file handle")

    def stumble(self: Rendering, row: PictureRow) -> torch.Tensor:
        self.items = {**self.items, "square-lime.png": Item("square-lime.png", Stale(Path("square-lime.png")), (), "")}
        return original(self, row)

    monkeypatch.setattr(Rendering, "__call__", stumble)
    answer = encode(pictures, tmp_path / "cache", EXACT)
    assert answer.code == 0
    assert "left out square-lime.png: it could not be read: Stale file handle; encode again" in answer.out
    assert LatentCache(tmp_path / "cache").manifest.entries == 11
    monkeypatch.undo()
    assert encode(pictures, tmp_path / "cache", EXACT).code == 0
    assert contents(tmp_path / "cache") == contents(cache)


def test_a_source_of_which_half_is_not_read_is_refused_and_says_what_it_found(encode: Callable, tmp_path: Path) -> None:
    """As `check` does, by the same function."""
    source = tmp_path / "source"
    captioned(source / "a.png", "a (red:1.2) cat")
    (source / "b.psd").touch()
    answer = encode(source, tmp_path / "cache", EXACT)
    assert answer.code == 1
    assert "1 of 2 pictures (50%)" in answer.err
    assert "1 .psd" in answer.err
    assert not (tmp_path / "cache").exists()
    answer = encode(source, tmp_path / "cache", EXACT, "max_unusable=1")
    assert answer.code == 0
    assert "caption of a.png: 'a (red:1.2) cat'" in answer.out
    assert "warning: 1 of 1 captions have the syntax of a web UI" in answer.out
    assert "warning: 1 of 2 pictures (50%)" in answer.out


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pictures in parquet, three of them copies, one with a whole header only."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "hf_modules"))
    rows = [{"image": {"bytes": png(n % 7), "path": None}, "text": f"caption {n}"} for n in range(9)]
    rows.append({"image": {"bytes": png(200, (40, 40))[:-30], "path": None}, "text": "broken"})
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


def test_a_stream_gives_the_cache_of_what_lies_still(table: Path, encode: Callable, tmp_path: Path) -> None:
    words = ["source=huggingface", EXACT, f"source.cache_dir={tmp_path}/hf"]
    for name in ("still", "streamed"):
        answer = encode(table, tmp_path / name / "cache", *words, f"source.streaming={str(name == 'streamed').lower()}")
        assert answer.code == 0, answer.err
    assert contents(tmp_path / "still/cache") == contents(tmp_path / "streamed/cache")
    assert [path.name for path in (tmp_path / "streamed").iterdir()] == ["cache"], "the spool is gone"
    assert LatentCache(tmp_path / "streamed/cache").manifest.buckets == {"16x16": 7}
    again = encode(table, tmp_path / "streamed/cache", *words, "source.streaming=true")
    assert "nothing changed" in again.out
    assert [path.name for path in (tmp_path / "streamed").iterdir()] == ["cache"]


def test_a_stream_is_not_trained_on_without_a_cache(table: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["cache=null", "source=huggingface", f"source.path={table}", "source.streaming=true", "autoencoder=identity"]
    answer = ldm_train("train", *words, "text_encoder=small", "image_size=16", f"run_dir={tmp_path}/run")
    assert answer.code == 1
    assert "passes only once" in answer.err


@pytest.mark.parametrize("size", [1, 5, 64])
@pytest.mark.slow
def test_an_autoencoders_latents_are_the_same_bytes_for_any_batch_size(
    size: int, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    NewKLAutoencoder([8, 8], groups=4).initialise(0).save(tmp_path / "kl", shift=0.0, scale=3.0)
    words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl", EXACT, "scale_check=false"]
    for name, count in (("one", 4), ("other", size)):
        assert encode(pictures, tmp_path / name, *words, f"batch_size={count}").code == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
