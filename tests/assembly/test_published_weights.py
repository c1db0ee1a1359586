"""A run starts from published weights, and `check` says beforehand what they are, and what does not fit."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.testing import assert_close

from ldm_train.weights.layouts.unet_layout import map_unet_from_diffusers
from tests.conftest import PICTURES, TEXT

FITTING = [
    *("network.channels=[64,64]", "network.attention=[false,true]", "network.blocks=1", "network.scale_shift=false"),
    *("network.head_size=8", "network.expansion=4", "network.patch_size=1", "network.extra_up_block=true"),
]


def unet(*, maps: int = 0) -> UNet2DConditionModel:
    """A network for the cache's latents and text, and for so many channels next to them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            in_channels=3 + maps,
            out_channels=3,
            cross_attention_dim=32,
            block_out_channels=[64, 64],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            layers_per_block=1,
            attention_head_dim=8,
            class_embed_type="simple_projection",
            projection_class_embeddings_input_dim=32,
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder with such a network."""
    folder = tmp_path_factory.mktemp("published")
    unet().save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(
        '{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"}'
    )
    return folder


def test_a_run_starts_from_published_weights(folder: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    """At a rate of nothing the weights stay where they started."""
    from safetensors.torch import load_file

    words = ["max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0", "pictures.every=1000", "validation.every=1000"]
    answer = train(cache, tmp_path / "run", f"network.weights={folder}", *FITTING, *words)
    assert answer.code == 0, answer.err
    assert f"starting from the weights of {folder}" in answer.out
    assert "warning: its scheduler says that it predicts velocity, and prediction=noise is set" in answer.out
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    own = {name.removeprefix("network."): tensor for name, tensor in state.items() if name.startswith("network.")}
    theirs = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    assert_close(own, {name: piece(theirs) for name, piece in map_unet_from_diffusers(own, theirs).items()}, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("words", "code", "reported"),
    [
        (
            FITTING,
            0,
            [
                "a network (channels=[64, 64], context_width=32), in diffusers' layout",
                "warning: its scheduler says that it predicts velocity",
            ],
        ),
        (
            [*FITTING, "network.channels=[64,128]", "network.head_size=16"],
            1,
            ["- network.weights=", "channels=[64, 64] there and [64, 128] here; set network.channels=[64,64]"],
        ),
        ([*FITTING, "text_encoder.width=64"], 1, ["context_width=32 there and 64 here", "choose the text encoder that"]),
    ],
)
def test_check_says_what_they_are(
    words: list[str], code: int, reported: list[str], folder: Path, pictures: Path, ldm_train: Callable
) -> None:
    words = [*PICTURES, *TEXT, "trainer.accelerator=cpu", "threads=1", "batch_size=4", "measure=false", *words]
    answer = ldm_train("check", f"source.path={pictures}", f"network.weights={folder}", *words)
    assert answer.code == code, answer.out + answer.err
    for line in reported:
        assert line in answer.out


def test_raw_weights_of_a_run_are_taken_where_that_is_asked(
    trained: Path, cache: Path, train: Callable, tmp_path: Path
) -> None:
    words = ["max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0", "network.averaged=false"]
    answer = train(cache, tmp_path / "run", f"network.weights={trained}", *words)
    assert answer.code == 0, answer.err
    assert f"starting from the raw weights of {trained} at its step 8" in answer.out
    before, after = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (trained, tmp_path / "run")
    )
    assert_close(after, before, rtol=0, atol=0)


def test_an_exported_file_is_taken_too(
    trained: Path, cache: Path, ldm_train: Callable, train: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "weights.safetensors"
    assert ldm_train("export", f"run_dir={trained}", f"out={out}").code == 0
    words = ["max_steps=1", "optimizer.lr=0", "optimizer.weight_decay=0"]
    answer = train(cache, tmp_path / "run", f"network.weights={out}", *words)
    assert answer.code == 0, answer.err
    assert f"starting from the weights in {out}, of step 8" in answer.out


@pytest.mark.parametrize("network", [FITTING, ["network=diffusers_unet"]], ids=["ours", "diffusers"])
@pytest.mark.parametrize(
    ("maps", "what", "mend"),
    [
        (1, "1 channel", "set conditions=[depth]"),
        (3, "3 channels", "choose weights"),
        (4, "4 channels", "set conditions=[reference]"),
        (5, "5 channels", "set conditions=[inpaint]"),
    ],
)
def test_what_draws_from_more_than_captions_is_refused(
    maps: int, what: str, mend: str, network: list[str], cache: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    """Stable Diffusion's networks for depth, enlarging, edits and inpainting."""
    unet(maps=maps).save_pretrained(tmp_path / "unet")
    words = [f"network.weights={tmp_path}", *network, "trainer.accelerator=cpu", "threads=1", "max_steps=1"]
    answer = ldm_train("train", f"cache={cache}", f"run_dir={tmp_path / 'run'}", *words)
    assert answer.code == 1
    assert f"next to noisy latents it takes {what}" in answer.err
    assert mend in answer.err
    assert "choose weights that draw from captions alone" in answer.err
    assert not (tmp_path / "run").exists()
