"""What `benchmark_gpu.py` measures with: networks, batches and whole runs of random data, without configs and files."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from measuring import Step
from pytorch_lightning import Callback
from torch import Tensor, nn

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import EndlessData
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.networks.unet import UNet
from ldm_train.training import fit
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.checkpoints.checkpoint_io import WholeFiles
from ldm_train.training.ema.ema import EMA
from ldm_train.training.flops import CountFlops
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization.lr_schedules import Constant
from ldm_train.types import CaptionBatch, Conditioning, LatentBatch, Moments

TOKENS = 77
SD15 = {
    "context_width": 768, "channels": (320, 640, 1280, 1280), "attention": (True, True, True, False),
    "middle_attention": True, "heads": 8, "scale_shift": False,
}  # fmt: skip
BASE = {"context_width": 768, "channels": (128, 256, 384), "attention": (False, True, True), "head_size": 64}
SMALL = {"context_width": 64, "channels": (64, 128), "attention": (True, True), "head_size": 32}
TINY = {"context_width": 16, "channels": (16, 32), "attention": (False, True), "head_size": 8, "blocks": 1}


class Embedded(nn.Module):
    """A text encoder whose captions are embedded already."""

    def forward(self, captions: CaptionBatch) -> Conditioning:
        return Conditioning(tokens=captions.embeddings)


class RandomLatents(EndlessData):
    """Latents and embeddings that are drawn by their positions."""

    def __init__(self, *, batch_size: int, side: int, width: int, workers: int = 0) -> None:
        super().__init__(batch_size=batch_size, micro_batch_size=None, seed=0, workers=workers)
        self.side = side
        self.width = width

    def fetch(self, positions: Tensor) -> LatentBatch:
        latents = draws.normal(0, "latents", positions, (4, self.side, self.side))
        embeddings = draws.normal(0, "embeddings", positions, (TOKENS, self.width))
        captions = CaptionBatch(torch.zeros(len(positions), TOKENS, dtype=torch.long), embeddings)
        return LatentBatch(positions, Moments(latents, None), captions)

    def names(self, positions: Tensor) -> list[str]:
        return [f"example {position}" for position in positions.tolist()]


def build_network(settings: dict[str, object], **more: object) -> UNet:
    """A network with random weights, also where they start at zero, so that all of it has an effect."""
    torch.manual_seed(0)
    network = UNet(in_channels=4, vector_width=None, **settings, **more)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return network


def build_module(network: nn.Module, *, batch_size: int) -> NoisePredictorTraining:
    return NoisePredictorTraining(
        network,
        Embedded(),
        scaling=Scaling(shift=0.0, scale=1.0),
        schedule=scaled_linear(),
        prediction=Noise(),
        timesteps=Uniform(),
        weighting=UniformWeight(),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, fused=True),
        lr_schedule=Constant(),
        batch_size=batch_size,
    )


def move_batch(batch: LatentBatch, device: torch.device) -> LatentBatch:
    """All but the positions, as a run does."""
    captions = CaptionBatch(batch.captions.tokens.to(device), batch.captions.embeddings.to(device))  # type: ignore[union-attr]
    return LatentBatch(batch.positions, Moments(batch.moments.mean.to(device), None), captions)


def build_step(network: nn.Module, batch: LatentBatch, device: torch.device, dtype: torch.dtype) -> Step:
    """A whole step: draws, loss, gradients, their clipping, AdamW and the moving average."""
    module = build_module(network, batch_size=len(batch.positions))
    parameters = list(network.parameters())
    optimizer, average = torch.optim.AdamW(parameters, lr=1e-4, fused=True), EMA()
    average.start(module)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = module.training_step(batch, 0)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update(module)

    return step


def count_flops(settings: dict[str, object], side: int) -> int:
    """Floating-point operations of a training step for one example, counted without computing it."""
    with torch.device("meta"):
        network = UNet(in_channels=4, vector_width=None, **settings)  # type: ignore[arg-type]
        latents, t = torch.empty(1, 4, side, side), torch.empty(1)
        tokens = torch.empty(1, TOKENS, int(str(settings["context_width"])))
        with CountFlops() as count:
            network(latents, t, Conditioning(tokens=tokens)).sum().backward()
    return count.total


def train(
    folder: Path,
    module: NoisePredictorTraining,
    data: EndlessData,
    *,
    steps: int,
    accelerator: str,
    precision: str = "32-true",
    strategy: object = "auto",
    callbacks: Sequence[Callback] = (),
    saved: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """Run, or continue, `ldm-train train`'s loop in a folder, and return the loss of each step."""
    fit.run(
        module,
        data,
        run_dir=folder,
        limits=fit.Limits(steps, time.monotonic()),
        keeping=Keeping(every=10**6),
        log_every=1,
        health_every=10**6,
        spent=TimeSpent(),
        callbacks=[EMA(), *callbacks],
        loggers=[],
        settings={},
        options={
            "accelerator": accelerator,
            "devices": 1,
            "precision": precision,
            "strategy": strategy,
            "gradient_clip_val": 1.0,
            "plugins": [WholeFiles()],
        },
        first_rank=True,
        resumed=False,
        saved=saved,
    )
    return [float(line["loss"]) for line in read_lines(folder)]


def read_lines(folder: Path) -> list[dict[str, float]]:
    import json

    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
