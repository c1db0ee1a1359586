"""A sample of the pictures is decoded while encoding: what the latents keep is written down and, if little, warned of."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.assembly.decoded_sample import FEWEST, SAMPLE, count_sample, pair_pictures
from ldm_train.assembly.training_data import open_data
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.data.cache.encoding_batches import PictureRow
from ldm_train.data.cache.manifest import read_manifest
from ldm_train.data.cache.quality import LOW_PSNR, NOT_MEASURED, Quality, choose_worst, read_quality, warn_of_low_psnr
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.scan.ordered_pictures import OrderedPictures
from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.sources.items import Item
from ldm_train.settings.composition import compose, compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.run_files import DATA, RECONSTRUCTIONS
from tests.conftest import NETWORK, TEXT

LATENTS = ["autoencoder=openmoji", "image_size=64", "dtype=float32"]
QUALITY_FILES = {"quality.json", "reconstructions.png"}
LOSSY = 17.6


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch) -> None:
    """An autoencoder that decodes everything to grey."""
    decode = KLAutoencoder.decode
    monkeypatch.setattr(KLAutoencoder, "decode", lambda self, latents: 0 * decode(self, latents))


@pytest.fixture(scope="module")
def encoded(pictures: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache of the shipped autoencoder's latents, and what `encode` printed."""
    cache = tmp_path_factory.mktemp("latents") / "cache"
    answer = encode(pictures, cache, *LATENTS)
    assert answer.code == 0, answer.err
    return cache, answer.out


def test_encode_writes_and_prints_how_pictures_come_back(encoded: tuple[Path, str]) -> None:
    cache, out = encoded
    quality = read_quality(cache)
    assert quality.psnr is not None
    assert len(quality.sample) == 12
    assert min(quality.sample.values()) <= quality.psnr <= max(quality.sample.values())
    assert f"{quality.psnr:.1f} dB" in out
    assert str(cache / "reconstructions.png") in out
    assert ("below 25 dB" in out) is (quality.psnr < LOW_PSNR)
    with Image.open(cache / "reconstructions.png") as picture:
        assert picture.width >= 8 * 128, "eight pairs in a row, enlarged"
    assert quality.deviation == pytest.approx(1, abs=1.4)
    assert quality.cut_away == 0


def test_the_cache_itself_does_not_depend_on_these_files(
    encoded: tuple[Path, str], pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    cache = Path(shutil.copytree(encoded[0], tmp_path / "cache"))
    before = read_manifest(cache)
    assert not QUALITY_FILES & before.digests().keys()
    assert encode(pictures, cache, *LATENTS).out.count("nothing to encode") == 1, "and they are no strange files"
    for name in QUALITY_FILES:
        (cache / name).unlink()
    LatentCache(cache).verify()
    assert read_manifest(cache).fingerprint == before.fingerprint
    assert read_quality(cache) == NOT_MEASURED
    answer = encode(pictures, cache, *LATENTS)
    assert "nothing to encode" in answer.out


@pytest.mark.slow
def test_a_cache_brought_up_to_date_has_the_sample_of_a_fresh_one(
    encoded: tuple[Path, str], pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    """Bit for bit, also where other batches were encoded, and where a picture was only dropped."""
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    cache = Path(shutil.copytree(encoded[0], tmp_path / "cache"))
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))
    (source / rows[-1]["file_name"]).unlink()
    assert encode(source, cache, *LATENTS).code == 0
    assert encode(source, tmp_path / "fresh", *LATENTS, "batch_size=5").code == 0
    assert len(read_quality(cache).sample) == 11
    assert contents(cache) == contents(tmp_path / "fresh")


def test_pixels_are_not_decoded(cache: Path) -> None:
    quality = read_quality(cache)
    assert (quality.psnr, quality.deviation, quality.reconstructions) == (None, None, None)
    assert (cache / "quality.json").is_file(), "which has the share that the crop cuts away"


def test_the_crop_s_share_is_written_down(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    for file in source.glob("*.png"):
        with Image.open(file) as picture:
            picture.resize((32, 16)).save(file)
    assert encode(source, tmp_path / "cache").code == 0
    assert read_quality(tmp_path / "cache").cut_away == pytest.approx(0.5)


@pytest.mark.usefixtures("lossy")
@pytest.mark.slow
def test_every_encode_of_lossy_latents_warns_with_commands(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    words = [*LATENTS, "scale_check=false"]
    for _ in range(2):
        out = encode(pictures, tmp_path / "cache", *words).out
        [line] = [line for line in out.splitlines() if "below 25 dB" in line]
        assert line.startswith("warning: ")
        assert f"{read_quality(tmp_path / 'cache').psnr:.1f} dB" in line
        assert f"ldm-train train_autoencoder source=folder source.path={pictures} image_size=64" in out
        assert "autoencoder.weights=openmoji" in out


@pytest.mark.usefixtures("lossy")
def test_training_on_the_fly_measures_too(pictures: Path, tmp_path: Path) -> None:
    words = [f"source.path={pictures}", "source=folder", "cache=null", *LATENTS, "text_encoder=small", *TEXT, *NETWORK]
    settings = compose_as(TrainSettings, [*words, f"run_dir={tmp_path}", "scale_check=false"])
    data = open_data(settings)[2]
    assert data.latents.quality.psnr is not None
    assert data.latents.quality.psnr < 15


@pytest.mark.slow
def test_every_command_on_lossy_latents_warns(
    cache: Path, train: Callable, ldm_train: Callable, encoded: tuple[Path, str], tmp_path: Path
) -> None:
    lossy, run_dir = Path(shutil.copytree(cache, tmp_path / "cache")), tmp_path / "run"
    (lossy / "quality.json").write_text(Quality(psnr=LOSSY).text())
    shutil.copy(encoded[0] / RECONSTRUCTIONS, lossy)
    answers = {
        "train": train(lossy, run_dir, "max_steps=2"),
        "sample": ldm_train("sample", f"run_dir={run_dir}", "prompts=[a]", f"out={tmp_path}/drawn", "steps=2"),
        "evaluate": ldm_train("evaluate", f"run_dir={run_dir}", f"out={tmp_path}/a.json", "features=null", "steps=2"),
        "report": ldm_train("report", f"run_dir={run_dir}", f"out={tmp_path}/a.html"),
    }
    assert {name: answer.code for name, answer in answers.items()} == dict.fromkeys(answers, 0)
    assert [name for name, answer in answers.items() if f"{LOSSY} dB, below 25 dB" not in answer.out + answer.err] == []
    assert (run_dir / RECONSTRUCTIONS).read_bytes() == (lossy / RECONSTRUCTIONS).read_bytes()
    data = json.loads((run_dir / DATA).read_text())
    assert (data["psnr"], data["pictures"], data["held_out"], data["captions"]) == (LOSSY, 9, 3, 9)
    (run_dir / DATA).unlink()
    assert "below 25 dB" not in ldm_train("report", f"run_dir={run_dir}", f"out={tmp_path}/a.html").err


# The warning


@pytest.mark.parametrize("psnr", [None, 25.0, 40.0])
def test_good_or_unknown_latents_are_not_warned_of(psnr: float | None) -> None:
    assert warn_of_low_psnr(psnr, image_size=64, weights="a") == []


@pytest.mark.parametrize(("size", "autoencoder"), [(64, "autoencoder=pretrained"), (256, "autoencoder=sd_vae_ft_mse")])
def test_the_ways_out_can_be_pasted(size: int, autoencoder: str) -> None:
    source, crop = ["source.path=PICTURES"], ["crop=fit"]
    [warning] = warn_of_low_psnr(20.04, image_size=size, weights="some/weights", source=source, crop=crop)
    commands = [line[line.index("ldm-train") :].split() for line in warning.splitlines() if "ldm-train" in line]
    assert {command[1] for command in commands} == {"encode", "train_autoencoder"}
    for command in commands:
        assert {"source.path=PICTURES", f"image_size={size}"} <= {*command}
    for command in (command for command in commands if command[1] == "encode"):
        assert "crop=fit" in command
        compose("encode", command[2:])
    for command in (command for command in commands if command[1] == "train_autoencoder"):
        compose("train_autoencoder", command[2:])
    words = {word for command in commands for word in command}
    assert {autoencoder, "autoencoder=identity", "autoencoder.weights=some/weights"} <= words
    assert "20.0 dB" in warning


DAMAGED = ["", "[]", '{"psnr": "x", "sample": [1], "cut_away": null}', '{"psnr": true, "sample": {"a": "b"}}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "quality.json").write_text(text)
    assert read_quality(tmp_path) == NOT_MEASURED


def test_the_worst_of_several_caches_counts() -> None:
    pixels, good, bad = Quality(cut_away=0.1), Quality(30.0), Quality(20.0)
    assert choose_worst([pixels, good, bad]) is bad
    assert choose_worst([pixels]) is pixels
    assert choose_worst([]) is NOT_MEASURED


@pytest.mark.parametrize(("side", "count"), [(16, SAMPLE), (64, SAMPLE), (128, 8), (256, FEWEST), (1024, FEWEST)])
def test_a_sample_of_large_pictures_is_small(side: int, count: int) -> None:
    assert count_sample([(16, 16), (side, side)]) == count


def test_nan_is_shown_as_a_checkerboard_and_counts_as_lost() -> None:
    seen = ScannedPictures([Scanned(Item("k", None, ("a",), "k"), "0" * 64, (8, 8))])
    plan = SimpleNamespace(scanned=OrderedPictures(seen, np.arange(1)))
    image = torch.full((3, 8, 8), 0.9)
    rows, broken = [PictureRow("", "d", "k", [8, 8])], torch.full((3, 8, 8), torch.nan)
    [picture] = pair_pictures(plan, rows, [image], [broken])  # type: ignore[arg-type]
    assert picture.psnr < 10
    assert len(picture.decoded.unique()) == 2
