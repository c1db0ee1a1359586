"""Tiny runs of Stable Diffusion's shape, and a way to export them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from ldm_train.run_dir.stored_settings import read_trained
from tests.commands.export.shaped import SCALE, SHAPE, SHIFT


@pytest.fixture(scope="session")
def latents(pictures: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`latents(shift, *words)`: a cache by a tiny autoencoder whose raw latents have this shift."""

    def encode(shift: float, *words: str) -> Path:
        folder = tmp_path_factory.mktemp("latents")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            AutoencoderKL(
                block_out_channels=(32, 32),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
                scaling_factor=SCALE,
                shift_factor=shift,
            ).save_pretrained(folder / "vae")
        own = ["autoencoder=pretrained", f"autoencoder.weights={folder / 'vae'}", "image_size=16", "scale_check=false"]
        text = ["text_encoder.width=32", "text_encoder.layers=2", "text_encoder.heads=4", "text_encoder.pooled=false"]
        answer = ldm_train("encode", f"source.path={pictures}", f"cache={folder / 'cache'}", *own, *text, *words)
        assert answer.code == 0, answer.err
        return folder / "cache"

    return encode


@pytest.fixture(scope="session")
def run_dir(latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of Stable Diffusion's shape, as 2.x has it."""
    path = tmp_path_factory.mktemp("shaped") / "run"
    answer = train(latents(SHIFT), path, *SHAPE, "scale_check=false", "ema.decay=0.5", "optimizer.lr=0.02")
    assert answer.code == 0, answer.err
    return path


@pytest.fixture(scope="session")
def run_1(latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as 1.x has it, and without a shift."""
    path = tmp_path_factory.mktemp("shaped") / "run"
    answer = train(latents(0.0), path, *SHAPE, "network.heads=4", "scale_check=false", "optimizer.lr=0.02")
    assert answer.code == 0, answer.err
    return path


@pytest.fixture(scope="session")
def adapter(run_1: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("adapters") / "run"
    lora = ("adapter=lora", "adapter.rank=2", "adapter.alpha=3", "adapter.text_encoder=true", "optimizer.lr=0.1")
    words = (f"network.weights={run_1}", "scale_check=false", *lora)
    answer = train(read_trained(run_1).cache, path, *SHAPE, "network.heads=4", *words)
    assert answer.code == 0, answer.err
    return path


@pytest.fixture
def export(ldm_train: Callable, tmp_path: Path) -> Callable[..., Path]:
    def run(run_dir: Path, *words: str, out: str = "out") -> Path:
        answer = ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path / out}", *words)
        assert answer.code == 0, answer.err
        return tmp_path / out

    return run
