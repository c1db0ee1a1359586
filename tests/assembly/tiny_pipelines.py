"""Pipelines of diffusers in each published layout, scaled down and with random weights, and pictures to draw from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionDepth2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_depth2img as depth_module
from open_clip import factory
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ldm_train import draws
from ldm_train.assembly.pipeline_layouts import UPSCALER_SCALE
from ldm_train.commands.export.encoder_configs import build_tokenizer_files
from ldm_train.conditioners.text_encoder import small

SIDE, LENGTH, WIDTH, SCALE = 16, 12, 32, 0.7
PROMPT = "a red apple, on a table!"
PIPELINES = {
    "plain": (StableDiffusionPipeline, 4),
    "inpaint": (StableDiffusionInpaintPipeline, 9),
    "depth": (StableDiffusionDepth2ImgPipeline, 5),
    "reference": (StableDiffusionInstructPix2PixPipeline, 8),
    "low_resolution": (StableDiffusionUpscalePipeline, 7),
}


def randomize(module: nn.Module, *, seed: int) -> nn.Module:
    """Give all tensors random numbers, those too that start as zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


@contextmanager
def tiny_text_models(folder: Path) -> Iterator[None]:
    """Register two small text encoders with open_clip: of Stable Diffusion 1.x, and of 2.x, which lacks its last layer."""
    vision = {"image_size": 16, "layers": 1, "width": 32, "patch_size": 16}
    for name, layers, quick in (("tiny-1", 2, True), ("tiny-2", 3, False)):
        text = {"context_length": LENGTH, "vocab_size": 49408, "width": WIDTH, "heads": 4, "layers": layers}
        content = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, "quick_gelu": quick}
        (folder / f"{name}.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder)
    try:
        yield
    finally:
        for name in ("tiny-1", "tiny-2"):
            factory._MODEL_CONFIGS.pop(name)
        factory._MODEL_CONFIG_PATHS.remove(folder)


def make_autoencoder(shift: float | None = None, scale: float = SCALE) -> AutoencoderKL:
    """Return an autoencoder of factor 2 that is as sure of its latents as published ones."""
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=scale,
        shift_factor=shift,
    )
    randomize(vae, seed=1)
    vae.quant_conv.weight.data[4:] = 0
    vae.quant_conv.bias.data[4:] = -30
    return vae


def make_unet(in_channels: int, *, second: bool) -> UNet2DConditionModel:
    heads = {"attention_head_dim": [4, 8], "use_linear_projection": True} if second else {"attention_head_dim": 8}
    levels = {"num_class_embeds": 1000} if in_channels == 7 else {}
    unet = UNet2DConditionModel(
        **levels,
        in_channels=in_channels,
        out_channels=4,
        sample_size=SIDE // 2,
        cross_attention_dim=WIDTH,
        block_out_channels=(64, 128),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        **heads,
    )
    return randomize(unet, seed=2)  # type: ignore[return-value]


def make_pipeline(kind: str, folder: Path, *, second: bool) -> StableDiffusionPipeline:
    """Write a pipeline of a kind into a folder, and return it.

    Args:
        second: as Stable Diffusion 2.x instead of 1.x: its text encoder, padding, projections and prediction.
    """
    pipeline, channels = PIPELINES[kind]
    encoder = small(width=WIDTH, layers=1, context_length=LENGTH, trained=False)
    encoder.pad_token = 0 if second else 49407
    (folder / "words").mkdir(parents=True)
    for name, text in build_tokenizer_files(encoder).items():
        (folder / "words" / name).write_text(text)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPTextConfig(
            vocab_size=49408,
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="gelu" if second else "quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
        )
        parts = {
            "vae": make_autoencoder(scale=UPSCALER_SCALE if kind == "low_resolution" else SCALE),
            "unet": make_unet(channels, second=second),
            "text_encoder": randomize(CLIPTextModel(config), seed=3),
            "tokenizer": CLIPTokenizer.from_pretrained(str(folder / "words")),
            "scheduler": DDIMScheduler(
                beta_schedule="scaled_linear",
                beta_start=0.00085,
                beta_end=0.012,
                clip_sample=False,
                steps_offset=1,
                prediction_type="v_prediction" if second else "epsilon",
                timestep_spacing="trailing" if second else "leading",
            ),
            "feature_extractor": None,
        }
    safety = {"safety_checker": None, "requires_safety_checker": False}
    if kind == "low_resolution":
        noise = DDPMScheduler(beta_schedule="scaled_linear", beta_start=1e-4, beta_end=0.02)
        safety = {"low_res_scheduler": noise, "safety_checker": None, "max_noise_level": 300}
    made = pipeline(**parts, **({"depth_estimator": None} if kind == "depth" else safety))
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder / "pipeline")
    return made


def write_inputs(folder: Path) -> dict[str, Path]:
    """Write a picture, a mask and a depth map of the pipelines' size."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[3:11, 5:16] = 255
    depth = (np.add.outer(np.arange(SIDE) ** 2, 3 * np.arange(SIDE)) + 20).astype(np.uint8)
    picture, small = (numbers.integers(0, 256, (side, side, 3), np.uint8) for side in (SIDE, SIDE // 2))
    pictures = {"picture": picture, "mask": mask, "depth": depth, "small": small}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in pictures}


def words_of_inputs(kind: str, inputs: dict[str, Path]) -> list[str]:
    """Return the words of `sample` that give a kind of pipeline what it draws from."""
    picture = inputs["picture"]
    return {
        "plain": list[str](),
        "inpaint": [f"picture={picture}", f"mask={inputs['mask']}", "paste_original=false"],
        "depth": [f"picture={picture}", "strength=0.5", f"map.depth={inputs['depth']}"],
        "reference": [f"map.reference={picture}", "guidance.condition_scale=1.5"],
        "low_resolution": [f"picture={inputs['small']}", "noise_level=30"],
    }[kind]


def draw_with_diffusers(pipeline: StableDiffusionPipeline, kind: str, inputs: dict[str, Path], *, scale: float) -> Tensor:
    """Return the picture of diffusers' pipeline (3, H, W) from 0 to 1, from the noise of `sample seed=0`."""
    noise = draws.normal(0, "initial noise", torch.tensor([0]), (4, SIDE // 2, SIDE // 2))
    picture, mask = Image.open(inputs["picture"]).convert("RGB"), Image.open(inputs["mask"]).convert("L")
    small = Image.open(inputs["small"]).convert("RGB")
    depth = torch.from_numpy(np.array(Image.open(inputs["depth"]).convert("F")))[None]
    given = {
        "plain": {"latents": noise},
        "inpaint": {"image": picture, "mask_image": mask, "latents": noise},
        "depth": {"image": picture, "depth_map": depth, "strength": 0.5},
        "reference": {"image": picture, "latents": noise, "image_guidance_scale": 1.5},
        "low_resolution": {
            "image": small,
            "latents": noise,
            "noise_level": 30,
            "generator": draws.generator(0, "condition low_resolution noise", 0),
        },
    }[kind]
    with pytest.MonkeyPatch.context() as patch:  # the only pipeline that takes no noise from outside
        patch.setattr(depth_module, "randn_tensor", lambda shape, **rest: noise)
        drawn = pipeline(PROMPT, num_inference_steps=4, guidance_scale=scale, output_type="np", **given)
    return torch.from_numpy(drawn.images[0]).permute(2, 0, 1)


def read_drawn(path: Path) -> Tensor:
    """Return the picture of a file (3, H, W) from 0 to 1."""
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1) / 255


def expect_same(one: Tensor, other: Tensor) -> None:
    assert one.std() > 0.02, "a picture of one colour shows nothing"
    assert (one - other).abs().max() * 255 <= 2
