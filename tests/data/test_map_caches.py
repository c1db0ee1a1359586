"""Maps in caches: stored in the rows of their pictures, which are named by the bytes of both; also on the fly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.data.cache.entries import name_content
from ldm_train.data.cache.joined_caches import JoinedCaches
from ldm_train.data.cache.manifest import check_cache_matches, read_manifest
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import to_signed
from ldm_train.training.encoding import Encoding, Loaded
from tests.data.map_files import deep_png, npy, png

EXACT = "dtype=float32"
DEPTH = ["source.maps={depth:depth/{stem}.png}", "conditions=[{map:{name:depth}}]"]
SIZES = [(16, 16), (20, 40), (48, 24), (32, 32)]
BUCKETS = ["crop=buckets", "crop.step=8", "crop.mirrored=true"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight captioned pictures in grey of four sizes, with maps of 8 bits that are equal to them, and labels."""
    folder, chance, rows = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0), []
    for name in ("depth", "labels"):
        (folder / name).mkdir()
    for number in range(8):
        height, width = SIZES[number % 4]
        coarse = Image.fromarray(chance.integers(0, 256, (4, 4), dtype=np.uint8))
        grey = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        Image.fromarray(grey).convert("RGB").save(folder / f"{number}.png")
        (folder / "depth" / f"{number}.png").write_bytes(png(grey))
        (folder / "labels" / f"{number}.npy").write_bytes(npy(chance.integers(0, 4, (height, width), dtype=np.uint8)))
        rows.append({"file_name": f"{number}.png", "text": f"caption {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def source(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "source"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the rows that are encoded: "picture" and "caption"."""
    found: list[str] = []
    original = Encoding.predict_step

    def step(self: Encoding, batch: Loaded, batch_idx: int) -> dict[str, torch.Tensor]:
        found.extend(["caption" if batch.images is None else "picture"] * len(batch.names))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Encoding, "predict_step", step)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def rows_of(cache: LatentCache, name: str) -> list[torch.Tensor]:
    """All views of each example's map, in the order of the examples."""
    return [
        torch.cat([cache.maps(name, torch.tensor([example]), torch.tensor([view])) for view in range(int(views))])
        for example, views in enumerate(cache.index.num_views)
    ]


@pytest.mark.parametrize(
    "crop", [["crop=centre"], ["crop=random", "crop.views=3"], BUCKETS, ["crop=fit", "background=black"]]
)
def test_a_map_equal_to_its_picture_is_stored_equal_in_every_view(
    crop: list[str], scenes: Path, encode: Callable, tmp_path: Path
) -> None:
    answer = encode(scenes, tmp_path / "cache", EXACT, *crop, *DEPTH)
    assert answer.code == 0, answer.err
    read = LatentCache(tmp_path / "cache")
    for example, stored in enumerate(rows_of(read, "depth")):
        views = len(stored)
        images = read.moments(torch.full((views,), example), torch.arange(views)).mean
        assert stored.shape[1:] == (1, *read.shapes[example].tolist())
        # The picture is resized by cubic interpolation, and the map linearly.
        assert (stored - images[:, :1]).abs().mean() < 0.04
        assert (stored.flip(-1) - images[:, :1]).abs().mean() > 0.1
        if read.entries[example].size == read.shapes[example].tolist() and "crop=fit" not in crop:
            torch.testing.assert_close(stored, images[:, :1], atol=1e-6, rtol=0)


def test_latents_of_a_factor_have_smaller_maps_or_encoded_ones(scenes: Path, encode: Callable, tmp_path: Path) -> None:
    autoencoder = NewKLAutoencoder([8, 8], groups=4).initialise(0)
    autoencoder.save(tmp_path / "kl", shift=0.0, scale=3.0)
    words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl", EXACT, "scale_check=false"]
    maps = [
        "source.maps={depth:depth/{stem}.png,drawn:depth/{stem}.png,labels:labels/{stem}.npy}",
        "conditions=[{map:{name:depth}},{map:{name:drawn,encoded:true}},{map:{name:labels,nearest:true}}]",
    ]
    answer = encode(scenes, tmp_path / "cache", *words, *maps)
    assert answer.code == 0, answer.err
    read = LatentCache(tmp_path / "cache")
    whole, first = torch.arange(8), torch.zeros(8, dtype=torch.long)
    assert read.manifest.factor == autoencoder.factor == 2
    assert read.maps("depth", whole, first).shape == (8, 1, 8, 8)
    labels = read.maps("labels", whole, first)
    assert {*((labels.double() + 1) * 127.5).round().unique().tolist()} == {0, 1, 2, 3}
    assert torch.equal(labels, (((labels + 1) * 127.5).round() / 127.5 - 1))
    mean = read.moments(whole, first).mean
    drawn = read.maps("drawn", whole, first)
    assert drawn.shape == mean.shape
    # Where a picture is not resized, its map as a picture is the picture itself.
    same = [number for number, entry in enumerate(read.entries) if entry.size == [16, 16]]
    assert torch.equal(drawn[same], mean[same])


def test_sixteen_bits_reach_the_cache(source: Path, encode: Callable, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (16, 16, 1), dtype=np.uint16)
    (source / "depth/0.png").write_bytes(deep_png(pixels))
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH).code == 0
    stored = rows_of(LatentCache(tmp_path / "cache"), "depth")[0]
    assert np.array_equal(((stored.double() + 1) * 32767.5).round()[0, 0].numpy().astype(np.uint16), pixels[..., 0])


def test_a_changed_map_encodes_its_picture_anew_and_nothing_else(
    source: Path, encode: Callable, tmp_path: Path, counted: list[str]
) -> None:
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH).code == 0
    assert counted.count("picture") == 8
    counted.clear()
    (source / "depth/3.png").write_bytes(png(np.full((32, 32), 9, dtype=np.uint8)))
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH).code == 0
    assert counted == ["picture"]
    new = Path(shutil.copytree(tmp_path / "cache", tmp_path / "before"))
    shutil.rmtree(tmp_path / "cache")
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH).code == 0
    assert contents(tmp_path / "cache") == contents(new)
    counted.clear()
    (source / "depth/3.png").rename(source / "moved.png")
    shutil.move(source / "depth", source / "far")
    shutil.move(source / "moved.png", source / "far/3.png")
    elsewhere = ["source.maps={depth:far/{stem}.png}", DEPTH[1]]
    assert "nothing changed" in encode(source, tmp_path / "cache", EXACT, *elsewhere).out
    assert counted == []


def test_copies_of_a_picture_share_a_row_if_their_maps_are_the_same(source: Path, encode: Callable, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    for name, depth in (("x", "0"), ("y", "4")):
        shutil.copy(source / "0.png", source / f"{name}.png")
        shutil.copy(source / f"depth/{depth}.png", source / f"depth/{name}.png")
        rows.append({"file_name": f"{name}.png", "text": name})
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH).code == 0
    read = LatentCache(tmp_path / "cache")
    entries = {entry.key: entry for entry in read.entries}
    assert entries["0.png"].row == entries["x.png"].row != entries["y.png"].row
    assert entries["0.png"].picture == entries["y.png"].picture
    stored = rows_of(read, "depth")
    keys = [entry.key for entry in read.entries]
    assert torch.equal(stored[keys.index("y.png")], stored[keys.index("4.png")])


def test_a_condition_that_is_added_or_changed_encodes_pictures_anew_and_keeps_captions(
    scenes: Path, encode: Callable, tmp_path: Path, counted: list[str]
) -> None:
    plain = [EXACT, DEPTH[0]]
    first = encode(scenes, tmp_path / "cache", *plain)
    assert first.code == 0, first.err
    assert "source.maps: depth is not read" in first.out
    before = contents(tmp_path / "cache")
    for words in (DEPTH, [DEPTH[0], "conditions=[{map:{name:depth,nearest:true}}]"], [DEPTH[0]]):
        counted.clear()
        answer = encode(scenes, tmp_path / "cache", EXACT, *words)
        assert answer.code == 0, answer.err
        assert counted == ["picture"] * 8
        assert "encoding.pictures.maps" in answer.out
    assert contents(tmp_path / "cache") == before


def test_a_cache_without_maps_does_not_mention_them(scenes: Path, encode: Callable, tmp_path: Path) -> None:
    assert encode(scenes, tmp_path / "cache", EXACT, DEPTH[0]).code == 0
    manifest = read_manifest(tmp_path / "cache")
    assert set(manifest.encoding["pictures"]) == {"version", "background", "crop", "autoencoder", "dtype"}  # type: ignore[arg-type]
    for line in (tmp_path / "cache/entries.jsonl").read_text().splitlines():
        assert set(json.loads(line)) == {
            *("key", "picture", "size", "bucket", "row", "views", "captions", "held_out", "fields"),
        }
    assert name_content("abc", {}) == "abc"


FAULTS = {
    "missing": (None, "map depth is missing"),
    "damaged": (b"\x89PNG\r\n\x1a\n", "map depth does not decode"),
    "aspect": (png(np.zeros((16, 8), dtype=np.uint8)), "another aspect ratio"),
    "cut": (png(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8))[:-40], "map depth does not decode"),
    "channels": (npy(np.zeros((16, 16, 4), dtype=np.uint8)), "channels=1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_picture_with_a_map_that_cannot_be_used_is_left_out_by_name(
    fault: str, source: Path, encode: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    content, says = FAULTS[fault]
    path = source / "depth/4.png"
    path.unlink() if content is None else path.write_bytes(content)
    answer = encode(source, tmp_path / "cache", EXACT, *DEPTH, "strict=true")
    assert answer.code == 1
    assert "left out 4.png: " in answer.out
    assert says in answer.out
    (left_out,) = json.loads((tmp_path / "cache/report.json").read_text())["left_out"]
    assert left_out["key"] == "4.png"
    assert len(LatentCache(tmp_path / "cache")) == 7
    checked = ldm_train("check", f"source.path={source}", "image_size=16", "autoencoder=identity", *DEPTH, "measure=false")
    assert checked.code == 1
    assert "4.png" in checked.out
    assert says in checked.out
    (source / "depth/4.png").write_bytes((source / "depth/0.png").read_bytes())
    assert encode(source, tmp_path / "cache", EXACT, *DEPTH, "strict=true").code == 0


def test_a_map_that_was_refused_is_tried_again_as_another_kind(source: Path, encode: Callable, tmp_path: Path) -> None:
    (source / "depth/4.png").write_bytes(npy(np.zeros((16, 16, 4), dtype=np.uint8)))
    assert "left out 4.png" in encode(source, tmp_path / "cache", EXACT, *DEPTH).out
    for number in (0, 1, 2, 3, 5, 6, 7):
        height, width = SIZES[number % 4]
        (source / f"depth/{number}.png").write_bytes(npy(np.zeros((height, width, 4), dtype=np.uint8)))
    answer = encode(source, tmp_path / "cache", EXACT, DEPTH[0], "conditions=[{map:{name:depth,channels:4}}]")
    assert answer.code == 0, answer.err
    assert "left out" not in answer.out
    assert len(LatentCache(tmp_path / "cache")) == 8


def test_a_run_that_expects_maps_refuses_a_cache_without_them_and_the_other_way_round(
    scenes: Path, encode: Callable, tmp_path: Path
) -> None:
    assert encode(scenes, tmp_path / "maps", EXACT, *DEPTH).code == 0
    assert encode(scenes, tmp_path / "none", EXACT, DEPTH[0]).code == 0
    maps, none = read_manifest(tmp_path / "maps"), read_manifest(tmp_path / "none")
    check_cache_matches(maps, maps.expected_of_a_run, cache=tmp_path, mend=[])
    for found, expected in ((maps, none), (none, maps)):
        with pytest.raises(ValueError, match=r"(?s)maps\.depth.*add this,"):
            check_cache_matches(found, expected.expected_of_a_run, cache=tmp_path, mend=[], fit=["add this"])
    with pytest.raises(ValueError, match=r"maps\.depth"):
        JoinedCaches([LatentCache(tmp_path / "maps"), LatentCache(tmp_path / "none")])
    with pytest.raises(ValueError, match="no map depth"):
        LatentCache(tmp_path / "none").maps("depth", torch.tensor([0]), torch.tensor([0]))


def test_joined_caches_have_the_maps_of_their_own(scenes: Path, encode: Callable, tmp_path: Path) -> None:
    other = Path(shutil.copytree(scenes, tmp_path / "other"))
    for number in range(8):
        shape = SIZES[number % 4]
        (other / f"depth/{number}.png").write_bytes(png(np.full(shape, 7 * number, dtype=np.uint8)))
    for source in (scenes, other):
        assert encode(source, tmp_path / f"cache-{source.name}", EXACT, *DEPTH).code == 0
    parts = [LatentCache(tmp_path / f"cache-{source.name}") for source in (scenes, other)]
    both, examples = JoinedCaches(parts), torch.tensor([9, 1, 15, 0])
    stored = [part.maps("depth", torch.tensor([number]), torch.tensor([0])) for part in parts for number in range(8)]
    found = both.maps("depth", examples, torch.zeros(4, dtype=torch.long))
    assert torch.equal(found, torch.cat([stored[number] for number in examples.tolist()]))


def test_a_batch_encoded_on_the_fly_has_the_maps_of_the_cache(scenes: Path, encode: Callable, tmp_path: Path) -> None:
    from ldm_train.assembly.training_data import open_data
    from ldm_train.settings.composition import compose

    NewKLAutoencoder([8, 8], groups=4).initialise(0).save(tmp_path / "kl", shift=0.0, scale=3.0)
    words = [
        "autoencoder=pretrained",
        f"autoencoder.weights={tmp_path}/kl",
        EXACT,
        "scale_check=false",
        "crop.mirrored=true",
    ]
    maps = [
        "source.maps={depth:depth/{stem}.png,drawn:depth/{stem}.png}",
        "conditions=[{map:{name:depth}},{map:{name:drawn,encoded:true}}]",
    ]
    answer = encode(scenes, tmp_path / "cache", *words, *maps)
    assert answer.code == 0, answer.err
    stored = LatentCache(tmp_path / "cache")
    text = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
    run = ["cache=null", f"run_dir={tmp_path}/run", "source=folder", f"source.path={scenes}", "image_size=16"]
    live = open_data(compose("train", [*run, *text, *words, *maps]))[2].latents
    examples, views = torch.tensor([3, 0, 5]), torch.tensor([1, 0, 1])
    for first in ("moments", "maps"):
        if first == "moments":
            assert torch.equal(live.moments(examples, views).mean, stored.moments(examples, views).mean)
        for name in ("depth", "drawn"):
            assert torch.equal(live.maps(name, examples, views), stored.maps(name, examples, views))
    assert torch.equal(live.moments(examples, views).mean, stored.moments(examples, views).mean)


def test_images_of_maps_have_the_values_of_pictures() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert torch.equal(
        torch.from_numpy(np.arange(256, dtype=np.float32) / np.float32(127.5) - 1).view(1, 16, 16), to_signed(pixels)
    )
