"""Files of rows: what lies where, what is written again, and what an encoding that was cut off or damaged leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldm_train.data.cache import shards, staging
from ldm_train.data.cache.manifest import Shard, read_manifest
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.training.encoding import Encoding, Loaded
from ldm_train.util.files import temporary_path
from ldm_train.util.packed_columns import DigestColumn

EXACT = "dtype=float32"
ROW = 3 * 16 * 16 * 4  # bytes of a picture's row


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("*-*.safetensors")}


# As functions


@settings(max_examples=25, deadline=None)
@given(names=st.sets(st.integers(0, 2**256 - 1), min_size=1, max_size=60), size=st.integers(1, 400))
def test_files_follow_from_the_names_in_order_and_none_is_far_too_large(names: set[int], size: int) -> None:
    ordered = sorted(f"{name:064x}" for name in names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_BYTES", 1000)
        files = list(shards.split_into_shards(DigestColumn.of(ordered), size, "rows"))
    assert [name for _, part in files for name in part] == ordered
    assert [file for file, _ in files] == sorted({file for file, _ in files})
    bits = max(0, (len(ordered) * size - 1) // 1000).bit_length()
    for file, part in files:
        numbers = {int(name, 16) >> (256 - bits) for name in part}
        assert file == f"rows-{numbers.pop():05d}.safetensors"
        assert not numbers, "the first bits say which file"


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_statistics_are_those_of_all_rows_however_many_are_converted_at_once(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (torch.randn(10, 2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.1 + 40).half()
    monkeypatch.setattr(shards, "STATISTICS_ROWS", at_once)
    mean, std = shards.channel_statistics(rows)
    assert mean == pytest.approx(rows.double().mean((0, 1, 3, 4)).tolist(), rel=1e-9)
    assert std == pytest.approx(rows.double().std((0, 1, 3, 4), correction=0).tolist(), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 100), mean=st.floats(-50, 50))
def test_pooled_statistics_are_those_of_all_rows(sizes: list[int], seed: int, mean: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 2, 3, 4, 4, generator=generator).double() * 3 + mean for n in sizes]
    reported = [Shard(len(part), "", *shards.channel_statistics(part)) for part in parts]
    pooled_mean, pooled_std = shards.pooled_statistics(reported)
    every = torch.cat(parts)
    assert pooled_mean == pytest.approx(every.mean((0, 1, 3, 4)).tolist(), rel=1e-6, abs=1e-6)
    assert pooled_std == pytest.approx(every.std((0, 1, 3, 4), correction=0).tolist(), rel=1e-5, abs=1e-5)


# Several files


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of at most three rows or so."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 3 * ROW)


@pytest.fixture
def source(pictures: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pictures, tmp_path / "source"))


@pytest.fixture
def split(source: Path, small: None, encode: Callable, tmp_path: Path) -> Path:
    """The pictures' cache in several files."""
    assert encode(source, tmp_path / "split", EXACT).code == 0
    return tmp_path / "split"


def latent_files(folder: Path) -> list[str]:
    return sorted(name for name in inodes(folder) if name.startswith("latents"))


def test_several_files_read_back_as_one_does(split: Path, cache: Path) -> None:
    assert len(latent_files(split)) > 2
    one, other = LatentCache(cache), LatentCache(split)
    assert one.entries == other.entries
    every = torch.arange(12)[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    views = torch.zeros_like(every)
    assert torch.equal(one.moments(every, views).mean, other.moments(every, views).mean)
    assert other.manifest.mean == pytest.approx(one.manifest.mean, rel=1e-6, abs=1e-8)
    assert other.manifest.std == pytest.approx(one.manifest.std, rel=1e-6)
    assert sum(other.manifest.shards[name].rows for name in latent_files(split)) == 12


def test_a_change_writes_only_the_file_it_is_in(split: Path, source: Path, encode: Callable) -> None:
    before, manifest = inodes(split), read_manifest(split)
    Image.new("RGB", (16, 16), "pink").save(source / "circle-lime.png")
    assert encode(source, split, EXACT).code == 0
    after, changed = inodes(split), read_manifest(split).shards
    assert {name for name in after if after[name] != before.get(name)} == {
        name for name, shard in changed.items() if manifest.shards.get(name) != shard
    }
    assert 1 <= sum(after[name] != before.get(name) for name in latent_files(split)) <= 2, "where it was and where it is"
    read = LatentCache(split)
    direct = torch.stack([to_signed(read_image(source / entry.key, 16)) for entry in read.entries])
    assert torch.equal(read.moments(torch.arange(12), torch.zeros(12).long()).mean, direct)


def test_other_captions_leave_all_files_of_latents(split: Path, source: Path, encode: Callable) -> None:
    before = inodes(split)
    text = (source / "metadata.jsonl").read_text()
    (source / "metadata.jsonl").write_text(text.replace("a black", "a dark"))
    assert encode(source, split, EXACT).code == 0
    assert {name: inodes(split)[name] for name in latent_files(split)} == {
        name: before[name] for name in latent_files(split)
    }


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_file_is_mended_and_only_its_rows_are_encoded(
    damage: str, split: Path, source: Path, encode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, links = contents(split), inodes(split)
    name = latent_files(split)[1]
    path = split / name
    path.unlink() if damage == "missing" else path.write_bytes(_damaged(before[name], damage))
    encoded: list[str] = []
    original = Encoding.predict_step

    def step(self: Encoding, batch: Loaded, batch_idx: int) -> dict[str, torch.Tensor]:
        encoded.extend(batch.names)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Encoding, "predict_step", step)
    rows = read_manifest(split).shards[name].rows
    answer = encode(source, split, EXACT)
    assert answer.code == 0, answer.err
    assert f"{name} " in answer.out
    assert "encoded again" in answer.out
    assert len(encoded) == rows
    assert contents(split) == before
    assert {n: i for n, i in inodes(split).items() if n != name} == {n: i for n, i in links.items() if n != name}


def _damaged(content: bytes, damage: str) -> bytes:
    return content[:-9] if damage == "cut" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("name", ["report.json", "entries.jsonl", "captions.jsonl", "index.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_any_other_damaged_file_is_mended_too(
    name: str, damage: str, cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(cache, tmp_path / "cache"))
    content = (own / name).read_bytes()
    (own / name).write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    if damage == "missing":
        (own / name).unlink()
    answer = encode(pictures, own, EXACT)
    assert answer.code == 0, answer.err
    assert contents(own) == contents(cache)


# Cut off


class CutOffError(Exception):
    """What ends an encoding in the middle."""


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """`cut_off(2)` lets two batches pass; `cut_off(None)` all. Gives the sizes of those encoded from then on."""
    original = Encoding.predict_step

    def after(batches: int | None) -> list[int]:
        seen: list[int] = []

        def step(self: Encoding, batch: Loaded, batch_idx: int) -> dict[str, torch.Tensor]:
            if len(seen) == batches:
                raise CutOffError("the power is gone")
            seen.append(len(batch.names))
            return original(self, batch, batch_idx)

        monkeypatch.setattr(Encoding, "predict_step", step)
        return seen

    return after


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_what_was_cut_off_continues_where_it_was(
    batches: int, cache: Path, pictures: Path, encode: Callable, tmp_path: Path, cut_off: Callable
) -> None:
    folder = tmp_path / "cache"
    cut_off(batches)
    with pytest.raises(CutOffError):
        encode(pictures, folder, EXACT, "batch_size=4")
    assert not folder.exists()
    seen = cut_off(None)
    assert encode(pictures, folder, EXACT, "batch_size=4").code == 0
    assert len(seen) == 4 - batches, "three batches of pictures, one of captions"
    assert contents(folder) == contents(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_what_was_cut_off_is_of_use_to_another_batch_size_and_after_a_change(
    source: Path, encode: Callable, tmp_path: Path, cut_off: Callable
) -> None:
    cut_off(2)
    with pytest.raises(CutOffError):
        encode(source, tmp_path / "cache", EXACT, "batch_size=4")
    Image.new("RGB", (16, 16), "pink").save(source / "circle-lime.png")
    seen = cut_off(None)
    assert encode(source, tmp_path / "cache", EXACT, "batch_size=6").code == 0
    assert sum(seen) <= 5 + 14, "four were left of twelve, and one changed"
    assert encode(source, tmp_path / "fresh", EXACT).code == 0
    assert contents(tmp_path / "cache") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("left", ["the old one and the new", "half a part", "the old one alone"])
def test_what_a_kill_leaves_is_in_nobodys_way(
    left: str, cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    place = staging.CacheWorkspace(folder)
    place.start()
    shutil.copytree(cache, place.previous if left != "half a part" else folder)
    if left != "the old one alone":
        shutil.copytree(cache, place.new, dirs_exist_ok=True)
        (place.parts / "0123.safetensors").write_bytes(b"half")
        temporary_path(place.parts / "4567.safetensors").write_bytes(b"half")
    (tmp_path / ".cache.ldm-train-lock").touch()
    answer = encode(pictures, folder, EXACT)
    assert answer.code == 0, answer.err
    assert "nothing changed" in answer.out
    assert contents(folder) == contents(cache)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_training_after_such_a_kill_says_what_to_do(cache: Path, train: Callable, tmp_path: Path) -> None:
    place = staging.CacheWorkspace(tmp_path / "cache")
    place.start()
    shutil.copytree(cache, place.previous)
    answer = train(tmp_path / "cache", tmp_path / "run")
    assert answer.code == 1
    assert "ldm-train encode" in answer.err
