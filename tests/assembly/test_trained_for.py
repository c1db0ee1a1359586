"""Weights that were trained for something else than the run that takes them: `train` and `check` name both values."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.trained_for import (
    compare_purposes,
    describe_purpose,
    read_purpose,
    warn_of_other_purpose,
)
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.options import Part
from ldm_train.util.messages import Caution
from tests.conftest import PICTURES, TEXT

QUICK = ["max_steps=1", "pictures.every=1000", "validation.every=1000", "pictures.prompts=[]"]
OTHERS = [
    (["prediction=velocity"], ["prediction=noise", "prediction=velocity"]),
    (["schedule=cosine"], ["schedule=scaled_linear", "schedule=cosine"]),
    (["schedule.shift=2"], ["schedule=scaled_linear, and schedule=scaled_linear schedule.shift=2.0 is set"]),
    (["text_encoder.heads=2"], ["text_encoder.heads: then 4, now 2"]),
]


@pytest.fixture(scope="module")
def exported(trained: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "weights.safetensors"
    assert ldm_train("export", f"run_dir={trained}", f"out={out}").code == 0
    return out


def words_of_check(pictures: Path, train_words: list[str]) -> list[str]:
    kept = [word for word in train_words if word.startswith(("network", "batch_size", "threads", "trainer.accelerator"))]
    return [f"source.path={pictures}", *PICTURES, *TEXT, *kept, "measure=false"]


@pytest.mark.parametrize(("words", "reported"), OTHERS)
@pytest.mark.parametrize("kind", ["run", "file"])
def test_train_and_check_warn_of_another_purpose(
    words: list[str],
    reported: list[str],
    kind: str,
    trained: Path,
    exported: Path,
    cache: Path,
    pictures: Path,
    train: Callable,
    ldm_train: Callable,
    train_words: list[str],
    tmp_path: Path,
) -> None:
    weights = trained if kind == "run" else exported
    if words[0].startswith("text_encoder"):
        words = ["text_encoder=small", *TEXT, *words]
    answer = train(cache, tmp_path / "run", f"network.weights={weights}", *QUICK, *words)
    assert answer.code == 0, answer.err
    [line] = [line for line in answer.out.splitlines() if line.startswith(f"warning: {weights} was trained with")]
    for part in reported:
        assert part in line
    checked = ldm_train("check", *words_of_check(pictures, train_words), f"network.weights={weights}", *words)
    assert line in checked.out.splitlines()


@pytest.mark.parametrize("kind", ["run", "file"])
def test_the_same_purpose_is_no_warning(
    kind: str, trained: Path, exported: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    weights = trained if kind == "run" else exported
    more = ["schedule.discrete=false", "guidance.scale=3", "optimizer.lr=1e-5"]
    answer = train(cache, tmp_path / "run", f"network.weights={weights}", *QUICK, *more)
    assert answer.code == 0, answer.err
    assert "was trained with" not in answer.out
    assert "nothing records" not in answer.out


def test_a_frozen_text_encoder_of_other_weights_is_another_and_one_that_is_now_trained_is_not(trained: Path) -> None:
    config = read_trained(trained)
    assert config.text_encoder is not None
    config = config.with_values(text_encoder=config.text_encoder.with_values(trained=False))
    parts = build_parts(config)
    record = json.loads((trained / "run.json").read_text())
    assert "fingerprint" not in record["trained_for"]["text_encoder"]
    purpose = describe_purpose(config, parts)
    assert "fingerprint" in purpose["text_encoder"]  # type: ignore[operator]
    parts.text_encoder.trained = True
    path = trained / "nowhere.safetensors"
    assert list(compare_purposes(purpose, describe_purpose(config, parts, with_trained_text=True), path)) == []
    parts.text_encoder.tower.ln_final.weight.data += 1  # type: ignore[union-attr]
    [line] = compare_purposes(purpose, describe_purpose(config, parts, with_trained_text=True), path)
    assert "text_encoder.fingerprint" in line


def test_another_autoencoder_is_reported_with_its_scale(trained: Path, tmp_path: Path) -> None:
    NewKLAutoencoder([8], latent_channels=3, groups=4).save(tmp_path / "kl", shift=0.0, scale=2.0)
    pretrained = Part("ldm_train.autoencoders.autoencoder.pretrained", {"weights": str(tmp_path / "kl")})
    config = read_trained(trained).with_values(autoencoder=pretrained)
    [line] = warn_of_other_purpose(trained, config, build_parts(config))
    assert "autoencoder.kind: then identity, now kl_autoencoder" in line
    assert "autoencoder.scale: then 1.0, now 2.0" in line


def test_weights_without_a_record_are_said_to_have_none(trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    (run_dir / "run.json").unlink()
    config = read_trained(run_dir)
    [line] = warn_of_other_purpose(run_dir, config, build_parts(config))
    assert str(run_dir) in line
    assert not isinstance(line, Caution)


@pytest.mark.parametrize(
    "content",
    [
        {"prediction": 3, "schedule": {}},
        {"prediction": None, "schedule": {"points": "x", "set_by": 1}, "autoencoder": 3, "text_encoder": []},
        {"prediction": "noise", "schedule": {"points": [[1], [2, 3]]}, "autoencoder": {"kind": [1]}},
        {"prediction": "noise", "schedule": []},
        [],
        7,
    ],
)
def test_a_record_that_holds_anything_ends_nothing(content: object, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    record = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(record | {"trained_for": content}))
    config = read_trained(run_dir)
    assert warn_of_other_purpose(run_dir, config, build_parts(config))


# Adapters


@pytest.fixture(scope="module")
def adapter(trained: Path, run_with: Callable) -> Path:
    return run_with(f"network.weights={trained}", "adapter=lora", "adapter.rank=2", *QUICK)


@pytest.fixture(scope="module")
def velocity(run_with: Callable) -> Path:
    return run_with("prediction=velocity", *QUICK)


@pytest.mark.parametrize("kind", ["run", "file"])
def test_an_adapter_of_another_prediction_is_refused(
    kind: str, adapter: Path, velocity: Path, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    path = adapter
    if kind == "file":
        path = tmp_path / "lora.safetensors"
        assert ldm_train("export", f"run_dir={adapter}", f"out={path}").code == 0
    words = [f"adapters={path}", "prompts=[a circle]", "steps=1", "device=cpu"]
    answer = ldm_train("sample", f"run_dir={velocity}", f"out={tmp_path / 'no'}", *words)
    assert answer.code == 1
    assert str(path) in answer.err
    assert "prediction=noise" in answer.err
    assert "prediction=velocity" in answer.err
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path / 'yes'}", *words)
    assert answer.code == 0, answer.err
    assert "was trained with" not in answer.out


def test_an_adapter_of_another_schedule_is_warned_of(
    adapter: Path, run_with: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir = run_with("schedule=cosine", *QUICK)
    words = [f"adapters={adapter}", "prompts=[a circle]", "steps=1", "device=cpu", f"out={tmp_path / 'out'}"]
    answer = ldm_train("sample", f"run_dir={run_dir}", *words)
    assert answer.code == 0, answer.err
    assert f"warning: {adapter} was trained with schedule=scaled_linear" in answer.out


def test_no_path_is_in_the_record(trained: Path) -> None:
    purpose = read_purpose(trained)
    assert purpose is not None
    assert "ldm_train" not in json.dumps(purpose)
    assert "/" not in json.dumps(purpose)


def test_a_folder_that_was_exported_keeps_the_record_for_all_in_it(trained: Path, tmp_path: Path) -> None:
    purpose = read_purpose(trained)
    (tmp_path / "unet").mkdir()
    (tmp_path / "export.json").write_text(json.dumps({"trained_for": purpose}))
    assert read_purpose(tmp_path) == read_purpose(tmp_path / "unet") == purpose
    assert read_purpose(tmp_path / "model.ckpt") == purpose
    (tmp_path / "export.json").write_text("{}")
    assert read_purpose(tmp_path / "unet") is None
