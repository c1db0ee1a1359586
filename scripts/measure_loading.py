"""Measure the memory that loading published weights takes, and writing them, at the full shape of Stable Diffusion 1.5.

    python scripts/measure_loading.py [--layout diffusers|single_file|ckpt] [--folder DIR]
    python scripts/measure_loading.py --out diffusers|single_file [--folder DIR]

A file of random weights (3.4 GB; for writing, a run's checkpoint with a small autoencoder and the text encoder's shape, raw
and averaged: 7 GB, and 4 GB are written) is made in a temporary folder and deleted afterwards; a process of its own loads
it. The figure is that process's peak, and how far it is above the weights' own size.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Size, Tensor, nn

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.stored_weights import load_first_weights
from ldm_train.commands.export.command import run as export
from ldm_train.conditioners.clip_tower import build_tower, read_text_settings
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.networks.unet import UNet
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings
from ldm_train.settings.shipped import shipped
from ldm_train.settings.strict import READ_BY_RUN
from ldm_train.weights.layouts.unet_layout import map_unet_to_diffusers
from ldm_train.weights.layouts.unet_single_file import rename_unet_to_single_file
from ldm_train.weights.streaming_writer import stream_tensors

SIZE = 859_520_964 * 4
VAE = {
    "block_out_channels": (32, 64, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}


def network() -> UNet:
    """Stable Diffusion 1.x's."""
    settings = OmegaConf.to_container(shipped("network/stable_diffusion_1"))
    assert isinstance(settings, dict)
    own = {str(key): value for key, value in settings.items() if key not in {"_target_", *READ_BY_RUN["network"]}}
    return UNet(in_channels=4, context_width=768, vector_width=None, **own)


def make(layout: str, folder: Path) -> Path:
    """A file or folder of random weights in this layout."""
    with torch.device("meta"):
        like = network().state_dict()
    table = map_unet_to_diffusers(like, linear_projection=False)
    shapes = {name: piece(like).shape for name, piece in table.items()}
    if layout == "diffusers":
        (folder / "unet").mkdir()
        (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
        stream_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors", shapes, lambda name: drawn(shapes[name]))
        return folder
    names = rename_unet_to_single_file(shapes)
    if layout == "ckpt":
        torch.save({"state_dict": {names[name]: drawn(shape) for name, shape in shapes.items()}}, folder / "model.ckpt")
        return folder / "model.ckpt"
    single = {names[name]: shape for name, shape in shapes.items()}
    stream_tensors(folder / "model.safetensors", single, lambda name: drawn(single[name]))
    return folder / "model.safetensors"


def make_run(folder: Path) -> Path:
    """A run directory of the full network, and a text encoder in Stable Diffusion 1.x's shape, of random weights."""
    with torch.random.fork_rng():
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        tower = build_tower("ViT-L-14-quickgelu", read_text_settings("ViT-L-14-quickgelu"))
    save_file({name: tensor.contiguous() for name, tensor in tower.state_dict().items()}, folder / "text.safetensors")
    with torch.device("meta"):
        shapes = {f"network.{name}": tensor.shape for name, tensor in network().state_dict().items()}
    run = folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    raw = {name: drawn(shape) for name, shape in shapes.items()}
    state = {"state_dict": raw, "callbacks": {"EMA": {"average": {n: t + 1 for n, t in raw.items()}}}, "global_step": 1}
    torch.save(state, run / "checkpoints" / "last.ckpt")
    words = ["network=stable_diffusion_1", "autoencoder=pretrained", f"autoencoder.weights={folder / 'vae'}"]
    words += ["text_encoder=clip_vit_l_14", f"text_encoder.weights={folder / 'text.safetensors'}"]
    config = compose_as(TrainSettings, [*words, f"run_dir={run}", "image_size=512", "cache=cache"])
    OmegaConf.save(OmegaConf.create(config.as_plain()), run / "config.yaml")
    return run


def write(run: Path, layout: str) -> None:
    """Export it, and tell the peak."""
    words = [f"run_dir={run}", f"layout={layout}", f"out={run.parent / 'out'}"]
    config, before, began = compose_as(ExportSettings, words), peak(), time.perf_counter()
    export(config)
    own = sum(path.stat().st_size for path in (run.parent / "out").rglob("*.safetensors"))
    took = time.perf_counter() - began
    print(f"imports take {gigabytes(before)}; written in {took:.0f} s: a peak of {gigabytes(peak())}, ", end="")
    print(f"{gigabytes(peak() - own)} above the weights' {gigabytes(own)}")


def drawn(shape: Size) -> Tensor:
    """Random numbers; a few tell as much of the memory as all would."""
    return torch.randn(1024).repeat(1 + shape.numel() // 1024)[: shape.numel()].view(shape)


def load(path: Path) -> None:
    """Load it as `train` does, and tell the peak."""
    text = SimpleNamespace(context_width=768, vector_width=None)
    schedule = scaled_linear(num_steps=1000, beta_start=0.00085, beta_end=0.012)
    before, began = peak(), time.perf_counter()
    module: nn.Module = network()
    built, seconds = peak(), time.perf_counter() - began
    parts = Parts(module, text, SimpleNamespace(channels=4), schedule, Noise(), None, 512)  # type: ignore[arg-type]
    words = ["cache=x", "run_dir=x", "network=stable_diffusion_1", f"network.weights={path}"]
    settings = compose_as(TrainSettings, words)
    began = time.perf_counter()
    for line in load_first_weights(settings, parts):
        print(line)
    took = time.perf_counter() - began
    print(f"imports take {gigabytes(before)}, the network built (in {seconds:.0f} s) {gigabytes(built)}")
    above = gigabytes(peak() - SIZE)
    print(f"loaded in {took:.0f} s: a peak of {gigabytes(peak())}, {above} above the weights' {gigabytes(SIZE)}")


def peak() -> int:
    """Bytes that were in memory at most, of files too; unlike `getrusage`'s, not those of who started this process."""
    reported = Path("/proc/self/status").read_text()
    return int(reported.partition("VmHWM:")[2].split()[0]) * 1024


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the memory that loading published weights takes.")
    parser.add_argument("--layout", choices=["diffusers", "single_file", "ckpt"], default="single_file")
    parser.add_argument("--out", choices=["diffusers", "single_file"], help="measure writing in this layout instead")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.load is not None:
        return load(chosen.load) if chosen.out is None else write(chosen.load, chosen.out)
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        path = make(chosen.layout, Path(folder)) if chosen.out is None else make_run(Path(folder))
        more = [] if chosen.out is None else ["--out", chosen.out]
        subprocess.run([sys.executable, __file__, "--load", str(path), *more], check=True)


if __name__ == "__main__":
    main()
