"""Weights out in the layouts that others read, and in again: same tensors, same pictures, by diffusers itself."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch.testing import assert_close

from ldm_train.encoders.autoencoder import pretrained
from ldm_train.tasks.exporting.folder import MARK
from ldm_train.tasks.parts.assemble import build_parts, load_weights, read_config
from ldm_train.tasks.parts.published import start
from ldm_train.weights.loading import load
from ldm_train.weights.parts import find_text_encoder
from ldm_train.weights.text_layout import reading
from tests.tasks.exporting.drawn import SCALE, SHAPE, SHIFT, opened, ours, same_picture, theirs


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
@pytest.mark.parametrize(("shape", "weights"), [("1.x", "ema"), ("2.x", "raw")])
def test_out_and_in_again_is_bitwise(
    shape: str, weights: str, layout: str, run_dir: Path, run_1: Path, export: Callable
) -> None:
    run, shift = (run_1, 0.0) if shape == "1.x" else (run_dir, SHIFT)
    out = export(run, f"layout={layout}", f"weights={weights}")
    path = out if layout == "diffusers" else out / "out.safetensors"
    config = read_config(str(run))
    expected, found = build_parts(config), build_parts(config)
    load_weights(run, expected, weights=weights)
    config.network.weights = str(path)
    start(config, found)
    assert_close(found.network.state_dict(), expected.network.state_dict(), rtol=0, atol=0)
    tower, text = found.text_encoder.tower.state_dict(), find_text_encoder(path)
    load(tower, reading(tower, text.tensors), text.tensors, text.shapes)
    assert_close(tower, expected.text_encoder.tower.state_dict(), rtol=0, atol=0)
    read = pretrained(str(path), scale=SCALE)
    moved = {"quant_conv.bias", "post_quant_conv.bias"} if shift else set()
    before, after = (part.model.state_dict() for part in (found.autoencoder, read))
    assert {name for name, tensor in before.items() if not torch.equal(after[name], tensor)} == moved
    z = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_close(read.decode(z), found.autoencoder.decode(z + shift), rtol=1e-4, atol=1e-5)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_close(read.encode(image).mean, found.autoencoder.encode(image).mean - shift, rtol=1e-4, atol=1e-5)


def test_an_exported_file_of_our_own_leaves_as_what_it_is(run_1: Path, export: Callable, tmp_path: Path) -> None:
    own = export(run_1, "weights=raw", out="raw.safetensors")
    direct, through = (export(run_1, "layout=diffusers", f"weights={w}", out=f"{n}") for n, w in enumerate(("raw", own)))
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (direct / name).read_bytes() == (through / name).read_bytes()


def test_an_exported_pipeline_is_measured(run_1: Path, pictures: Path, ldm_train: Callable, export: Callable) -> None:
    out = export(run_1, "layout=diffusers")
    words = [f"pipeline={out}", f"real={pictures}", "samples=4", "steps=1", "resamples=0", "device=cpu"]
    answer = ldm_train("evaluate", *words, f"out={out.parent}/o.json")
    assert answer.code == 0, answer.err
    assert json.loads((out.parent / "o.json").read_text())["pipeline"] == "StableDiffusionPipeline"


def test_velocity_on_a_schedule_of_its_own(run_dir: Path, train: Callable, export: Callable, tmp_path: Path) -> None:
    cache = read_config(str(run_dir)).cache
    words = ("prediction=velocity", "schedule=sigmoid", "schedule.zero_terminal_snr=true", "optimizer.lr=0.02")
    answer = train(cache, tmp_path / "run", *SHAPE, "scale_check=false", *words)
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    scheduler = json.loads((out / "scheduler/scheduler_config.json").read_text())
    assert (scheduler["prediction_type"], len(scheduler["trained_betas"])) == ("v_prediction", 1000)
    same_picture(ours(tmp_path / "run"), theirs(opened(out), tmp_path / "run"))


# What diffusers' classes cannot hold


def test_of_another_network_the_other_parts_leave(
    trained: Path, run_dir: Path, train: Callable, export: Callable, tmp_path: Path
) -> None:
    answer = train(read_config(str(run_dir)).cache, tmp_path / "run", "scale_check=false", "max_steps=1")
    assert answer.code == 0, answer.err
    out = export(tmp_path / "run", "layout=diffusers")
    assert {path.name for path in out.iterdir()} == {
        *("README.md", MARK, "scheduler", "text_encoder", "tokenizer", "vae"),
    }
    card = (out / "README.md").read_text()
    for words in ("network.patch_size=2", "network.extra_up_block=false", "network.expansion=1", "of 16 channels"):
        assert f"what diffusers' classes cannot hold: {words}" in card or words in card
    assert 'AutoencoderKL.from_pretrained("out", subfolder="vae")' in card


@pytest.mark.parametrize("layout", ["single_file", "lora"])
def test_what_has_no_place_in_a_layout_is_refused(layout: str, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", f"layout={layout}")
    assert answer.code == 1
    expected = "network.patch_size=2" if layout == "single_file" else "layout=lora is for a run of adapters"
    assert expected in answer.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("layout=diffusers", "out={tmp}/a.safetensors"), "must be a folder with layout=diffusers"),
        (("layout=diffuser",), "layout=diffuser is not known"),
        (("layout=diffusers", "lora_format=kohya"), "lora_format=kohya has no effect with layout=diffusers"),
        (("layout=lora", "merge=true"), "merge=true has no effect with layout=lora"),
        (("out={tmp}/a.safetensors", "dtype=float16"), "dtype=float16 has no effect without layout="),
        (("layout=diffusers", "weights=best"), "weights=best cannot be exported"),
    ],
)
def test_settings_that_do_nothing_are_refused(
    words: tuple[str, ...], message: str, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path}/out", *(word.format(tmp=tmp_path) for word in words))
    assert answer.code == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_diffusers_own_network_leaves_as_it_is(run_dir: Path, ldm_train: Callable, export: Callable, tmp_path: Path) -> None:
    words = ("network=diffusers_unet", "network.block_out_channels=[32,64]", "network.layers_per_block=1")
    blocks = (
        "network.down_block_types=[CrossAttnDownBlock2D,DownBlock2D]",
        "network.up_block_types=[UpBlock2D,CrossAttnUpBlock2D]",
        "network.attention_head_dim=4",
    )
    short = ("trainer.accelerator=cpu", "threads=1", "batch_size=4", "max_steps=2", "pictures.every=9", "validation.every=9")
    told = [f"cache={read_config(str(run_dir)).cache}", f"run_dir={tmp_path}/run", "scale_check=false", "metrics.every=null"]
    answer = ldm_train("train", *told, *words, *blocks, *short, "optimizer.lr=0.02", "lr_schedule.warmup_steps=1")
    assert answer.code == 0, answer.err
    same_picture(ours(tmp_path / "run"), theirs(opened(export(tmp_path / "run", "layout=diffusers")), tmp_path / "run"))
