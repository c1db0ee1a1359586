"""A program that uses the package passes `mypy --strict`, and one with mistakes does not."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import torch
from torch import Tensor, nn

import ldm_train
from ldm_train.types import CaptionBatch


class Network(nn.Module):
    def forward(self, x_t: Tensor, t: Tensor, conditioning: ldm_train.Conditioning) -> Tensor:
        return x_t


cache: ldm_train.LatentCache = ldm_train.encode(cache="cache", source={"path": "pictures"}, image_size=64)
run: ldm_train.TrainedRun = ldm_train.train({"optimizer.lr": 1e-3}, cache="cache", run_dir="run", network=Network())
images: Tensor = ldm_train.generate(ldm_train.load_run("run", network=Network), ["a cat"], steps=10)
ldm_train.picture_grid(images).save("cat.png")
text, schedule = ldm_train.load_conditioner(cache), ldm_train.schedules.cosine(shift=2.0)
captions: CaptionBatch
for latents, captions in ldm_train.iterate_latents(cache, batch_size=8, steps=2):
    noisy: Tensor = schedule.corrupt(latents, torch.randn_like(latents), torch.ones(8))
denoiser = ldm_train.Denoiser(Network(), schedule, ldm_train.predictions.Velocity())
guided = ldm_train.ClassifierFreeGuidance(denoiser, ldm_train.Conditioning(), scale=3.0)
drawn: Tensor = ldm_train.samplers.DDIM(eta=0.5)(guided, torch.randn(1, 4, 8, 8), ldm_train.Conditioning(), steps=10)
network = ldm_train.networks.UNet(in_channels=4, context_width=8, vector_width=None, channels=[32], attention=[True])
labels = ldm_train.conditioners.ClassLabels(classes=["cat"], width=8)
code: int = ldm_train.run_command("export", run_dir="run", out="weights.safetensors")
try:
    settings: dict[str, object] = ldm_train.compose("train", cache="cache", run_dir="run").as_plain()
except ldm_train.ConfigError:
    pass
"""
MISTAKES = """
import ldm_train

ldm_train.trian(cache="cache", run_dir="run")
ldm_train.generate("run", ["a cat"])
ldm_train.samplers.DDIM(eta="half")
number: int = ldm_train.encode(cache="cache")
"""


@pytest.mark.slow
def test_a_program_is_checked_by_its_types(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {ROOT}\n[mypy-ldm_train.*]\nfollow_imports = silent\n"
        "[mypy-diffusers.*,open_clip.*,torchvision.*,yaml.*,wandb.*,datasets.*,webdataset.*,pyarrow.*,transformers.*]\n"
        "follow_imports = skip\nignore_missing_imports = True\n"
    )
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--no-error-summary", "program.py", "mistakes.py"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = answer.stdout.splitlines()
    assert [line for line in lines if not line.startswith("mistakes.py:")] == [], answer.stdout + answer.stderr
    wrong = {int(line.split(":")[1]) for line in lines if ": error:" in line}
    assert wrong == {4, 5, 6, 7}, answer.stdout
