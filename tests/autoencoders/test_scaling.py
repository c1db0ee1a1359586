"""Shift and scale: what is far from deviation 1 is refused, by its usual cause, with the numbers that mend it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder, pretrained
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.cache.manifest import read_manifest
from ldm_train.data.cache.reader import LatentCache


def statistics(raw: torch.Tensor) -> tuple[list[float], list[float]]:
    return raw.mean((0, 2, 3)).tolist(), raw.std((0, 2, 3), correction=0).tolist()


def raw_latents(mean: float, deviation: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 4, 8, 8, generator=generator)
    return mean + deviation * (normal - normal.mean()) / normal.std()


def proposed(reported: str) -> Scaling:
    found = re.search(r"autoencoder\.shift=(\S+) autoencoder\.scale=(\S+)", reported)
    assert found
    return Scaling(float(found[1]), float(found[2]))


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (3.0, 5.5), (-0.2, 0.02), (100.0, 0.5)])
@pytest.mark.parametrize("off", [0.1, 10.0])
def test_a_scale_off_by_ten_is_a_problem_and_the_proposed_one_gives_1(
    mean: float, deviation: float, off: float, channels: int
) -> None:
    raw = raw_latents(mean, deviation)[:, :channels] + torch.arange(channels).view(-1, 1, 1) * deviation
    right = Scaling.measured(raw)
    assert right.problem(*statistics(raw)) is None
    reported = Scaling(right.shift, right.scale * off).problem(*statistics(raw))
    assert reported is not None
    better = proposed(reported)
    assert better.problem(*statistics(raw)) is None
    assert_close(better.to_model(raw).square().mean().sqrt(), torch.tensor(1.0), rtol=0.02, atol=0)
    assert_close(better.to_raw(better.to_model(raw)), raw, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("deviation", "scale", "cause"),
    [
        (5.5, 1.0, "missing scale"),
        (1.0, 0.18215, "scaled already"),
        (0.5, 0.18215, r"another range than \[-1, 1\]"),
    ],
)
def test_the_usual_cause_is_named(deviation: float, scale: float, cause: str) -> None:
    reported = Scaling(0.0, scale).problem(*statistics(raw_latents(0.0, deviation)))
    assert reported is not None
    assert re.search(cause, reported)


def test_latents_that_are_all_the_same_are_a_problem_without_an_error() -> None:
    assert Scaling(0.0, 1.0).problem([0.0], [0.0]) is not None


@pytest.fixture(scope="module")
def autoencoder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """`autoencoder(10)`: one whose scale is ten times the right one for the pictures."""
    from ldm_train.data.pictures.images import read_image, to_signed

    model = NewKLAutoencoder([8, 8], groups=4).initialise(0)
    images = to_signed(torch.stack([read_image(path, 16) for path in sorted(pictures.glob("*.png"))]))
    with torch.no_grad():
        right = Scaling.measured(model.encode(images).mean)

    def save(off: float) -> Path:
        folder = tmp_path_factory.mktemp("autoencoders") / "kl"
        model.save(folder, shift=right.shift, scale=right.scale * off)
        return folder

    return save


@pytest.mark.parametrize("off", [10.0])
def test_a_wrong_scale_is_refused_by_encode_and_train_until_reported_otherwise_or_mended(
    off: float, autoencoder: Callable, pictures: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    words = ["autoencoder=pretrained", f"autoencoder.weights={autoencoder(off)}"]
    folder = tmp_path / "cache"
    refused = encode(pictures, folder, *words)
    assert refused.code == 1
    assert "scale_check=false encodes nevertheless" in refused.err
    assert not folder.exists()
    assert encode(pictures, folder, *words, "scale_check=false").code == 0
    answer = train(folder, tmp_path / "run", "max_steps=1")
    assert answer.code == 1
    assert "scale_check=false trains nevertheless" in answer.err
    assert "deviation" in answer.err
    assert train(folder, tmp_path / "run", "max_steps=1", "pictures.steps=1", "scale_check=false").code == 0
    better = proposed(" ".join(refused.err.split()))
    mended = [f"autoencoder.shift={better.shift}", f"autoencoder.scale={better.scale}"]
    before = (folder / "latents-16x16-00000.safetensors").stat().st_ino
    answer = encode(pictures, folder, *words, *mended)
    assert answer.code == 0, answer.err
    manifest = read_manifest(folder)
    found = Scaling(manifest.shift, manifest.scale)
    assert found.deviation(manifest.mean, manifest.std) == pytest.approx(1, abs=0.02)
    assert (folder / "latents-16x16-00000.safetensors").stat().st_ino == before, "raw latents know no scale"


def test_what_was_encoded_before_the_refusal_is_used_after_it(
    autoencoder: Callable, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    words = ["autoencoder=pretrained", f"autoencoder.weights={autoencoder(0.1)}"]
    refused = encode(pictures, tmp_path / "cache", *words)
    better = proposed(" ".join(refused.err.split()))
    answer = encode(
        pictures, tmp_path / "cache", *words, f"autoencoder.shift={better.shift}", f"autoencoder.scale={better.scale}"
    )
    assert answer.code == 0
    assert "12 pictures and captions were encoded before an interruption" in answer.out, "the first batch was enough"


def test_raw_latents_are_stored_as_the_autoencoder_gives_them(
    autoencoder: Callable, pictures: Path, encode: Callable, tmp_path: Path
) -> None:
    folder, weights = tmp_path / "cache", autoencoder(1.0)
    words = ["autoencoder=pretrained", f"autoencoder.weights={weights}", "dtype=float32"]
    assert encode(pictures, folder, *words).code == 0
    read = LatentCache(folder)
    from ldm_train.data.pictures.images import read_image, to_signed

    images = to_signed(torch.stack([read_image(pictures / entry.key, 16) for entry in read.entries]))
    with torch.no_grad():
        direct = pretrained(str(weights)).encode(images)
    every = torch.arange(len(images))
    stored = read.moments(every, torch.zeros_like(every))
    assert stored.log_variance is not None
    assert_close(stored.mean, direct.mean, rtol=1e-4, atol=1e-5)
    assert_close(stored.log_variance, direct.log_variance, rtol=1e-4, atol=1e-5)


def test_a_scale_alone_changes_no_row(autoencoder: Callable, pictures: Path, encode: Callable, tmp_path: Path) -> None:
    words = ["autoencoder=pretrained", f"autoencoder.weights={autoencoder(1.0)}"]
    assert encode(pictures, tmp_path / "cache", *words).code == 0
    scale = read_manifest(tmp_path / "cache").scale
    assert encode(pictures, tmp_path / "cache", *words, f"autoencoder.scale={scale * 1.5}").code == 0
    assert json.loads((tmp_path / "cache/manifest.json").read_text())["scale"] == pytest.approx(scale * 1.5)
