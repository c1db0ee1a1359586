"""Training an autoencoder: what it leaves can be used, and an interruption does not show."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.autoencoders.autoencoder import pretrained
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.metrics.pixel_distance import psnr

ALL_TERMS = ["gradient_weight=0.5", "equivariance_weight=0.25"]


@pytest.fixture(scope="module")
def train_autoencoder(ldm_train: Callable, pictures: Path, autoencoder_settings: list[str]) -> Callable:
    """`train_autoencoder(run_dir, *overrides)`: eight steps of a tiny architecture on the pictures."""
    return lambda run_dir, *more: ldm_train(
        "train_autoencoder", f"source.path={pictures}", f"run_dir={run_dir}", *autoencoder_settings, *more
    )


@pytest.fixture(scope="module")
def trained_autoencoder(train_autoencoder: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("autoencoder") / "run"
    answer = train_autoencoder(run_dir)
    assert answer.code == 0, answer.err
    return run_dir


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def images(pictures: Path, *, held_out: bool) -> torch.Tensor:
    items = [item for item in Folder(str(pictures)) if item.held_out is held_out]
    return torch.stack([to_signed(read_image(item.picture.read(), 16)) for item in items])


def test_metrics_and_reconstructions(trained_autoencoder: Path) -> None:
    metrics = lines(trained_autoencoder)
    assert [line["step"] for line in metrics] == list(range(1, 9))
    assert all({"loss", "l1", "mse", "kl", "lr"} <= set(line) for line in metrics)
    assert [line["step"] for line in metrics if "held_out_psnr" in line] == [4, 8]
    for line in metrics:
        assert line["loss"] == pytest.approx(line["l1"] + line["mse"] + 1e-3 * line["kl"], rel=1e-5)
    with Image.open(trained_autoencoder / "samples/step-00000008.png") as picture:
        picture.load()
        assert picture.size == (2 + 18 * 3, 2 + 18 * 2), "three held-out pictures over their reconstructions"


def test_the_shipped_folder_loads_and_scales_latents_to_deviation_one(trained_autoencoder: Path, pictures: Path) -> None:
    autoencoder = pretrained(str(trained_autoencoder / "autoencoder"))
    assert (autoencoder.channels, autoencoder.factor) == (4, 2)
    assert not any(p.requires_grad for p in autoencoder.parameters())
    with torch.no_grad():
        raw = autoencoder.encode(images(pictures, held_out=False)).mean
    latents = Scaling.of(autoencoder).to_model(raw)
    assert raw.shape == (9, 4, 8, 8)
    assert_close(latents.std().item(), 1.0, atol=1e-3, rtol=0)
    assert_close(latents.mean().item(), 0.0, atol=1e-3, rtol=0)


@pytest.mark.parametrize("words", [[], ["ema_length=null"]], ids=["averaged", "raw"])
def test_the_saved_weights_are_the_checkpoints_average_or_else_its_raw_ones(
    words: list[str], trained_autoencoder: Path, train_autoencoder: Callable, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run" if words else trained_autoencoder
    if words:
        assert train_autoencoder(run_dir, *words).code == 0
    checkpoint = torch.load(run_dir / "checkpoints/last.ckpt", weights_only=True)
    expected = checkpoint["state_dict"] if words else checkpoint["callbacks"]["EMA"]["average"]
    loaded = {
        f"autoencoder.{name}": tensor for name, tensor in pretrained(str(run_dir / "autoencoder")).state_dict().items()
    }
    assert_close(loaded, dict(expected), rtol=0, atol=0)
    assert words or not torch.equal(
        *(part["autoencoder.model.encoder.conv_in.weight"] for part in (expected, checkpoint["state_dict"]))
    )


def test_the_files_of_the_saved_autoencoder(trained_autoencoder: Path) -> None:
    assert sorted(path.suffix for path in (trained_autoencoder / "autoencoder").iterdir()) == [
        ".json",
        ".json",
        ".safetensors",
    ]


def test_report_has_the_psnr_of_the_saved_autoencoder(trained_autoencoder: Path, pictures: Path) -> None:
    report = json.loads((trained_autoencoder / "autoencoder/training.json").read_text())
    for name, held_out in {"held_out_psnr": True, "train_psnr": False}.items():
        true = images(pictures, held_out=held_out)
        autoencoder = pretrained(str(trained_autoencoder / "autoencoder"))
        with torch.no_grad():
            decoded = autoencoder.decode(autoencoder.encode(true).mean)
        assert report[name] == pytest.approx(psnr(decoded, true).mean().item(), rel=1e-4)
    assert [line["step"] for line in report["curve"]] == [4, 8]
    autoencoder = pretrained(str(trained_autoencoder / "autoencoder"))
    assert (report["scale"], report["shift"]) == pytest.approx((autoencoder.scale, autoencoder.shift))


def test_encoding_with_it_and_decoding_again(
    trained_autoencoder: Path, pictures: Path, ldm_train: Callable, train: Callable, tmp_path: Path
) -> None:
    weights = trained_autoencoder / "autoencoder"
    words = [
        "autoencoder=pretrained",
        f"autoencoder.weights={weights}",
        "image_size=16",
        "text_encoder.width=32",
        "dtype=float32",
    ]
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={tmp_path}/cache", *words)
    assert answer.code == 0, answer.err
    cache, autoencoder = LatentCache(tmp_path / "cache"), pretrained(str(weights))
    assert (cache.manifest.scale, cache.manifest.shift) == (autoencoder.scale, autoencoder.shift)
    every = torch.arange(len(cache.index))
    moments = cache.moments(every, torch.zeros_like(every))
    with torch.no_grad():
        direct = autoencoder.encode(torch.stack([to_signed(read_image(pictures / e.key, 16)) for e in cache.entries]))
    assert moments.log_variance is not None
    assert direct.log_variance is not None
    assert_close(moments.mean, direct.mean, rtol=1e-4, atol=1e-5)
    assert_close(moments.log_variance, direct.log_variance, rtol=1e-4, atol=1e-5)
    answer = train(tmp_path / "cache", tmp_path / "run", "max_steps=2")
    assert answer.code == 0, answer.err
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(1, abs=0.15), "noise against a network that starts at zero"


@pytest.fixture(scope="module")
def trained_with_all_terms(train_autoencoder: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("all-terms") / "run"
    assert train_autoencoder(run_dir, *ALL_TERMS).code == 0
    return run_dir


@pytest.mark.parametrize("words", [[], ALL_TERMS], ids=["defaults", "all terms"])
def test_a_resumed_run_equals_one_that_was_never_interrupted(
    words: list[str],
    request: pytest.FixtureRequest,
    train_autoencoder: Callable,
    power_cut: Callable,
    tmp_path: Path,
) -> None:
    uninterrupted = request.getfixturevalue("trained_with_all_terms" if words else "trained_autoencoder")
    with power_cut(5):
        train_autoencoder(tmp_path / "run", *words)
    assert not (tmp_path / "run/autoencoder").exists()
    answer = train_autoencoder(tmp_path / "run", *words)
    assert answer.code == 0, answer.err
    assert "at step 3" in answer.out
    for name in ("metrics.jsonl", "autoencoder/diffusion_pytorch_model.safetensors", "autoencoder/config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def test_all_terms_are_logged_and_weighted(trained_with_all_terms: Path) -> None:
    for line in lines(trained_with_all_terms):
        terms = line["l1"] + line["mse"] + 0.5 * line["gradient"] + 1e-3 * line["kl"] + 0.25 * line["equivariance"]
        assert line["loss"] == pytest.approx(terms, rel=1e-5)


def repaint(source: Path) -> None:
    Image.new("RGB", (16, 16), "teal").save(source / "circle-lime.png")


def hold_out(source: Path) -> None:
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    rows = [row | ({"split": "test"} if row["file_name"] == "circle-lime.png" else {}) for row in rows]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def take_one_away(source: Path) -> None:
    rows = (source / "metadata.jsonl").read_text().splitlines(keepends=True)
    (source / "metadata.jsonl").write_text("".join(row for row in rows if "circle-lime" not in row))
    (source / "circle-lime.png").unlink()


@pytest.mark.parametrize(
    ("alter", "reported"),
    [
        (repaint, "now 12 pictures (3 held out)"),
        (hold_out, "now 12 pictures (4 held out)"),
        (take_one_away, "now 11 pictures (3 held out)"),
    ],
)
def test_other_pictures_do_not_continue_a_run(
    alter: Callable, reported: str, trained_autoencoder: Path, train_autoencoder: Callable, pictures: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(trained_autoencoder, tmp_path / "run"))
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    assert train_autoencoder(run_dir, f"source.path={source}", "max_steps=8").code == 0, "the same pictures, elsewhere"
    alter(source)
    before = (run_dir / "metrics.jsonl").read_bytes()
    answer = train_autoencoder(run_dir, f"source.path={source}", "max_steps=9")
    assert answer.code == 1
    assert "the data: then 12 pictures (3 held out)" in answer.err
    assert reported in answer.err
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_accumulation_changes_rounding_alone(trained_autoencoder: Path, train_autoencoder: Callable, tmp_path: Path) -> None:
    assert train_autoencoder(tmp_path / "run", "micro_batch_size=2").code == 0
    for one, other in zip(lines(tmp_path / "run"), lines(trained_autoencoder), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_it_learns(train_autoencoder: Callable, tmp_path: Path) -> None:
    answer = train_autoencoder(tmp_path / "run", "max_steps=50", "batch_size=9", "optimizer.lr=5e-3", "pictures.every=1000")
    assert answer.code == 0, answer.err
    losses = [line["l1"] for line in lines(tmp_path / "run")]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_flips_are_a_setting_of_their_own(trained_autoencoder: Path, train_autoencoder: Callable, tmp_path: Path) -> None:
    """The triangle's mirror image is another picture, so the losses differ; the order and the start do not."""
    assert train_autoencoder(tmp_path / "run", "flip=true", "max_steps=2").code == 0
    assert lines(tmp_path / "run")[0]["kl"] != 0
    assert lines(tmp_path / "run")[0]["loss"] == pytest.approx(lines(trained_autoencoder)[0]["loss"], rel=0.1)


def test_a_source_without_pictures_to_train_on_is_refused(
    pictures: Path, ldm_train: Callable, autoencoder_settings: list[str], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    rows = [json.loads(line) | {"split": "test"} for line in (source / "metadata.jsonl").read_text().splitlines()]
    (source / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = ldm_train("train_autoencoder", f"source.path={source}", f"run_dir={tmp_path}/run", *autoencoder_settings)
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert not (tmp_path / "run/config.yaml").exists()


def test_a_size_that_the_architecture_cannot_halve_is_refused(
    pictures: Path, ldm_train: Callable, autoencoder_settings: list[str], tmp_path: Path
) -> None:
    words = [f"source.path={pictures}", f"run_dir={tmp_path}/run", *autoencoder_settings, "image_size=15"]
    answer = ldm_train("train_autoencoder", *words)
    assert answer.code == 1
    assert "image_size=15 must be a multiple of 2" in answer.err
