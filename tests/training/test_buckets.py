"""Pictures of many aspects, end to end: cut to the nearest shape, one shape a batch, trained, resumed, validated."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.crops import Buckets
from ldm_train.data.pictures.decoding import decode_picture, render_view
from ldm_train.data.pictures.images import to_signed
from ldm_train.training.validation.fixed_losses import measure_losses
from ldm_train.training.validation.validation_callback import ValidationCallback

SIZES = [(16, 16), (40, 20), (20, 40), (30, 31), (17, 16), (50, 34), (8, 16), (16, 64), (33, 50)]
WORDS = ["crop=buckets", "crop.step=4", "image_size=16"]
QUICK = ["pictures.steps=1", "pictures.count=1", "pictures.every=100", "validation.every=100"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen pictures of nine sizes (height, width), of noise; every sixth held out."""
    folder, rows, chance = tmp_path_factory.mktemp("mixed"), [], random.Random(0)
    for number in range(18):
        height, width = SIZES[number % 9]
        name = f"{number:02d}.png"
        Image.frombytes("RGB", (width, height), chance.randbytes(3 * width * height)).save(folder / name)
        rows.append({"file_name": name, "text": name} | ({"split": "test"} if number % 6 == 0 else {}))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def bucketed(mixed: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bucketed") / "cache"
    answer = encode(mixed, folder, "dtype=float32", *WORDS)
    assert answer.code == 0, answer.err
    assert "of which the crop cuts away" in answer.out
    return folder


def test_each_picture_is_in_the_bucket_of_its_aspect_as_its_view_cuts_it(bucketed: Path, mixed: Path) -> None:
    read, crop = LatentCache(bucketed), Buckets(16, step=4)
    assert len(read.manifest.buckets) == 3
    for number, entry in enumerate(read.entries):
        height, width = SIZES[int(entry.key[:2]) % 9]
        (view,) = crop((height, width), entry.picture)
        assert entry.size == read.index.size[number].tolist() == [height, width]
        assert entry.bucket == f"{view.height}x{view.width}"
        assert read.shapes[number].tolist() == [view.height, view.width]
        expected = [view.resized_height, view.resized_width, view.top, view.left, 0]
        assert entry.views == read.index.views[number].tolist() == [expected]
        image = to_signed(
            torch.from_numpy(render_view(decode_picture((mixed / entry.key).read_bytes()), view)).permute(2, 0, 1)
        )
        assert torch.equal(read.moments(torch.tensor([number]), torch.tensor([0])).mean[0], image)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_are_of_one_shape_and_every_example_comes_alike(bucketed: Path, batch_size: int) -> None:
    read = LatentCache(bucketed)
    data = CachedLatents(read, batch_size=batch_size)
    times = torch.zeros(18, dtype=torch.int64)
    for positions in torch.arange(15 * batch_size).split(batch_size):
        examples = data.order(positions)
        batch = data.fetch(positions)
        shapes = {read.entries[example].bucket for example in examples.tolist()}
        assert shapes == {f"{batch.moments.mean.shape[2]}x{batch.moments.mean.shape[3]}"}
        times += examples.bincount(minlength=18)
    assert times[data.train[0]].tolist() == [batch_size] * 15
    assert not times[data.held_out].any()


def test_statistics_count_each_picture_alike(bucketed: Path) -> None:
    read = LatentCache(bucketed)
    every = [read.moments(torch.tensor([n]), torch.tensor([0])).mean[0].double() for n in range(18)]
    mean = torch.stack([one.mean((1, 2)) for one in every]).mean(0)
    square = torch.stack([one.square().mean((1, 2)) for one in every]).mean(0)
    assert read.manifest.mean == pytest.approx(mean.tolist(), rel=1e-5, abs=1e-7)
    assert read.manifest.std == pytest.approx((square - mean.square()).sqrt().tolist(), rel=1e-5)


def test_portions_of_held_out_examples_are_of_one_bucket_and_all_of_them(bucketed: Path) -> None:
    data = CachedLatents(LatentCache(bucketed), batch_size=4)
    portions = list(data.portions(data.held_out, 2))
    assert sorted(torch.cat(portions).tolist()) == [0, 1, 2]
    for portion in portions:
        assert data.fixed_batch(data.held_out[portion], portion).moments.mean.shape[0] == len(portion) <= 2


def test_a_resumed_run_is_the_one_that_was_never_interrupted(
    bucketed: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    words = [*QUICK, "max_steps=5", "batch_size=3", "micro_batch_size=1"]
    answer = train(bucketed, tmp_path / "whole", *words)
    assert answer.code == 0, answer.err
    with power_cut(3):
        train(bucketed, tmp_path / "cut", *words)
    assert train(bucketed, tmp_path / "cut", *words).code == 0
    assert (tmp_path / "whole/metrics.jsonl").read_text() == (tmp_path / "cut/metrics.jsonl").read_text()
    one, other = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("whole", "cut")
    )
    assert_close(one, other, rtol=0, atol=0)


def test_the_validation_loss_knows_no_batch_size(
    bucketed: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, float]] = []

    def at_the_end(self: ValidationCallback, trainer: object, module: object, *rest: object) -> None:
        for batch_size, world in ((1, 1), (2, 1), (64, 1)):
            losses = measure_losses(
                module, trainer.datamodule, trainer.datamodule.held_out, batch_size=batch_size, repeats=2, world=world
            )  # type: ignore[arg-type, attr-defined]
            found.append(losses.scalars())

    monkeypatch.setattr(ValidationCallback, "on_train_batch_end", at_the_end)
    assert train(bucketed, tmp_path / "run", *QUICK, "max_steps=1").code == 0
    assert len(found) == 3
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-5)


def test_shapes_that_the_autoencoder_cannot_divide_are_refused(mixed: Path, encode: Callable, tmp_path: Path) -> None:
    from ldm_train.autoencoders.autoencoder import NewKLAutoencoder

    NewKLAutoencoder([8, 8, 8], groups=4).save(tmp_path / "kl", shift=0.0, scale=1.0)
    words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl", "crop=buckets", "crop.step=2"]
    answer = encode(mixed, tmp_path / "cache", *words)
    assert answer.code == 1
    assert "multiples of 4" in answer.err
    assert list(tmp_path.iterdir()) == [tmp_path / "kl"]


def test_shapes_that_the_network_cannot_divide_are_refused_before_training(
    mixed: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    assert encode(mixed, tmp_path / "cache", "crop=buckets", "crop.step=1", "crop.max_aspect=1.5").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", *QUICK)
    assert answer.code == 1
    assert "multiples of 4" in answer.err
    assert not (tmp_path / "run").exists(), "a run of which some batches fit would end in the middle"
