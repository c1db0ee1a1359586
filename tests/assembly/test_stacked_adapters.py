"""Adapters of other runs and of files, added to a run's weights when it draws."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stacked_adapters import add_adapters, list_adapters
from ldm_train.assembly.stored_weights import load_weights
from ldm_train.assembly.trained_part import parameters_of
from ldm_train.run_dir.stored_settings import read_trained

LORA = ("adapter=lora", "adapter.rank=2", "optimizer.lr=0.05")


@pytest.fixture(scope="module")
def adapter(trained: Path, run_with: Callable[..., Path]) -> Path:
    return run_with(f"network.weights={trained}", *LORA, "adapter.text_encoder=true", "seed=1")


@pytest.fixture(scope="module")
def other(trained: Path, run_with: Callable[..., Path]) -> Path:
    return run_with(f"network.weights={trained}", *LORA, 'adapter.targets=["*.cross_attention.*"]', "seed=2")


def opened(run_dir: Path, setting: object = None) -> Parts:
    config = read_trained(run_dir)
    parts = build_parts(config)
    load_weights(run_dir, parts)
    add_adapters(setting, config, parts)
    return parts


def test_two_runs_adapters_add_the_sum_of_their_changes(trained: Path, adapter: Path, other: Path) -> None:
    plain, one, two = (parameters_of(opened(run)) for run in (trained, adapter, other))
    both = parameters_of(opened(trained, {str(adapter): 0.8, str(other): -0.5}))
    for name, w in plain.items():
        assert_close(both[name] - w, 0.8 * (one[name] - w) - 0.5 * (two[name] - w), rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(both[name], plain[name]) for name in plain)


def test_a_run_with_adapters_is_its_base_with_them(trained: Path, adapter: Path) -> None:
    ours, theirs = parameters_of(opened(trained, str(adapter))), parameters_of(opened(adapter))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_pictures_with_an_adapter_are_those_of_its_run(
    trained: Path, adapter: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    assert ldm_train("export", f"run_dir={adapter}", f"out={file}").code == 0
    words = ["prompts=[a black circle]", "steps=4", "device=cpu"]
    for name, more in {
        "run": [f"run_dir={adapter}"],
        "added": [f"run_dir={trained}", f"adapters={adapter}"],
        "dict": [f"run_dir={trained}", f"adapters={{{adapter}:1}}"],
        "list": [f"run_dir={trained}", f"adapters=[{{path:{file},scale:1.0}}]"],
        "none": [f"run_dir={trained}", f"adapters={{{file}:0}}"],
        "base": [f"run_dir={trained}"],
    }.items():
        answer = ldm_train("sample", *more, *words, f"out={tmp_path / name}")
        assert answer.code == 0, answer.err
    drawn = {
        name: Image.open(tmp_path / name / "0000.png").tobytes() for name in ("run", "added", "dict", "list", "none", "base")
    }
    assert drawn["run"] == drawn["added"] == drawn["dict"] == drawn["list"] != drawn["base"]
    assert drawn["none"] == drawn["base"]


def test_the_forms_of_the_setting() -> None:
    assert list_adapters(None) == []
    assert list_adapters("a") == [("a", 1.0)]
    assert list_adapters(["a", {"path": "b", "scale": 2}]) == [("a", 1.0), ("b", 2.0)]
    assert list_adapters({"a": 0.5, "b": -1}) == [("a", 0.5), ("b", -1.0)]


@pytest.mark.parametrize("setting", [3, {"a": "much"}, {"a": None}, [{"scale": 1}], [1], {"a": True}])
def test_another_form_is_refused(setting: object) -> None:
    with pytest.raises(ValueError, match="must be paths and their factors, such as"):
        list_adapters(setting)


def test_what_is_no_adapter_is_refused(trained: Path, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    for path, message in {
        trained: "is a run without adapters",
        tmp_path: "neither a run directory nor a file of a LoRA",
        tmp_path / "a.safetensors": r"a\.safetensors: its tensors \(a\) are not those of a LoRA",
    }.items():
        with pytest.raises(ValueError, match=message):
            opened(trained, str(path))


def test_an_adapter_of_other_layers_is_refused(trained: Path, adapter: Path, run_with: Callable[..., Path]) -> None:
    wider = run_with("network.channels=[16,48]")
    with pytest.raises(ValueError, match="does not fit a weight of shape"):
        opened(wider, str(adapter))
