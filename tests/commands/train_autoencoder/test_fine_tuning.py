"""`train_autoencoder` with trained weights: what it starts from, and by how much it helped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder, pretrained
from ldm_train.settings.composition import ConfigError, compose_as
from ldm_train.settings.schema.options import select
from ldm_train.settings.schema.training import AutoencoderTrainingSettings

SHORT = ["image_size=16", "max_steps=4", "batch_size=4", "micro_batch_size=4", "optimizer.lr=1e-3"]
SHORT += ["lr_schedule.warmup_steps=1", "checkpoint.every=2", "pictures.every=2", "trainer.log_every_n_steps=1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published autoencoder's folder."""
    folder = tmp_path_factory.mktemp("weights") / "small"
    NewKLAutoencoder([8, 16], groups=4).initialise(3).save(folder, shift=0.0, scale=1.0)
    return folder


@pytest.fixture(scope="module")
def adapt(ldm_train: Callable, pictures: Path, weights: Path) -> Callable:
    """`adapt(run_dir, *overrides)`: four steps from these weights on the pictures."""
    return lambda run_dir, *more: ldm_train(
        "train_autoencoder",
        f"source.path={pictures}",
        f"run_dir={run_dir}",
        *([] if any(word.startswith("autoencoder") for word in more) else [f"autoencoder.weights={weights}"]),
        *SHORT,
        *more,
    )


def read_report(run_dir: Path) -> dict:
    report: dict = json.loads((run_dir / "autoencoder/training.json").read_text())
    return report


def compose(*words: str) -> AutoencoderTrainingSettings:
    return compose_as(AutoencoderTrainingSettings, ["source.path=x", "run_dir=y", *words])


@pytest.mark.parametrize("word", ["autoencoder.weights=openmoji", "autoencoder=openmoji"])
def test_trained_weights_change_the_defaults_and_ones_own_settings_win(word: str) -> None:
    new, adapted = compose(), compose(word)
    assert new.autoencoder is None
    assert new.architecture is not None
    assert adapted.architecture is None
    assert select(adapted, "autoencoder.weights") == "openmoji"
    assert select(adapted, "optimizer.lr") < select(new, "optimizer.lr")
    assert adapted.max_steps < new.max_steps
    given = compose(word, "optimizer.lr=0.5", "max_steps=9")
    assert (select(given, "optimizer.lr"), given.max_steps) == (0.5, 9)


@pytest.mark.parametrize("word", ["architecture=kl_f8", "architecture.channels=[8,16]"])
def test_an_architecture_next_to_trained_weights_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose("autoencoder.weights=openmoji", word)
    assert word.partition("=")[0] in str(error.value)
    assert "autoencoder.weights" in str(error.value)


@pytest.mark.slow
def test_it_starts_from_the_weights_and_says_how_many_db_it_gained(adapt: Callable, weights: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    answer = adapt(run_dir, "optimizer.lr=5e-3", "max_steps=20", "pictures.every=20")
    assert answer.code == 0, answer.err
    report = read_report(run_dir)
    assert report["start"] == str(weights)
    assert [line["step"] for line in report["curve"]] == [0, 20]
    for name, of in {"held_out_psnr": "held-out", "train_psnr": "trained"}.items():
        before, after = report["before"][name], report[name]
        assert after > before
        assert report["curve"][0][name] == before
        assert f"{of} pictures: {before:.1f} dB before, {after:.1f} dB after ({after - before:+.1f} dB)" in answer.out
    assert (run_dir / "samples/step-00000000.png").is_file()
    assert "go on using" not in answer.out + answer.err


@pytest.mark.slow
def test_what_it_measures_before_is_the_weights_own(adapt: Callable, weights: Path, tmp_path: Path) -> None:
    """With a rate of 0 the autoencoder stays as it was, which is no improvement, and it says so."""
    answer = adapt(tmp_path / "run", "optimizer.lr=0")
    assert answer.code == 0, answer.err
    report = read_report(tmp_path / "run")
    assert report["held_out_psnr"] == pytest.approx(report["before"]["held_out_psnr"])
    assert f"go on using autoencoder.weights={weights}" in answer.out + answer.err
    saved = pretrained(str(tmp_path / "run/autoencoder")).state_dict()
    assert_close(saved, pretrained(str(weights)).state_dict(), rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_never_interrupted(adapt: Callable, power_cut: Callable, tmp_path: Path) -> None:
    assert adapt(tmp_path / "whole").code == 0
    with power_cut(3):
        adapt(tmp_path / "cut")
    assert adapt(tmp_path / "cut").code == 0
    for name in ("metrics.jsonl", "autoencoder/diffusion_pytorch_model.safetensors", "autoencoder/config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert read_report(tmp_path / "cut")["before"] == read_report(tmp_path / "whole")["before"]


@pytest.mark.slow
def test_it_continues_from_weights_that_moved_and_from_no_others(adapt: Callable, weights: Path, tmp_path: Path) -> None:
    run_dir, moved, other = tmp_path / "run", tmp_path / "moved", tmp_path / "other"
    assert adapt(run_dir).code == 0
    shutil.copytree(weights, moved)
    answer = adapt(run_dir, f"autoencoder.weights={moved}", "max_steps=5")
    assert answer.code == 0, answer.err
    NewKLAutoencoder([8, 16], groups=4).initialise(4).save(other, shift=0.0, scale=1.0)
    answer = adapt(run_dir, f"autoencoder.weights={other}", "max_steps=6")
    assert answer.code == 1
    assert f"autoencoder.weights={other}: then " in answer.err


@pytest.mark.slow
def test_an_autoencoder_without_weights_is_refused(adapt: Callable, tmp_path: Path) -> None:
    answer = adapt(tmp_path / "run", "autoencoder=identity")
    assert answer.code == 1
    assert "IdentityAutoencoder" in answer.err
    answer = adapt(tmp_path / "run", "autoencoder=null", "architecture=null")
    assert answer.code == 1
    assert "architecture=kl_f4" in answer.err


@pytest.fixture
def uncaptioned(tmp_path: Path) -> Path:
    """Forty pictures without captions."""
    folder = tmp_path / "uncaptioned"
    folder.mkdir()
    for number in range(40):
        pixels = torch.randint(256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.slow
def test_pictures_need_no_captions_and_a_share_is_held_out(adapt: Callable, uncaptioned: Path, tmp_path: Path) -> None:
    answer = adapt(tmp_path / "run", f"source.path={uncaptioned}", "held_out=0.25")
    assert answer.code == 0, answer.err
    record = json.loads((tmp_path / "run/run.json").read_text())["content"]
    held_out = int(record.partition("(")[2].partition(" ")[0])
    assert record.startswith("40 pictures (")
    assert 3 <= held_out <= 18
    assert "held_out_psnr" in read_report(tmp_path / "run")
    answer = adapt(tmp_path / "other", f"source.path={uncaptioned}", "held_out=0")
    assert answer.code == 0, answer.err
    assert "held_out_psnr" not in read_report(tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize(("most", "code"), [(0.5, 1), (0.7, 0), (1, 0)])
def test_unusable_pictures_beyond_max_unusable_stop_it(
    most: float, code: int, adapt: Callable, uncaptioned: Path, tmp_path: Path
) -> None:
    for path in sorted(uncaptioned.iterdir())[:25]:
        path.write_bytes(b"no picture")
    answer = adapt(tmp_path / "run", f"source.path={uncaptioned}", f"max_unusable={most}")
    assert answer.code == code, answer.err
    assert code == 0 or "25 of 40 pictures" in answer.err


@pytest.mark.slow
def test_a_source_without_usable_pictures_is_refused(adapt: Callable, uncaptioned: Path, tmp_path: Path) -> None:
    for path in uncaptioned.iterdir():
        path.write_bytes(b"no picture")
    answer = adapt(tmp_path / "run", f"source.path={uncaptioned}", "max_unusable=1")
    assert answer.code == 1
    assert "nothing in the source can be used" in answer.err
