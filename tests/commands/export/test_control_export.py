"""A ControlNet leaves as diffusers' ControlNetModel, comes back from it, and draws the same pictures there."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline, StableDiffusionPipeline
from PIL import Image, ImageOps

from ldm_train import draws
from ldm_train.assembly.stored_weights import read_weights
from tests.assembly.tiny_pipelines import PROMPT, SIDE, expect_same, make_pipeline, randomize, read_drawn, tiny_text_models
from tests.commands.export.shaped import SHAPE

pytestmark = pytest.mark.slow  # they train
CONDITIONS = "conditions=[{control:{name:inverse}}]"
OURS = [*SHAPE, "network.channels=[64,128]", "network.heads=8"]
DIFFUSERS = [
    *("network=diffusers_unet", "network.block_out_channels=[64,128]", "network.attention_head_dim=8"),
    "network.down_block_types=[CrossAttnDownBlock2D,DownBlock2D]",
    "network.up_block_types=[UpBlock2D,CrossAttnUpBlock2D]",
]
SHORT = ["max_steps=2", "pictures.every=100", "validation.every=100", "scale_check=false", "adapter=controlnet", CONDITIONS]
NETWORKS = pytest.mark.parametrize("network", [OURS, DIFFUSERS], ids=["ours", "diffusers"])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline's folder, and next to it a folder with a ControlNet of random weights for it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "models").mkdir()
    with tiny_text_models(folder / "models"):
        pipeline = make_pipeline("plain", folder, second=False)
        control = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 16))
        randomize(control, seed=5).save_pretrained(folder / "control")
        yield folder / "pipeline"


@pytest.fixture(scope="module")
def inverses(pictures: Path, published: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of pictures and of their inverses, by that pipeline's encoders."""
    folder = tmp_path_factory.mktemp("inverses")
    shutil.copytree(pictures, folder / "source")
    (folder / "source/inverses").mkdir()
    for path in pictures.glob("*.png"):
        ImageOps.invert(Image.open(path).convert("RGB")).save(folder / "source/inverses" / path.name)
    words = ["image_size=16", "autoencoder=pretrained", "text_encoder=clip_vit_l_14", "text_encoder.model=tiny-1"]
    words += [f"{part}.weights={published}" for part in ("autoencoder", "text_encoder")]
    maps = ["source.maps={inverse:inverses/{name}}", CONDITIONS, "scale_check=false", "dtype=float32"]
    answer = ldm_train("encode", f"source.path={folder / 'source'}", f"cache={folder / 'cache'}", *words, *maps)
    assert answer.code == 0, answer.err
    return folder / "cache"


@pytest.fixture
def start(inverses: Path, published: Path, ldm_train: Callable, tmp_path: Path) -> Callable[..., Path]:
    """`start(name, *words)`: two steps of a ControlNet on the pipeline."""

    def run(name: str, *words: str) -> Path:
        own = [f"cache={inverses}", f"run_dir={tmp_path / name}", f"network.weights={published}", "batch_size=4"]
        answer = ldm_train("train", *own, *SHORT, "threads=1", *words)
        assert answer.code == 0, answer.err
        return tmp_path / name

    return run


def expect_same_pictures(run_dir: Path, published: Path, control: Path, inverses: Path, ldm_train: Callable) -> None:
    """Raise unless a run draws what diffusers draws with this ControlNet, and something else than without it."""
    file = inverses.parent / "source/inverses/circle-red.png"
    plain = StableDiffusionPipeline.from_pretrained(published, safety_checker=None)
    pipeline = StableDiffusionControlNetPipeline(
        **plain.components, controlnet=ControlNetModel.from_pretrained(control), requires_safety_checker=False
    )
    pipeline.scheduler = DDIMScheduler.from_config(plain.scheduler.config, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    noise = draws.normal(0, "initial noise", torch.tensor([0]), (4, SIDE // 2, SIDE // 2))
    words = [f"prompts=['{PROMPT}']", "steps=4", "device=cpu", "guidance.scale=3", f"map.inverse={file}"]
    drawn = {}
    for scale in (1.0, 0.5, 0.0):
        answer = ldm_train(
            "sample", f"run_dir={run_dir}", f"out={run_dir.parent / 'drawn'}", *words, f"control_scale={scale}"
        )
        assert answer.code == 0, answer.err
        drawn[scale] = read_drawn(run_dir.parent / "drawn/0000.png")
        given = {"image": Image.open(file), "latents": noise, "controlnet_conditioning_scale": scale}
        expected = pipeline(PROMPT, num_inference_steps=4, guidance_scale=3.0, output_type="np", **given).images[0]
        expect_same(torch.from_numpy(expected).permute(2, 0, 1), drawn[scale])
    assert (drawn[1.0] - drawn[0.0]).abs().max() * 255 > 4


@NETWORKS
def test_a_published_controlnet_goes_on_and_draws_the_same(
    network: list[str], published: Path, inverses: Path, start: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    its = published.parent / "control"
    words = [*network, "adapter.hint_channels=[8,16]", f"adapter.weights={its}", "optimizer.lr=0"]
    run_dir = start("run", *words)
    expect_same_pictures(run_dir, published, its, inverses, ldm_train)
    answer = ldm_train("export", f"run_dir={run_dir}", f"out={tmp_path / 'out'}", "layout=controlnet")
    assert answer.code == 0, answer.err
    one, other = (ControlNetModel.from_pretrained(path).state_dict() for path in (its, tmp_path / "out"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@NETWORKS
def test_a_trained_one_draws_the_same_in_diffusers_and_comes_back(
    network: list[str], published: Path, inverses: Path, start: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    run_dir = start("run", *network, "optimizer.lr=0.02")
    out = tmp_path / "exported"
    answer = ldm_train("export", f"run_dir={run_dir}", f"out={out}", "layout=controlnet")
    assert answer.code == 0, answer.err
    expect_same_pictures(run_dir, published, out, inverses, ldm_train)
    card = (out / "README.md").read_text()
    assert "StableDiffusionControlNetPipeline" in card
    assert "adapter.weights=exported" in card
    again = start("again", *network, f"adapter.weights={out}", "optimizer.lr=0")
    one, other = read_weights(again, "raw")[0], read_weights(run_dir, "ema")[0]
    assert all(torch.equal(one[name], other[name]) for name in other)
    own = tmp_path / "own.safetensors"
    assert ldm_train("export", f"run_dir={run_dir}", f"out={own}").code == 0
    third = start("third", *network, f"adapter.weights={own}", "optimizer.lr=0")
    assert all(torch.equal(tensor, other[name]) for name, tensor in read_weights(third, "raw")[0].items())


def test_another_controlnet_is_refused(
    published: Path, inverses: Path, start: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    its = published.parent / "control"
    own = [f"cache={inverses}", f"run_dir={tmp_path / 'run'}", f"network.weights={published}", *SHORT, *OURS]
    config = json.loads((its / "config.json").read_text())
    for change, parts in (
        ({}, ("hint_channels", "controlnet_cond_embedding")),  # of published widths
        ({"controlnet_conditioning_channel_order": "bgr"}, ("colours",)),
        ({"attention_head_dim": 4}, ("heads=[4, 4] there",)),
        ({"_class_name": "UNet2DConditionModel"}, ("ControlNetModel",)),
    ):
        changed = tmp_path / "changed"
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(its, changed)
        (changed / "config.json").write_text(json.dumps(config | change))
        words = [f"adapter.weights={changed}", *(["adapter.hint_channels=[8,16]"] if change else [])]
        answer = ldm_train("train", *own, *words)
        assert answer.code == 1
        assert f"adapter.weights={changed}" in answer.err
        assert any(part in answer.err for part in parts), answer.err
    answer = ldm_train("train", *own, f"adapter.weights={published / 'unet'}")
    assert answer.code == 1
    assert "ControlNetModel" in answer.err


def test_what_diffusers_cannot_hold_is_listed(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("export", f"run_dir={trained}", f"out={tmp_path / 'out'}", "layout=controlnet")
    assert answer.code == 1
    assert "adapter=controlnet" in answer.err
