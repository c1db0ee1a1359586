"""Adapters leave and come back bit for bit, and diffusers computes with them what the network here does."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModel

from ldm_train.conditioners.text_encoder import small
from ldm_train.networks.lora import LoRA
from ldm_train.networks.unet import UNet
from ldm_train.types import Conditioning
from ldm_train.weights.layouts.unet_layout import convert_unet_to_diffusers as unet_to_diffusers
from ldm_train.weights.lora.lora_files import DIFFUSERS_METADATA_KEY, read_adapter
from ldm_train.weights.lora.lora_layout import (
    export_adapter_to_diffusers,
    export_adapter_to_kohya,
    import_adapter,
    join_layers,
    split_layer,
)
from ldm_train.weights.lora.low_rank import (
    ALPHA,
    DOWN,
    LowRankLayer,
    WeightedAdapter,
    extract_adapter,
    group_layers,
    merge_adapters,
)
from ldm_train.weights.tensor_files import write_tensor_file

ALL = ["*_attention.to_*", "*.feed_forward.*", "*.proj_*", "*.conv_1", "*.embedding"]


def network() -> UNet:
    torch.manual_seed(0)
    settings = {"channels": [64, 64], "blocks": 1, "attention": [False, True], "heads": 4, "scale_shift": False}
    made = UNet(in_channels=4, context_width=32, vector_width=None, **settings)
    for p in made.parameters():
        nn.init.normal_(p, std=0.05)
    return made


def texts() -> nn.Module:
    torch.manual_seed(1)
    return small(width=32, layers=2, heads=4, pooled=False)


def state(net: nn.Module, text: nn.Module) -> dict[str, Tensor]:
    parts = {"network.": net, "text_encoder.": text}
    return {prefix + name: p.detach() for prefix, part in parts.items() for name, p in part.named_parameters()}


@pytest.fixture(scope="module")
def like() -> dict[str, Tensor]:
    return state(network(), texts())


def trained(*, dora: bool = False, alpha: float | None = None, text_encoder: bool = True) -> dict[str, Tensor]:
    """An adapter of both, as if it had been trained."""
    net, text = network(), texts()
    lora = LoRA(rank=3, alpha=alpha, dora=dora, targets=ALL, text_encoder=text_encoder, text_targets=["*"])
    lora.attach(net, text, seed=0)
    generator = torch.Generator().manual_seed(4)
    own = {name: p for name, p in state(net, text).items() if ".lora_" in name}
    return extract_adapter(
        {name: p + 0.1 * torch.randn(p.shape, generator=generator) for name, p in own.items()}, alpha=lora.factor_alpha
    )


def assert_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_an_adapter_leaves_and_comes_back_bit_for_bit(
    layout: str, linear: bool, alpha: float | None, dora: bool, like
) -> None:
    adapter = trained(dora=dora, alpha=alpha)
    if layout == "diffusers":
        theirs, reported = export_adapter_to_diffusers(adapter, like, linear_projection=linear)
        reported = json.loads(json.dumps(reported))
    else:
        theirs, reported = export_adapter_to_kohya(adapter, like, linear_projection=linear), None
    assert_same(import_adapter(theirs, like, settings=reported), adapter)


@pytest.mark.parametrize("names", ["lora.down lora.up", "lora_linear_layer.down lora_linear_layer.up"])
def test_the_names_that_diffusers_had_before_are_read_too(names: str, like) -> None:
    adapter = trained()
    theirs, _ = export_adapter_to_diffusers(adapter, like, linear_projection=False)
    down, up = names.split()
    older = {name.replace("lora_A", down).replace("lora_B", up): tensor for name, tensor in theirs.items()}
    assert_same(import_adapter(older, like), adapter)


def diffusers_unet(net: UNet, *, linear: bool) -> UNet2DConditionModel:
    theirs = UNet2DConditionModel(
        block_out_channels=(64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=32,
        use_linear_projection=linear,
    )
    theirs.load_state_dict(unet_to_diffusers(net.state_dict(), net.state_dict(), linear_projection=linear))
    return theirs.eval()


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    ("layout", "dora"),
    [("diffusers", False), ("diffusers", True), ("kohya", False)],  # diffusers leaves DoRA's lengths out of kohya's files
)
@torch.no_grad()
def test_diffusers_computes_with_an_adapter_what_is_computed_here(layout: str, dora: bool, linear: bool, like) -> None:
    adapter, net = trained(dora=dora, alpha=2.0, text_encoder=False), network().eval()
    theirs = diffusers_unet(net, linear=linear)
    if layout == "diffusers":
        tensors, reported = export_adapter_to_diffusers(adapter, like, linear_projection=linear)
        theirs.load_lora_adapter(tensors, prefix="unet", metadata=reported)
    else:
        from diffusers import StableDiffusionPipeline

        tensors, alphas = StableDiffusionPipeline.lora_state_dict(
            export_adapter_to_kohya(adapter, like, linear_projection=linear)
        )
        theirs.load_lora_adapter(tensors, prefix="unet", network_alphas=alphas)
    x_t, t, context = torch.randn(2, 4, 16, 16), torch.tensor([3, 700]), torch.randn(2, 7, 32)
    before = net(x_t, t, Conditioning(tokens=context))
    changed = merge_adapters(like, [WeightedAdapter(adapter, 1.0, "")])
    net.load_state_dict({name.removeprefix("network."): w for name, w in changed.items()}, strict=False)
    ours = net(x_t, t, Conditioning(tokens=context))
    assert not torch.allclose(ours, before, rtol=1e-2)
    assert_close(theirs(x_t, t, context).sample, ours, rtol=1e-5, atol=1e-5 * ours.abs().max().item())


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_diffusers_own_network_has_the_names_that_it_has_there(layout: str, linear: bool, like) -> None:
    theirs = {f"network.unet.{name}": p for name, p in diffusers_unet(network(), linear=linear).state_dict().items()}
    adapter, write = (
        trained(text_encoder=False),
        {"diffusers": export_adapter_to_diffusers, "kohya": export_adapter_to_kohya}[layout],
    )
    state = write(adapter, like, linear_projection=linear)
    state = state[0] if isinstance(state, tuple) else state
    read = import_adapter(state, theirs)
    again = write(read, theirs, linear_projection=linear)
    assert_same(again[0] if isinstance(again, tuple) else again, state)
    merge_adapters(theirs, [WeightedAdapter(read, 1.0, "")])


@torch.no_grad()
def test_transformers_computes_with_a_text_encoders_adapter_what_is_computed_here(like) -> None:
    from diffusers import StableDiffusionPipeline

    text = texts().eval()
    theirs = clip_like(text)
    adapter = {name: tensor for name, tensor in trained(alpha=2.0).items() if name.startswith("text_encoder.")}
    tensors, reported = export_adapter_to_diffusers(adapter, like, linear_projection=False)
    StableDiffusionPipeline.load_lora_into_text_encoder(tensors, None, theirs, metadata=reported)
    changed = merge_adapters(like, [WeightedAdapter(adapter, 1.0, "")])
    text.load_state_dict({name.removeprefix("text_encoder."): w for name, w in changed.items()}, strict=False)
    tokens = text.tokenize(["a fox", "a fox on a hill"])
    assert_close(theirs(tokens).last_hidden_state, text.embed(tokens), rtol=1e-4, atol=1e-4)


def clip_like(text: nn.Module) -> CLIPTextModel:
    """transformers' model with the weights of a small text encoder."""
    config = CLIPTextConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=16,
        hidden_act="gelu",
    )
    theirs, tower = CLIPTextModel(config).eval(), text.tower.state_dict()
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    names["attn.out_proj"] = "self_attn.out_proj"
    found = {
        "embeddings.token_embedding.weight": tower["token_embedding.weight"],
        "embeddings.position_embedding.weight": tower["positional_embedding"],
        "final_layer_norm.weight": tower["ln_final.weight"],
        "final_layer_norm.bias": tower["ln_final.bias"],
    }
    for n in range(2):
        for kind in ("weight", "bias"):
            block, layer = f"transformer.resblocks.{n}.", f"encoder.layers.{n}."
            found |= {f"{layer}{name}.{kind}": tower[f"{block}{ours}.{kind}"] for ours, name in names.items()}
            parts = tower[f"{block}attn.in_proj_{kind}"].chunk(3)
            found |= {f"{layer}self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", parts, strict=True)}
    prefix = "text_model." if any(name.startswith("text_model.") for name in theirs.state_dict()) else ""
    wrong = theirs.load_state_dict({prefix + name: tensor for name, tensor in found.items()}, strict=False)
    assert not wrong.unexpected_keys
    assert all(name.endswith("position_ids") for name in wrong.missing_keys)
    return theirs


@pytest.mark.parametrize("alphas", [(2.0, 2.0, 2.0), (2.0, 6.0, 1.0)])
@pytest.mark.parametrize("absent", [set(), {0}, {1, 2}])
def test_layers_with_other_matrices_join_to_the_same_changes(alphas: tuple[float, ...], absent: set[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        LowRankLayer(
            torch.randn(rank, 5, generator=generator).double(), torch.randn(4, rank, generator=generator).double(), alpha
        )
        for rank, alpha in zip((2, 2, 3), alphas, strict=True)
    ]
    given = [None if number in absent else part for number, part in enumerate(parts)]
    weight = torch.zeros(4, 5, dtype=torch.float64)
    expected = torch.cat([weight if part is None else part.change(weight) for part in given])
    assert_close(join_layers(given, 4).change(torch.zeros(12, 5, dtype=torch.float64)), expected, rtol=1e-14, atol=1e-14)


def test_a_layer_that_is_split_joins_to_itself() -> None:
    layer = LowRankLayer(torch.randn(3, 5), torch.randn(12, 3), 2.0, torch.rand(12))
    again = join_layers(split_layer(layer, 3), 4)
    assert again.alpha == 2.0
    assert all(torch.equal(getattr(again, name), getattr(layer, name)) for name in ("down", "up", "magnitude"))


def test_files_of_all_layouts_are_read_alike(like, tmp_path: Path) -> None:
    adapter = trained(alpha=2.0)
    theirs, reported = export_adapter_to_diffusers(adapter, like, linear_projection=False)
    save_file(theirs, tmp_path / "diffusers.safetensors", metadata={DIFFUSERS_METADATA_KEY: json.dumps(reported)})
    save_file(export_adapter_to_kohya(adapter, like, linear_projection=False), tmp_path / "kohya.safetensors")
    own = {n.replace(".weight", ".default.weight"): t for n, t in adapter.items() if not n.endswith(ALPHA)}
    write_tensor_file(tmp_path / "ours.safetensors", own, {"step": 8, "alpha": 2.0})
    for name in ("diffusers", "kohya", "ours"):
        assert_same(read_adapter(tmp_path / f"{name}.safetensors", like), adapter)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.weight": (2, 2)}, r"a\.weight.*lora_unet_"),
        ({"unet.x.to_q.lora_A.weight": (2, 2)}, r"no layers unet\.x\.to_q"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (2, 64)}, "pairs.*proj_in"),
        (
            {"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (2, 64)},
            "hada_w1_a.*LoHa",
        ),
        ({"lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (2, 64)}, "Stable Diffusion XL.*lora_te1_"),
        ({"network.x.lora_A.default.weight": (2, 2)}, "alpha.*ldm-train export"),
    ],
)
def test_what_is_no_adapter_of_this_network_is_refused(
    tensors: dict[str, tuple[int, ...]], message: str, like, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(ValueError, match=message):
        read_adapter(path, like)


def test_a_pickle_is_not_read(like, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.ckpt .*safetensors"):
        read_adapter(tmp_path / "x.ckpt", like)


def test_another_shape_is_refused_by_name(like) -> None:
    adapter = trained()
    name = next(name for name in group_layers(adapter) if name.endswith("cross_attention.to_q"))
    adapter[name + DOWN] = torch.zeros(3, 7)
    with pytest.raises(ValueError, match=rf"mine: {name}: .*\(3, 7\)"):
        merge_adapters(like, [WeightedAdapter(adapter, 1.0, "mine")])


def test_dora_of_a_part_of_the_joined_layers_is_refused(like) -> None:
    theirs = export_adapter_to_kohya(trained(dora=True), like, linear_projection=False)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    with pytest.raises(ValueError, match="DoRA of only some"):
        import_adapter({n: t for n, t in theirs.items() if not n.startswith(name)}, like)
