"""The latent cache: what is written comes back, what made it is known, and what is wrong with it is said."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.data.batches.datamodules import CachedLatents, split_held_out
from ldm_train.data.cache.index import join_indices
from ldm_train.data.cache.manifest import check_cache_matches, read_manifest
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.cache.staging import CacheWorkspace
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.training.encoding import Encoding
from ldm_train.util.files import digest_file

LATENTS = "latents-16x16-00000.safetensors"
DATA_FILES = ["captions-00000.safetensors", "captions.jsonl", "entries.jsonl", "index.safetensors", LATENTS, "report.json"]


def means(cache: LatentCache) -> torch.Tensor:
    """The first view of every example, as stored, in the order of the entries."""
    every = torch.arange(len(cache.index))
    return cache.moments(every, torch.zeros_like(every)).mean


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def copy(source: Path, to: Path) -> Path:
    return Path(shutil.copytree(source, to))


@pytest.fixture
def damaged(pictures: Path, tmp_path: Path) -> Path:
    """The pictures with one corrupt, one without a caption and one that metadata.jsonl does not name."""
    folder = copy(pictures, tmp_path / "damaged")
    (folder / "circle-red.png").write_bytes(b"no picture")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows = [row | ({"text": " "} if row["file_name"] == "square-red.png" else {}) for row in rows]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (4, 4)).save(folder / "extra.png")
    return folder


LEFT_OUT = {
    "circle-red.png": "the picture does not decode",
    "extra.png": "not named in metadata.jsonl",
    "square-red.png": "no caption",
}


def test_what_comes_back_equals_encoding_directly(cache: Path, pictures: Path) -> None:
    read = LatentCache(cache)
    assert sorted(entry.key for entry in read.entries) == sorted(path.name for path in pictures.glob("*.png"))
    direct = torch.stack([to_signed(read_image(pictures / entry.key, 16)) for entry in read.entries])
    assert means(read).dtype == torch.float32
    assert torch.equal(means(read), direct)
    some = torch.tensor([4, 3])
    moments = read.moments(some, torch.zeros_like(some))
    assert moments.log_variance is None
    assert torch.equal(moments.mean, direct[some])


def test_entries_hold_captions_split_fields_and_the_pictures_digest(cache: Path, pictures: Path) -> None:
    read = LatentCache(cache)
    entries = {entry.key: entry for entry in read.entries}
    assert {entry.key for entry in read.entries if entry.held_out} == {
        "circle-red.png",
        "square-blue.png",
        "triangle-white.png",
    }
    two = entries["circle-blue.png"]
    assert [read.caption_texts[n] for n in two.captions] == ["a black circle on a blue background", "circle, blue"]
    assert two.fields == {"background": "blue"}
    assert two.picture == digest_file(pictures / "circle-blue.png")


def test_manifest_counts_and_statistics(cache: Path) -> None:
    manifest, read = read_manifest(cache), LatentCache(cache)
    stored = means(read)
    assert (manifest.image_size, manifest.channels) == (16, 3)
    assert (manifest.entries, manifest.held_out) == (12, 3)
    assert manifest.captions == 14, "twelve, a second one, and the empty one"
    assert (manifest.shift, manifest.scale) == (0.0, 1.0)
    assert_close(torch.tensor(manifest.mean), stored.mean((0, 2, 3)))
    assert_close(torch.tensor(manifest.std), stored.std((0, 2, 3), correction=0))
    assert manifest.digests() == {name: digest_file(cache / name) for name in DATA_FILES}


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_storage_types_round_and_no_more(
    dtype: str, error: float, cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    assert encode(pictures, tmp_path / "cache", f"dtype={dtype}").code == 0
    rounded, exact = LatentCache(tmp_path / "cache"), LatentCache(cache)
    assert means(rounded).dtype == getattr(torch, dtype)
    assert_close(means(rounded).float(), means(exact), rtol=error, atol=error)


def test_two_encodings_are_the_same_bytes_whatever_the_batch(
    cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    assert encode(pictures, tmp_path / "a", "dtype=float32").code == 0
    assert contents(tmp_path / "a") == contents(cache)
    assert encode(pictures, tmp_path / "b", "dtype=float32", "batch_size=5").code == 0
    assert contents(tmp_path / "b") == contents(cache)


def test_encoding_leaves_nothing_beside_the_cache(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    assert encode(pictures, tmp_path / "cache").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_cache_of_every_distinct_caption_once_with_frozen_embeddings(
    pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    folder = copy(pictures, tmp_path / "same")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows = [row | {"text": ["a shape", f"a {row['background']} thing"]} for row in rows]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode(folder, tmp_path / "cache", "text_encoder.trained=false", "dtype=float32").code == 0
    read = LatentCache(tmp_path / "cache")
    assert sorted(read.caption_texts) == ["", "a blue thing", "a lime thing", "a red thing", "a shape", "a white thing"]
    every = read.numbered(torch.arange(6)).embeddings
    assert every is not None
    assert every.shape == (6, 16, 32)
    assert every.isfinite().all()
    assert len({row.numpy().tobytes() for row in every}) == 6, "each caption has an embedding of its own"
    assert "fingerprint" in read.manifest.encoding["captions"]  # type: ignore[operator]
    captions = read.numbered(torch.tensor([4, 0, 4]))
    assert captions.embeddings is not None
    assert torch.equal(captions.embeddings, every[[4, 0, 4]])
    batch = CachedLatents(read, batch_size=4, caption_dropout=0).fetch(torch.arange(4))
    assert batch.captions.embeddings is not None
    assert batch.captions.embeddings.shape == (4, 16, 32)


def test_a_trained_text_encoder_leaves_tokens_alone(cache: Path) -> None:
    read = LatentCache(cache)
    captions = read.numbered(torch.arange(14))
    assert captions.embeddings is None
    assert captions.tokens.shape == (14, 16)
    assert read.caption_texts[read.manifest.empty] == ""
    assert "fingerprint" not in read.manifest.encoding["captions"]  # type: ignore[operator]


def test_what_cannot_be_used_is_left_out_and_named(damaged: Path, encode: Callable, tmp_path: Path) -> None:
    answer = encode(damaged, tmp_path / "cache")
    assert answer.code == 0
    report = json.loads((tmp_path / "cache/report.json").read_text())
    assert report["used"] == 10
    reported = {entry["key"]: entry["problem"] for entry in report["left_out"]}
    assert set(reported) == set(LEFT_OUT)
    assert all(reported[key].startswith(problem) for key, problem in LEFT_OUT.items())
    assert all(f"left out {key}" in answer.out for key in LEFT_OUT)
    read = LatentCache(tmp_path / "cache")
    assert not {entry.key for entry in read.entries} & set(LEFT_OUT)
    direct = torch.stack([to_signed(read_image(damaged / entry.key, 16)) for entry in read.entries])
    assert_close(means(read).float(), direct, rtol=2**-11, atol=2**-11)
    assert len(read.entries) == len(direct) == 10


def test_strict_encoding_says_so_by_its_exit_code_and_check_too(
    damaged: Path, encode: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    assert encode(damaged, tmp_path / "cache", "strict=true").code == 1
    assert LatentCache(tmp_path / "cache").manifest.entries == 10
    answer = ldm_train("check", f"source.path={damaged}", "image_size=16", "measure=false")
    assert answer.code == 1
    assert all(f"{key}: {problem}" in answer.out for key, problem in LEFT_OUT.items())


def test_strict_encoding_of_whole_pictures_is_fine(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    assert encode(pictures, tmp_path / "cache", "strict=true").code == 0


@pytest.mark.parametrize("fault", ["no picture", "no caption", "all corrupt", "interrupted"])
def test_an_encoding_that_fails_leaves_the_old_cache(
    fault: str, cache: Path, pictures: Path, encode: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = copy(cache, tmp_path / "cache")
    folder = copy(pictures, tmp_path / "source")
    if fault == "interrupted":

        def fail(*_: object) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(Encoding, "predict_step", fail)
    for path in folder.iterdir():
        if fault in ("no picture", "no caption") and (path.suffix == ".png") == (fault == "no picture"):
            path.unlink()
        elif fault == "all corrupt" and path.suffix == ".png":
            path.write_bytes(b"no picture")
    answer = encode(folder, old, "dtype=float32", *(["background=black"] if fault == "interrupted" else []))
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert contents(old) == contents(cache)
    monkeypatch.undo()
    assert encode(pictures, old, "dtype=float32").code == 0, "what was left behind is in nobody's way"
    assert contents(old) == contents(cache)


def test_a_new_cache_replaces_the_old_one_even_after_a_crash_while_doing_so(
    cache: Path, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    copy(cache, tmp_path / "cache")
    working = CacheWorkspace(tmp_path / "cache")
    working.start()
    copy(cache, working.previous)
    assert encode(pictures, tmp_path / "cache", "dtype=float16").code == 0
    assert means(LatentCache(tmp_path / "cache")).dtype == torch.float16
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


@pytest.mark.parametrize("place", ["the source itself", "a folder above it", "somebody's file"])
def test_what_is_no_cache_is_never_replaced(place: str, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    source = copy(pictures, tmp_path / "above/source")
    target = {"the source itself": source, "a folder above it": source.parent}.get(place, source / "metadata.jsonl")
    answer = encode(source, target)
    assert answer.code == 1
    assert f"cache={target}" in answer.err
    assert contents(source) == contents(pictures)


def test_an_empty_folder_may_become_a_cache(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    assert encode(pictures, tmp_path / "cache").code == 0
    assert LatentCache(tmp_path / "cache").manifest.entries == 12


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_flipped_bit_is_refused_by_name(name: str, cache: Path, train: Callable, tmp_path: Path) -> None:
    folder = copy(cache, tmp_path / "cache")
    content = bytearray((folder / name).read_bytes())
    # In the last caption's text, in the middle of the numbers: where it still reads as the same format.
    place = len(content) - 4 if name == "captions.jsonl" else len(content) // 2
    content[place] ^= 1
    (folder / name).write_bytes(content)
    answer = train(folder, tmp_path / "run")
    assert answer.code == 1
    assert name in answer.err
    assert "encode it again" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", DATA_FILES)
def test_a_missing_file_is_refused_by_name(name: str, cache: Path, train: Callable, tmp_path: Path) -> None:
    folder = copy(cache, tmp_path / "cache")
    (folder / name).unlink()
    answer = train(folder, tmp_path / "run")
    assert answer.code == 1
    assert f"has no {name}" in answer.err


def test_a_file_cut_short_is_refused_by_name(cache: Path, tmp_path: Path) -> None:
    folder = copy(cache, tmp_path / "cache")
    path = folder / LATENTS
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{LATENTS} cannot be read"):
        LatentCache(folder)


@pytest.mark.parametrize("damage", ["cut short", "a name changed"])
def test_a_damaged_manifest_is_refused_by_name(damage: str, cache: Path, train: Callable, tmp_path: Path) -> None:
    path = copy(cache, tmp_path / "cache") / "manifest.json"
    text = path.read_text()
    path.write_text(text[:200] if damage == "cut short" else text.replace('"entries"', '"entrees"'))
    answer = train(path.parent, tmp_path / "run")
    assert answer.code == 1
    assert "manifest.json" in answer.err
    assert "encode it again" in answer.err


def test_an_unknown_format_is_refused(cache: Path, tmp_path: Path) -> None:
    folder = copy(cache, tmp_path / "cache")
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99; this version reads"):
        LatentCache(folder)


@pytest.mark.parametrize(
    ("expected", "reported"),
    [
        ({"image_size": 32}, "image_size: the cache has 16, this run expects 32"),
        ({"autoencoder": {"fingerprint": "abc"}}, "autoencoder.fingerprint: the cache has"),
        ({"text_encoder": {"pad_token": 49407}}, "text_encoder.pad_token: the cache has 0, this run expects 49407"),
        ({"text_encoder": {"context_length": 77}}, "text_encoder.context_length: the cache has 16, this run expects 77"),
    ],
)
def test_another_origin_is_refused_naming_the_difference(expected: dict, reported: str, cache: Path) -> None:
    with pytest.raises(ValueError, match=reported):
        check_cache_matches(read_manifest(cache), {"image_size": 16} | expected, cache=cache, mend=[])


def test_the_same_origin_passes(cache: Path) -> None:
    manifest = read_manifest(cache)
    check_cache_matches(manifest, manifest.expected_of_a_run, cache=cache, mend=[])


def test_all_differences_are_reported_at_once(cache: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)image_size.*pad_token"):
        check_cache_matches(read_manifest(cache), {"image_size": 32, "text_encoder": {"pad_token": 1}}, cache=cache, mend=[])


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["image_size=32"], "image_size: the cache has 16, this run expects 32"),
        (["autoencoder={kl}"], "autoencoder.fingerprint: the cache has"),
        (["text_encoder=small", "text_encoder.context_length=8"], "text_encoder.context_length: the cache has 16"),
    ],
)
def test_training_on_another_origin_is_refused(
    words: list[str], reported: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    if words == ["autoencoder={kl}"]:
        from ldm_train.autoencoders.autoencoder import NewKLAutoencoder

        NewKLAutoencoder([8], groups=4).save(tmp_path / "kl", shift=0.0, scale=1.0)
        words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl"]
    answer = train(cache, tmp_path / "run", *words)
    assert answer.code == 1
    assert reported in answer.err
    assert not (tmp_path / "run").exists()


def test_fingerprints_differ_where_contents_do(cache: Path, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    assert encode(pictures, tmp_path / "cache", "dtype=float16").code == 0
    assert read_manifest(tmp_path / "cache").fingerprint != read_manifest(cache).fingerprint
    assert read_manifest(cache).fingerprint == read_manifest(copy(cache, tmp_path / "copy")).fingerprint


def test_what_the_source_holds_out_is_never_trained_on(cache: Path) -> None:
    read = LatentCache(cache)
    data = CachedLatents(read, batch_size=9, held_out=0.5)
    assert {read.entries[example].key for example in data.held_out} == {e.key for e in read.entries if e.held_out}
    assert sorted(data.order(torch.arange(9)).tolist()) == torch.cat(data.train).tolist()
    latents = data.fixed_batch(data.held_out, torch.arange(3)).moments.mean
    assert torch.equal(latents, means(read)[data.held_out])
    for positions in torch.arange(36).split(9):
        batch = data.fetch(positions).moments.mean
        assert not any(torch.equal(one, other) for one in batch for other in latents)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_without_a_split_copies_of_a_picture_stay_together(share: float, cache: Path) -> None:
    read = LatentCache(cache)
    twice = [join_indices([(read.index, ["16x16"])] * 2, ["16x16"])]
    read.index = replace(twice[0], held_out=torch.zeros(24, dtype=torch.bool))
    read.sets = [24]
    [train], held_out = split_held_out(read, share)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(24))
    assert not set((train % 12).tolist()) & set((held_out % 12).tolist())
    assert share not in (0.0, 1.0) or len(held_out) == 24 * share


def test_a_cache_that_is_all_held_out_cannot_be_trained_on(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    folder = copy(pictures, tmp_path / "source")
    rows = [json.loads(line) | {"split": "test"} for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode(folder, tmp_path / "cache").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run")
    assert answer.code == 1
    assert "no example to train on: all 12 are held out" in answer.err
