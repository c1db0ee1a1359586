"""Scaled-down published models with random weights, each of which can be saved in every layout."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn

CONTEXT = 48
THREE = {
    "block_out_channels": [64, 64, 128],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
}
UPSCALER = {
    "block_out_channels": [64, 64, 128, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "only_cross_attention": [True, True, True, False],
    "in_channels": 7,
    "attention_head_dim": 8,
    "num_class_embeds": 10,
    "use_linear_projection": True,
}
# diffusers' settings, and ours of the same meaning.
OURS = {"channels": [64, 64, 128], "blocks": 1, "attention": [True, True, False], "middle_attention": True}
UNETS: dict[str, tuple[dict, dict]] = {
    "1.x": (THREE | {"attention_head_dim": 8, "layers_per_block": 2}, OURS | {"heads": 8, "blocks": 2}),
    "2.x": (THREE | {"attention_head_dim": [4, 4, 8], "use_linear_projection": True}, OURS | {"head_size": 16}),
    "2.x depth": (
        THREE | {"attention_head_dim": [4, 4, 8], "use_linear_projection": True, "in_channels": 5},
        OURS | {"head_size": 16, "map_channels": 1},
    ),
    "1.x inpainting": (THREE | {"attention_head_dim": 8, "in_channels": 9}, OURS | {"heads": 8, "map_channels": 5}),
    "x4 upscaler": (
        UPSCALER,
        {
            "channels": [64, 64, 128, 128],
            "blocks": 1,
            "attention": [False, True, True, True],
            "only_cross_attention": [True, True, True, False],
            "heads": 8,
            "map_channels": 3,
        },
    ),
    "attention at the lowest level alone": (
        {
            "block_out_channels": [64, 64],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "layers_per_block": 1,
            "attention_head_dim": 4,
        },
        {"channels": [64, 64], "blocks": 1, "attention": [False, True], "heads": 4},
    ),
}


def shuffled(module: nn.Module, *, seed: int = 0) -> nn.Module:
    """The module with random numbers in all its tensors, those too that start as zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def make_unet(case: str) -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return shuffled(UNet2DConditionModel(cross_attention_dim=CONTEXT, sample_size=8, **UNETS[case][0]))


def make_autoencoder(**changes: object) -> AutoencoderKL:
    settings = {
        "block_out_channels": [32, 64],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.3,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return shuffled(AutoencoderKL(**(settings | changes)))


@pytest.fixture(scope="session")
def unet() -> Callable[[str], UNet2DConditionModel]:
    """`unet(case)`: diffusers' of one of the published shapes, made once."""
    made: dict[str, UNet2DConditionModel] = {}
    return lambda case: made[case] if case in made else made.setdefault(case, make_unet(case))


@pytest.fixture(scope="session")
def autoencoder() -> AutoencoderKL:
    return make_autoencoder()


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone().contiguous() for name, tensor in state.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Mapping[str, Tensor], str], Path]:
    """`saved(state, "model.ckpt")`: a file of these tensors, as whoever publishes such files writes it."""

    def save(state: Mapping[str, Tensor], name: str) -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            save_file(contiguous(state), path)
        else:
            torch.save({"state_dict": contiguous(state), "global_step": 470_000}, path)
        return path

    return save


@pytest.fixture
def in_shards(tmp_path: Path) -> Callable[[Path, str], Path]:
    """`in_shards(folder, name)`: the folder with its one safetensors file cut into three, and an index."""
    from safetensors.torch import load_file

    def cut(folder: Path, name: str) -> Path:
        state = load_file(folder / f"{name}.safetensors")
        files = [f"{name}-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
        places = {tensor: files[number % 3] for number, tensor in enumerate(sorted(state))}
        for file in files:
            save_file({tensor: state[tensor] for tensor, place in places.items() if place == file}, folder / file)
        (folder / f"{name}.safetensors").unlink()
        (folder / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        return folder

    return cut
