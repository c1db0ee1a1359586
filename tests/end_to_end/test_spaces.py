"""Unconditional, class-conditional and captioned runs, in pixels and in latents, with the same code."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SPACES = {"pixels": "identity", "latents": "openmoji"}
SYSTEMS = {
    "unconditional": ["text_encoder=unconditional"],
    "class_conditional": ["source=class_folders", "text_encoder=class_labels"],
    "own_64": [],
}
TINY = ["network.channels=[16,32]", "network.head_size=8", "network.expansion=1", "network.patch_size=1", "batch_size=4"]
SHORT = ["max_steps=2", "lr_schedule.warmup_steps=1", "trainer.accelerator=cpu", "threads=1", "metrics.every=null"]
FEW = ["pictures.steps=1", "pictures.count=2", "validation.repeats=1", "image_size=16", "held_out=0.2"]


@pytest.mark.slow
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_is_trained_and_drawn_in_each_space(
    system: str, space: str, ldm_train: Callable, tmp_path: Path
) -> None:
    for number in range(10):
        folder = tmp_path / "pictures" / ("red", "blue")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        colour = (200, 10 * number, 0) if folder.name == "red" else (0, 10 * number, 200)
        Image.new("RGB", (16, 16), colour).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(folder.name)
    cache, run = tmp_path / "cache", tmp_path / "run"
    made = [f"source.path={tmp_path / 'pictures'}", "image_size=16", f"autoencoder={SPACES[space]}", "scale_check=false"]
    answer = ldm_train("encode", *made, f"cache={cache}", *SYSTEMS[system])
    assert answer.code == 0, answer.err
    words = [f"experiment={system}", f"cache={cache}", f"run_dir={run}", *TINY, *SHORT, *FEW, "scale_check=false"]
    answer = ldm_train("train", *words)
    assert answer.code == 0, answer.err
    answer = ldm_train("sample", f"run_dir={run}", "prompts=[red]", f"out={tmp_path / 'drawn'}", "steps=2")
    assert answer.code == 0, answer.err
    with Image.open(tmp_path / "drawn" / "0000.png") as picture:
        assert picture.size == (16, 16)
