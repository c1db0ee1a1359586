"""Weights out in the layouts that others read, and in again: same tensors, same pictures, by diffusers itself."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from ldm_train import draws
from ldm_train.tasks.assemble import build_parts, load_weights, read_config, read_weights
from ldm_train.tasks.published import start
from ldm_train.tasks.published_pipeline import open_pipeline
from ldm_train.tasks.stacked import add_adapters

SHAPE = [
    *("network.channels=[64,64]", "network.attention=[true,false]", "network.middle_attention=true", "network.blocks=1"),
    *("network.extra_up_block=true", "network.patch_size=1", "network.expansion=4", "network.scale_shift=false"),
    *("network.head_size=16", "max_steps=3", "pictures.every=100", "validation.every=100", "checkpoint.every=100"),
]
SCALE, SHIFT, PROMPT = 0.7, 0.25, "a black circle, on a red background!"


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def run_dir(latents: Callable, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of Stable Diffusion's shape, as 2.x has it."""
    path = tmp_path_factory.mktemp("shaped") / "run"
    answer = train(latents(SHIFT), path, *SHAPE, "scale_check=false", "ema.decay=0.5", "optimizer.lr=0.02")
    assert answer.code == 0, answer.err
    return path


@pytest.fixture
def export(ldm_train: Callable, tmp_path: Path) -> Callable[..., Path]:
    def run(run_dir: Path, *words: str, out: str = "out") -> Path:
        answer = ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path / out}", *words)
        assert answer.code == 0, answer.err
        return tmp_path / out

    return run


def ours(run_dir: Path, adapter: Path | None = None) -> Tensor:
    """The picture of a run, by its own sampler and spacing."""
    from ldm_train.tasks.assemble import build_recipe

    config = read_config(str(run_dir))
    parts = build_parts(config)
    load_weights(run_dir, parts)
    add_adapters(None if adapter is None else str(adapter), parts, read_weights)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), torch.device("cpu"))
    return generation([PROMPT], build_recipe(config, steps=4, seed=0))


def theirs(pipeline: StableDiffusionPipeline, run_dir: Path) -> Tensor:
    scale = read_config(str(run_dir)).guidance.scale
    noise = draws.normal(0, "initial noise", torch.tensor([0]), (4, 8, 8))
    drawn = pipeline(PROMPT, num_inference_steps=4, guidance_scale=scale, latents=noise, output_type="np")
    return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1


def same_picture(one: Tensor, other: Tensor) -> None:
    assert one.std() > 0.02, "a picture of one colour shows nothing"
    assert (one - other).abs().max() * 127.5 <= 2


def opened(folder: Path) -> StableDiffusionPipeline:
    return open_pipeline(str(folder), torch.device("cpu"))  # type: ignore[return-value]


# diffusers


def test_a_pipeline_draws_the_same_picture(run_dir: Path, export: Callable) -> None:
    out = export(run_dir, "layout=diffusers", "licence=apache-2.0")
    same_picture(ours(run_dir), theirs(opened(out), run_dir))
    card = (out / "README.md").read_text()
    front = OmegaConf.create(card.split("---")[1])
    assert (front.license, front.library_name) == ("apache-2.0", "diffusers")
    for word in (
        "| steps | 3 |",
        "from_pretrained",
        "| these weights | apache-2.0 |",
        "captions | not stated",
        "shift of 0.25",
    ):
        assert word in card
    assert str(Path.home()) not in card
    assert str(run_dir.parent) not in card


def test_a_pipeline_needs_nothing_of_ours(run_dir: Path, export: Callable) -> None:
    out = export(run_dir, "layout=diffusers", "dtype=float16")
    assert {t.dtype for t in load_file(out / "unet/diffusion_pytorch_model.safetensors").values()} == {torch.float16}
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("ldm_train", "open_clip"): raise ImportError(name)
sys.meta_path.insert(0, Nothing())
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({str(out)!r})
pipeline("a circle", num_inference_steps=1).images[0].save({str(out / "picture.png")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=out, capture_output=True)
    assert (out / "picture.png").is_file()


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_out_and_in_again_is_bitwise(weights: str, layout: str, run_dir: Path, export: Callable) -> None:
    out = export(run_dir, f"layout={layout}", f"weights={weights}")
    path = out if layout == "diffusers" else out / "out.safetensors"
    config = read_config(str(run_dir))
    expected, found = build_parts(config), build_parts(config)
    load_weights(run_dir, expected, weights=weights)
    config.network.weights = str(path)
    start(config, found)
    assert_close(found.network.state_dict(), expected.network.state_dict(), rtol=0, atol=0)
    from ldm_train.weights.loading import load
    from ldm_train.weights.parts import find_text_encoder
    from ldm_train.weights.text_layout import reading

    tower, text = found.text_encoder.tower.state_dict(), find_text_encoder(path)
    load(tower, reading(tower, text.tensors), text.tensors, text.shapes)
    assert_close(tower, expected.text_encoder.tower.state_dict(), rtol=0, atol=0)
    vae = found.autoencoder.model.state_dict()
    from ldm_train.encoders.autoencoder import pretrained

    read = pretrained(str(path), scale=SCALE, shift=None if layout == "diffusers" else 0.0)
    moved = {"quant_conv.bias", "post_quant_conv.bias"}
    again = read.model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in vae.items() if name not in moved)
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(read.decode(z), found.autoencoder.decode(z + SHIFT), rtol=1e-4, atol=1e-5)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_close(read.encode(image).mean, found.autoencoder.encode(image).mean - SHIFT, rtol=1e-4, atol=1e-5)
