"""Adapters out in the layouts that others read: diffusers draws with them what is drawn here."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.tasks.parts.assemble import read_config
from tests.tasks.exporting.drawn import SHAPE, opened, ours, same_picture, theirs


@pytest.fixture(scope="module")
def adapter(run_1: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "run"
    lora = ("adapter=lora", "adapter.rank=2", "adapter.alpha=3", "adapter.text_encoder=true", "optimizer.lr=0.1")
    words = (f"network.weights={run_1}", "scale_check=false", *lora)
    answer = train(read_config(str(run_1)).cache, path, *SHAPE, "network.heads=4", *words)
    assert answer.code == 0, answer.err
    return path


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_draws_the_same_picture_in_a_pipeline(form: str, adapter: Path, run_1: Path, export: Callable) -> None:
    pipeline = opened(export(run_1, "layout=diffusers", out="base"))
    out = export(adapter, "layout=lora", f"lora_format={form}", out="lora")
    plain = theirs(pipeline, run_1)
    pipeline.load_lora_weights(str(out), weight_name=None if form == "diffusers" else "lora.safetensors")
    drawn = theirs(pipeline, run_1)
    same_picture(ours(adapter), drawn)
    assert (drawn - plain).abs().max() * 127.5 > 5
    same_picture(ours(run_1, next(out.glob("*.safetensors"))), drawn)


def test_a_pipeline_of_a_run_with_adapters_has_them_merged(adapter: Path, export: Callable) -> None:
    same_picture(ours(adapter), theirs(opened(export(adapter, "layout=diffusers")), adapter))


def test_an_adapter_of_another_network_is_refused_by_its_settings(
    trained: Path, run_with: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run = run_with(f"network.weights={trained}", "adapter=lora", "max_steps=1")
    answer = ldm_train("export", f"run_dir={run}", f"out={tmp_path}/out", "layout=lora")
    assert answer.code == 1
    assert "which cannot hold this one: network.patch_size=2" in answer.err
    assert list(tmp_path.iterdir()) == []
