"""What a command imports when it runs, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {
    "diffusers",
    "lightning_fabric",
    "matplotlib",
    "open_clip",
    "peft",
    "pytorch_lightning",
    "scipy",
    "sympy",
    "torch._dynamo",
    "torchmetrics",
    "torchvision",
    "transformers",
}


def list_imports(*words: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "ldm_train", *words]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


@pytest.mark.slow
def test_the_usage_needs_the_standard_library_only() -> None:
    found = {name.partition(".")[0] for name in list_imports("--help")}
    assert "ldm_train" in found
    assert not found & {"torch", "hydra", "omegaconf", "pydantic", "numpy", "yaml"}


@pytest.mark.slow
def test_a_picture_is_drawn_without_what_it_does_not_need(trained: Path, tmp_path: Path) -> None:
    """By the quick start's kind of model, and by whatever its config builds."""
    found = list_imports("sample", f"run_dir={trained}", "prompts=a fox", "steps=1", f"out={tmp_path / 'out'}")
    assert (tmp_path / "out" / "0000.png").is_file()
    assert "torch" in found
    assert found & SLOW == set()
