"""A run whose config was edited, or whose encoders were replaced, is refused; so is one that stands on itself."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import refuse_circle
from ldm_train.assembly.trained_for import describe_purpose, refuse_other_purpose, warn_of_other_purpose
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.options import Part

EDITS: dict[str, tuple[object, str]] = {
    "prediction._target_": ("ldm_train.diffusion.prediction.Velocity", "prediction: then noise, now velocity"),
    "schedule.beta_end": (0.02, "schedule: then schedule=scaled_linear"),
    "text_encoder.heads": (8, "text_encoder.heads: then 4, now 8"),
    "network.head_size": (4, "network.head_size: then 8, now 4"),
}


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(run_dir: Path, name: str, value: object) -> None:
    config = OmegaConf.load(run_dir / "config.yaml")
    OmegaConf.update(config, name, value)
    OmegaConf.save(config, run_dir / "config.yaml")


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.slow
def test_an_edited_config_is_refused(name: str, run_dir: Path, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    value, reported = EDITS[name]
    edit(run_dir, name, value)
    drawing = ["prompts=[x]", "steps=1", "device=cpu", f"out={tmp_path / 'out'}"]
    weak = ["guidance=autoguidance", f"guidance.weak={run_dir}"]
    for words in (
        ["sample", f"run_dir={run_dir}", *drawing],
        ["sample", f"run_dir={trained}", *drawing, *weak],
        ["export", f"run_dir={run_dir}", f"out={tmp_path / 'out'}", "layout=diffusers"],
        ["evaluate", f"run_dir={run_dir}", f"out={tmp_path / 'out.json'}", "features=null"],
    ):
        answer = ldm_train(*words)
        assert answer.code == 1
        assert reported in answer.err
        assert str(run_dir / "config.yaml") in answer.err


def test_a_run_with_an_edited_config_is_not_continued(run_dir: Path, cache: Path, train: Callable) -> None:
    edit(run_dir, "prediction._target_", "ldm_train.diffusion.prediction.Velocity")
    answer = train(cache, run_dir, "max_steps=9", "prediction=velocity")
    assert answer.code == 1
    assert "prediction: then noise, now velocity" in answer.err


def test_a_config_that_says_the_same_in_other_words_is_accepted(run_dir: Path) -> None:
    edit(run_dir, "optimizer.lr", 5.0)
    edit(run_dir, "schedule.discrete", False)
    edit(run_dir, "network.dropout", 0.5)
    edit(run_dir, "network.gradient_checkpointing", True)
    config = read_trained(run_dir)
    refuse_other_purpose(run_dir, config, build_parts(config))


def test_an_autoencoder_of_other_weights_at_the_same_path_is_another(run_dir: Path, tmp_path: Path) -> None:
    autoencoder = NewKLAutoencoder([8], latent_channels=3, groups=4)
    autoencoder.save(tmp_path / "kl", shift=0.0, scale=1.0)
    pretrained = Part("ldm_train.autoencoders.autoencoder.pretrained", {"weights": str(tmp_path / "kl")})
    config = read_trained(run_dir).with_values(autoencoder=pretrained)
    record = json.loads((run_dir / "run.json").read_text())
    record["trained_for"] = describe_purpose(config, build_parts(config))
    (run_dir / "run.json").write_text(json.dumps(record))
    refuse_other_purpose(run_dir, config, build_parts(config))
    with torch.no_grad():
        next(autoencoder.parameters()).add_(1)
    shutil.rmtree(tmp_path / "kl")
    autoencoder.save(tmp_path / "kl", shift=0.0, scale=1.0)
    with pytest.raises(ValueError, match=r"autoencoder\.fingerprint"):
        refuse_other_purpose(run_dir, config, build_parts(config))


def test_a_network_of_other_settings_and_the_same_shapes_is_reported(trained: Path) -> None:
    config = read_trained(trained)
    config = config.with_values(network=config.network.with_values(head_size=4))
    [line] = warn_of_other_purpose(trained, config, build_parts(config))
    assert "network.head_size: then 8, now 4" in line


def test_an_exported_file_of_another_prediction_is_refused(
    trained: Path, run_with: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "velocity.safetensors"
    other = run_with("prediction=velocity", "max_steps=1", "validation.every=1", "pictures.every=1")
    assert ldm_train("export", f"run_dir={other}", f"out={file}").code == 0
    drawing = ["prompts=[x]", "steps=1", "device=cpu", f"weights={file}"]
    answer = ldm_train("sample", f"run_dir={trained}", f"out={tmp_path / 'no'}", *drawing)
    assert answer.code == 1
    assert "prediction: then velocity, now noise" in answer.err
    assert ldm_train("sample", f"run_dir={other}", f"out={tmp_path / 'yes'}", *drawing).code == 0


# Circles


@pytest.fixture(scope="module")
def adapter(trained: Path, run_with: Callable) -> Path:
    return run_with(f"network.weights={trained}", "adapter=lora", "adapter.rank=2", "max_steps=1")


def test_a_run_that_stands_on_itself_is_reported_at_once(
    adapter: Path, cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    one, two = (Path(shutil.copytree(adapter, tmp_path / name)) for name in ("one", "two"))
    edit(one, "network.weights", str(two))
    edit(two, "network.weights", str(tmp_path / "one/../one"))
    start = time.monotonic()
    drawn = ldm_train("sample", f"run_dir={one}", "prompts=[x]", "steps=1", "device=cpu", f"out={tmp_path / 'out'}")
    trained = train(cache, tmp_path / "new", f"network.weights={one}")
    assert time.monotonic() - start < 30, "each turn of the circle built a network before"
    for answer in (drawn, trained):
        assert answer.code == 1
        assert "circle" in answer.err
        assert str(two) in answer.err


def test_a_chain_that_ends_is_no_circle(adapter: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(adapter, tmp_path / "run"))
    edit(run_dir, "network.weights", str(adapter))
    refuse_circle(run_dir, read_trained(run_dir))
