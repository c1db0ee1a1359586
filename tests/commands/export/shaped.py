"""Pictures of a tiny run of Stable Diffusion's shape: by its own sampler, and by diffusers' pipeline."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from ldm_train import draws
from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stacked_adapters import add_adapters
from ldm_train.assembly.stored_run import build_recipe
from ldm_train.assembly.stored_weights import load_weights
from ldm_train.commands.evaluate.published_pipeline import open_pipeline
from ldm_train.run_dir.stored_settings import read_trained

SHAPE = [
    *("network.channels=[64,64]", "network.attention=[true,false]", "network.middle_attention=true", "network.blocks=1"),
    *("network.extra_up_block=true", "network.patch_size=1", "network.expansion=4", "network.scale_shift=false"),
    *("network.head_size=16", "max_steps=3", "pictures.every=100", "validation.every=100", "checkpoint.every=100"),
]
SCALE, SHIFT, PROMPT = 0.7, 0.25, "a black circle, on a red background!"


def ours(run_dir: Path, adapter: Path | None = None) -> Tensor:
    """The picture of a run, by its own sampler and spacing."""
    config = read_trained(run_dir)
    parts = build_parts(config)
    load_weights(run_dir, parts)
    add_adapters(None if adapter is None else str(adapter), config, parts)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), torch.device("cpu"))
    return generation([PROMPT], build_recipe(config, steps=4, seed=0))


def theirs(pipeline: StableDiffusionPipeline, run_dir: Path) -> Tensor:
    scale = read_trained(run_dir).guidance.get("scale")
    noise = draws.normal(0, "initial noise", torch.tensor([0]), (4, 8, 8))
    drawn = pipeline(PROMPT, num_inference_steps=4, guidance_scale=scale, latents=noise, output_type="np")
    return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1


def same_picture(one: Tensor, other: Tensor) -> None:
    assert one.std() > 0.02, "a picture of one colour shows nothing"
    assert (one - other).abs().max() * 127.5 <= 2


def opened(folder: Path) -> StableDiffusionPipeline:
    return open_pipeline(str(folder), torch.device("cpu"))  # type: ignore[return-value]
