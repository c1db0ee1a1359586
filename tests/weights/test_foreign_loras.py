"""LoRAs as kohya's scripts and LyCORIS write them: merged as one does by hand, or refused by name; nothing is left out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from ldm_train.conditioners.text_encoder import small
from ldm_train.networks.unet import UNet
from ldm_train.weights.lora.lora_files import read_adapter
from ldm_train.weights.lora.low_rank import WeightedAdapter, merge_adapters

MIDDLE = "lora_unet_mid_block_attentions_0_"
BLOCK, CONV = f"{MIDDLE}transformer_blocks_0_", "lora_unet_mid_block_resnets_0_conv1"
LAYER = "lora_te_text_model_encoder_layers_1_"
OURS, TOWER = "network.middle.0.", "text_encoder.tower.transformer.resblocks.1."


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    settings = {"channels": [64, 64], "blocks": 1, "attention": [False, True], "heads": 4, "scale_shift": False}
    parts: dict[str, nn.Module] = {
        "network.": UNet(in_channels=4, context_width=32, vector_width=None, **settings),
        "text_encoder.": small(width=32, layers=2, heads=4, pooled=False),
    }
    return {
        prefix + name: torch.randn(p.shape, dtype=torch.float64)
        for prefix, part in parts.items()
        for name, p in part.named_parameters()
    }


def pair(name: str, down: tuple[int, ...], up: tuple[int, ...], alpha: float | None = None) -> dict[str, Tensor]:
    """Random matrices of a layer as the scripts name and keep them, in float16."""
    made = {f"{name}.lora_down.weight": torch.randn(down).half(), f"{name}.lora_up.weight": torch.randn(up).half()}
    return made if alpha is None else made | {f"{name}.alpha": torch.tensor(alpha).half()}


def by_hand(state: dict[str, Tensor], name: str) -> Tensor:
    """alpha / r of the product of a layer's matrices, a convolution's by adding up."""
    down, up = (state[f"{name}.lora_{part}.weight"].double() for part in ("down", "up"))
    factor = state.get(f"{name}.alpha", torch.tensor(float(len(down)))).double() / len(down)
    if down.ndim == 2:
        return factor * up @ down
    return factor * torch.einsum("orij,rchw->ochw", up, down)


@pytest.fixture
def load(weights: dict[str, Tensor], tmp_path: Path) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """`load(state)`: what changes of the weights with a file of these tensors."""

    def run(state: dict[str, Tensor]) -> dict[str, Tensor]:
        save_file(state, tmp_path / "x.safetensors")
        return merge_adapters(weights, [WeightedAdapter(read_adapter(tmp_path / "x.safetensors", weights), 1.0, "x")])

    return run


LINEAR, ONE = ((3, 64), (64, 3)), ((3, 64, 1, 1), (64, 3, 1, 1))
CASES = {
    "linear": (f"{BLOCK}attn2_to_q", *LINEAR, f"{OURS}transformer.cross_attention.to_q.weight"),
    "linear projection": (f"{MIDDLE}proj_in", *LINEAR, f"{OURS}transformer.proj_in.weight"),
    "1x1 projection": (f"{MIDDLE}proj_out", *ONE, f"{OURS}transformer.proj_out.weight"),
    "3x3": (CONV, (3, 64, 3, 3), (64, 3, 1, 1), f"{OURS}residual.conv_1.weight"),
    "text": (f"{LAYER}mlp_fc2", (3, 128), (32, 3), f"{TOWER}mlp.c_proj.weight"),
}


@pytest.mark.parametrize("alpha", [None, 1.0, 5.0])
@pytest.mark.parametrize("case", CASES)
def test_a_layer_is_merged_as_by_hand(
    case: str, alpha: float | None, weights: dict[str, Tensor], load: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    name, down, up, ours = CASES[case]
    state = pair(name, down, up, alpha)
    changed = load(state)
    assert changed.keys() == {ours}
    assert_close(changed[ours], weights[ours] + by_hand(state, name).view(weights[ours].shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_with_lengths_of_rows_it_is_dora_by_hand(
    case: str, weights: dict[str, Tensor], load: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    name, down, up, ours = CASES[case]
    lengths = torch.rand(up[0], *[1] * (len(down) - 1))
    state = pair(name, down, up, 2.0) | {f"{name}.dora_scale": lengths}
    summed = (weights[ours] + by_hand(state, name).view(weights[ours].shape)).flatten(1)
    expected = summed / summed.square().sum(1, keepdim=True).sqrt() * lengths.flatten(1).double()
    assert_close(load(state)[ours], expected.view(weights[ours].shape), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("names", "down", "up", "ours"),
    [
        ([f"{BLOCK}attn2_to_{one}" for one in "kv"], 32, 64, f"{OURS}transformer.cross_attention.to_kv.weight"),
        ([f"{LAYER}self_attn_{one}_proj" for one in "qkv"], 32, 32, f"{TOWER}attn.in_proj_weight"),
    ],
)
def test_layers_that_are_one_here_keep_their_own_ranks_and_alphas(
    names: list[str],
    down: int,
    up: int,
    ours: str,
    weights: dict[str, Tensor],
    load: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    state: dict[str, Tensor] = {}
    for rank, name in enumerate(names, start=2):
        state |= pair(name, (rank, down), (up, rank), 7.0 - rank)
    expected = weights[ours] + torch.cat([by_hand(state, name) for name in names])
    # Factors that differ are multiplied into float32.
    assert_close(load(state)[ours], expected, rtol=1e-5, atol=1e-6)


FITS = pair(CONV, (3, 64, 3, 3), (64, 3, 1, 1))


SETTINGS = "lora_adapter_metadata"


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        ("[]", SETTINGS),
        ("{", "cannot be read as a safetensors file"),
        ("[" * 100_000, "cannot be read as a safetensors file"),
        ('{"unet.lora_alpha": "8"}', "unet.mid_block.attentions.0.proj_in"),
        ('{"unet.lora_alpha": NaN}', "unet.mid_block.attentions.0.proj_in.*nan"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": [1]}', "unet.mid_block.attentions.0.proj_in"),
        ('{"unet.lora_alpha": 8, "unet.alpha_pattern": {"(": 1}}', "unet.mid_block.attentions.0.proj_in"),
    ],
)
def test_settings_that_are_none_are_refused(reported: str, message: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    matrices = {"A": torch.zeros(3, 64), "B": torch.zeros(64, 3)}
    state = {f"unet.mid_block.attentions.0.proj_in.lora_{name}.weight": matrix for name, matrix in matrices.items()}
    save_file(state, tmp_path / "x.safetensors", metadata={SETTINGS: reported})
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
        read_adapter(tmp_path / "x.safetensors", weights)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (FITS | {f"{CONV}.lora_mid.weight": torch.zeros(3, 3, 3, 3)}, "lora_mid.weight"),
        (FITS | {f"{CONV}.diff_b": torch.zeros(64)}, "conv1.diff_b"),
        (FITS | {"lora_unet_conv_norm_out.w_norm": torch.zeros(64)}, "w_norm"),
        (FITS | {f"{CONV}.dora_scale": torch.ones(1, 64, 1, 1)}, "conv1.dora_scale.*DoRA of columns"),
        (
            FITS | {f"{CONV}.dora_scale": torch.ones(32, 1, 1, 1)},
            r"DoRA.*\(32, 1, 1, 1\).* 64",
        ),
        (pair(CONV, (3, 64, 1, 1), (64, 3, 1, 1)), r"conv1 .*\(64, 64, 1, 1\).*\(64, 64, 3, 3\)"),
        (pair(CONV, (3, 64, 3, 3), (64, 3, 3, 3)), r"conv1: .*\(3, 64, 3, 3\).*\(64, 3, 3, 3\)"),
        (pair(f"{BLOCK}attn2_to_k", (3, 32), (63, 3)), r"attn2_to_k .*\(63, 32\).*\(64, 32\)"),
        (pair(f"{BLOCK}attn2_to_k", (3, 32), (64, 4)), r"attn2_to_k: .*\(3, 32\).*\(64, 4\)"),
        (pair(f"{BLOCK}attn2_to_k", (0, 32), (64, 0)), r"attn2_to_k: .*\(0, 32\).*\(64, 0\)"),
        (FITS | {f"{BLOCK}attn2_to_k.lora_up.weight": torch.zeros(64, 3)}, "pairs.*attn2_to_k"),
        (FITS | {f"{CONV}.alpha": torch.tensor(float("nan"))}, "NaN.*lora_unet_mid_block_resnets_0_conv1.alpha"),
        (FITS | {f"{CONV}.lora_up.weight": torch.zeros(64, 3, 1, 1, dtype=torch.int8)}, "integers.*conv1.lora_up"),
        (FITS | {f"{CONV}.lora_A.weight": torch.zeros(3, 64, 3, 3)}, "same weight under two names: .*conv1.lora_"),
        (FITS | {"lora_unet_input_blocks_1_1_proj_in.lora_up.weight": torch.zeros(64, 3)}, "no layers .*input_blocks_1_1"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused(
    tensors: dict[str, Tensor], message: str, load: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=rf"x\.safetensors: .*{message}"):
        load(tensors)
