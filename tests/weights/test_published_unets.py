"""Published U-Nets of every shape, in every layout, load here and compute what they did."""

import re
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from torch.testing import assert_close

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.stored_weights import load_first_weights
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.networks.unet import UNet
from ldm_train.settings.schema.options import TARGET, read_part
from ldm_train.settings.shipped import shipped_part
from ldm_train.types import Conditioning
from ldm_train.util.messages import Caution
from ldm_train.weights.layouts.unet_architecture import describe_unet, infer_heads, infer_unet_settings
from ldm_train.weights.layouts.unet_layout import convert_unet_to_diffusers, map_unet_to_diffusers
from ldm_train.weights.layouts.unet_single_file import format_average_name, rename_unet_to_single_file

CASES = [
    "1.x",
    "2.x",
    "2.x depth",
    "1.x inpainting",
    "x4 upscaler",
    "attention at the lowest level alone",
]
EACH_CASE = pytest.mark.parametrize("case", CASES)
CONTEXT = 48


def single(state):
    """A state of diffusers' U-Net in latent-diffusion's layout, with what else such files hold."""
    names = rename_unet_to_single_file(state)
    others = {
        "betas": torch.zeros(3),
        "first_stage_model.encoder.conv_in.weight": torch.zeros(2),
        "scale_factor": torch.ones(()),
    }
    return {names[name]: tensor for name, tensor in state.items()} | others


def asking(network):
    """Settings with this network, of which only what a run keeps of the option is read, and its arguments."""
    return SimpleNamespace(network=read_part("network", {TARGET: "UNet", **network}))


@pytest.fixture
def loaded(settings_of):
    """`loaded(case, path)`: our network of the case with the weights from there, and the notes."""

    def load(case, path, **changes):
        settings = settings_of(case) | changes
        vector_width = 10 if case == "x4 upscaler" else None
        kept = {"averaged", "add_input_channels"}
        with torch.random.fork_rng():
            network = UNet(
                in_channels=4,
                context_width=CONTEXT,
                vector_width=vector_width,
                **{name: value for name, value in settings.items() if name not in kept},
            ).eval()
        text = SimpleNamespace(context_width=CONTEXT, vector_width=vector_width)
        schedule = scaled_linear(num_steps=1000, beta_start=0.00085, beta_end=0.012)
        parts = Parts(network, text, SimpleNamespace(channels=4), schedule, Noise(), None, 64)
        return network, load_first_weights(asking(settings | {"weights": str(path)}), parts)

    return load


@pytest.fixture
def settings_of():
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    spec = spec_from_file_location("published", Path(__file__).with_name("conftest.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda case: {"scale_shift": False, **module.UNETS[case][1]}


def outputs(ours, theirs, case):
    """Of the same noisy latents, timesteps and conditioning."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, theirs.config.in_channels, 8, 8, generator=generator)
    tokens, t = torch.randn(2, 7, CONTEXT, generator=generator), torch.tensor([3, 981])
    levels = torch.tensor([1, 7]) if case == "x4 upscaler" else None
    vector = None if levels is None else torch.nn.functional.one_hot(levels, 10).float()
    maps = x[:, 4:] if x.shape[1] > 4 else None
    with torch.no_grad():
        expected = theirs(x, t, tokens, class_labels=levels).sample
        return ours(x[:, :4], t, Conditioning(tokens=tokens, vector=vector, maps=maps)), expected


@EACH_CASE
def test_a_folder_computes_what_it_did(case, unet, loaded, tmp_path):
    theirs = unet(case)
    theirs.save_pretrained(tmp_path / "unet")
    ours, reported = loaded(case, tmp_path)
    output, expected = outputs(ours, theirs, case)
    assert (output - expected).norm() <= 1e-5 * expected.norm()
    assert "diffusers' layout" in reported[0]


@EACH_CASE
def test_a_single_file_is_the_same_network_bit_for_bit(case, unet, loaded, saved, tmp_path):
    theirs = unet(case)
    theirs.save_pretrained(tmp_path / "unet")
    expected, _ = loaded(case, tmp_path)
    for name in ("model.safetensors", "model.ckpt"):
        ours, reported = loaded(case, saved(single(theirs.state_dict()), name))
        assert_close(ours.state_dict(), expected.state_dict(), rtol=0, atol=0)
        assert "latent-diffusion's layout" in reported[0]
        assert any("number of attention heads" in line for line in reported)
        assert any("what it predicts" in line for line in reported)


@EACH_CASE
def test_the_single_file_s_names_are_those_that_diffusers_reads(case, unet):
    theirs = unet(case)
    config = dict(theirs.config)
    assert_close(convert_ldm_unet_checkpoint(single(theirs.state_dict()), config), dict(theirs.state_dict()), rtol=0, atol=0)


def test_names_of_the_published_file(unet):
    names = set(rename_unet_to_single_file(unet("1.x").state_dict()).values())
    assert names >= {
        "model.diffusion_model.time_embed.2.bias",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.input_blocks.3.0.op.weight",
        "model.diffusion_model.output_blocks.2.1.conv.weight",
        "model.diffusion_model.output_blocks.5.2.conv.bias",
        "model.diffusion_model.output_blocks.8.0.skip_connection.weight",
        "model.diffusion_model.out.2.bias",
    }


@EACH_CASE
def test_back_in_diffusers_layout_it_is_what_came(case, unet, loaded, tmp_path):
    theirs = unet(case)
    theirs.save_pretrained(tmp_path)
    ours, _ = loaded(case, tmp_path)
    linear = theirs.config.use_linear_projection
    state = ours.state_dict()
    back = convert_unet_to_diffusers(state, state, linear_projection=linear, noise_levels=case == "x4 upscaler")
    assert_close(back, dict(theirs.state_dict()), rtol=0, atol=0)
    table = map_unet_to_diffusers(state, linear_projection=linear, noise_levels=case == "x4 upscaler")
    assert_close({name: piece(state) for name, piece in table.items()}, back, rtol=0, atol=0)


def test_diffusers_own_network_takes_them_too(unet, tmp_path):
    theirs = unet("1.x")
    theirs.save_pretrained(tmp_path)
    kept = ("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "attention_head_dim")
    settings = {name: theirs.config[name] for name in kept}
    text, schedule = (
        SimpleNamespace(context_width=CONTEXT, vector_width=None),
        scaled_linear(num_steps=1000, beta_start=0.00085, beta_end=0.012),
    )

    def load(**changes):
        network = DiffusersUNet(in_channels=4, context_width=CONTEXT, vector_width=None, **(settings | changes))
        parts = Parts(network, text, SimpleNamespace(channels=4), schedule, Noise(), None, 64)
        load_first_weights(asking({"weights": str(tmp_path)}), parts)
        return network.unet.state_dict()

    assert_close(load(), theirs.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="another network: attention_head_dim=8 there and 4 here"):
        load(attention_head_dim=4)


@pytest.mark.parametrize(
    ("name", "context", "linear", "heads"), [("1", 768, False, [8] * 4), ("2", 1024, True, [5, 10, 20, 20])]
)
def test_a_single_file_of_a_published_shape_is_known_by_its_widths(name, context, linear, heads):
    """Where no tensor's shape tells the number of heads."""
    kept = shipped_part("network", f"stable_diffusion_{name}").arguments
    with torch.device("meta"):
        ours = UNet(in_channels=4, context_width=context, vector_width=None, **kept).state_dict()
    shapes = {new: piece(ours).shape for new, piece in map_unet_to_diffusers(ours, linear_projection=linear).items()}
    found = infer_unet_settings(shapes)
    assert infer_heads(found, shapes) == heads
    assert describe_unet(found, shapes).startswith(f"Stable Diffusion {name}.x (")
    assert {found[key] for key in ("in_channels", "map_channels", "blocks", "expansion", "scale_shift")} == {4, 0, 2}


def test_shards_variants_and_half_precision(unet, loaded, in_shards, tmp_path):
    theirs = unet("2.x")
    theirs.save_pretrained(tmp_path / "whole")
    expected = loaded("2.x", tmp_path / "whole")[0].state_dict()
    theirs.save_pretrained(tmp_path / "shards")
    ours, _ = loaded("2.x", in_shards(tmp_path / "shards", "diffusion_pytorch_model"))
    assert_close(ours.state_dict(), expected, rtol=0, atol=0)
    for dtype, variant in ((torch.float16, "fp16"), (torch.bfloat16, "bf16")):
        deepcopy(theirs).to(dtype).save_pretrained(tmp_path / variant, variant=variant)
        ours, _ = loaded("2.x", tmp_path / variant)
        assert_close(ours.state_dict(), {n: t.to(dtype).float() for n, t in expected.items()}, rtol=0, atol=0)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_raw_weights_of_a_folder_are_those_or_none(ending, unet, loaded, tmp_path):
    theirs = deepcopy(unet("1.x"))
    theirs.save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"no raw weights .*network\.averaged=true"):
        loaded("1.x", tmp_path, averaged=False)
    expected, _ = loaded("1.x", tmp_path)
    for parameter in theirs.parameters():
        parameter.data *= 2
    theirs.save_pretrained(tmp_path / "unet", variant="non_ema", safe_serialization=ending == "safetensors")
    raw, _ = loaded("1.x", tmp_path, averaged=False)
    assert_close(raw.state_dict(), {name: 2 * t for name, t in expected.state_dict().items()}, rtol=0, atol=0)
    assert_close(loaded("1.x", tmp_path)[0].state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_averages_are_taken_of_a_file_that_has_both(unet, loaded, saved):
    state = single(unet("1.x").state_dict())
    raw = {name: tensor for name, tensor in state.items() if name.startswith("model.diffusion_model.")}
    both = (
        state
        | {format_average_name(name): 2 * tensor for name, tensor in raw.items()}
        | {"model_ema.decay": torch.zeros(())}
    )
    path = saved(both, "both.safetensors")
    averaged, reported = loaded("1.x", path)
    plain, _ = loaded("1.x", path, averaged=False)
    assert "averaged weights" in reported[0]
    assert_close(averaged.state_dict(), {name: 2 * tensor for name, tensor in plain.state_dict().items()}, rtol=0, atol=0)
    assert "model_ema.diffusion_modelinput_blocks00weight" in both


LEFTOVERS = {
    "embedding_manager.embedder.transformer.weight": torch.zeros(2),
    "embedding_manager.string_to_param_dict.*": torch.zeros(2, 3),
    "ztsnr": torch.zeros(0),
    "denoiser.sigmas": torch.zeros(3),
    "lvlb_weights": torch.zeros(3),
    "global_step": torch.zeros((), dtype=torch.int64),
}


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
@pytest.mark.parametrize("whole", [True, False])
def test_what_other_programs_left_is_named_and_not_read(whole, ending, unet, loaded, saved):
    state = single(unet("1.x").state_dict())
    if not whole:
        prefix = "model.diffusion_model."
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    plain, _ = loaded("1.x", saved(state, f"plain.{ending}"))
    network, notes = loaded("1.x", saved(state | LEFTOVERS, f"more.{ending}"))
    assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert any("embedding_manager.embedder.transformer.weight" in note for note in notes)


def test_a_key_that_says_velocity_is_compared(unet, loaded, saved):
    _, notes = loaded("1.x", saved(single(unet("1.x").state_dict()) | {"v_pred": torch.zeros(0)}, "v.safetensors"))
    (warning,) = [note for note in notes if isinstance(note, Caution)]
    assert "v_pred" in warning
    assert "prediction=velocity" in warning


@pytest.mark.parametrize("ending", ["safetensors", "ckpt"])
def test_what_belongs_to_no_part_is_refused_with_a_way_round_that_works(ending, unet, loaded, saved, monkeypatch):
    """As it could change what the model computes."""
    state = single(unet("1.x").state_dict())
    path = saved(state | {"noise_augmentor.weight": torch.ones(2), "embedder.model.x": torch.ones(2)}, f"model.{ending}")
    with pytest.raises(ValueError, match=r"noise_augmentor\.weight") as caught:
        loaded("1.x", path)
    command = re.search(r'python -c "(.*)"', str(caught.value))
    assert command is not None
    monkeypatch.chdir(path.parent)
    exec(command[1], {})
    plain, _ = loaded("1.x", saved(state, "plain.safetensors"))
    network, _ = loaded("1.x", path.parent / "model-plain.safetensors")
    assert_close(network.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        (
            "1.x",
            {"channels": [64, 128, 128]},
            r"channels=\[64, 64, 128\] there and \[64, 128, 128\] here.*set network.channels=",
        ),
        ("1.x", {"heads": 4}, r"heads=\[8, 8, 8\] there and \[4, 4, 4\] here.*set network.heads=8"),
        ("2.x", {"head_size": 32}, r"heads=\[4, 4, 8\] there.*set network.heads=null network.head_size=16"),
        ("1.x", {"blocks": 1}, "blocks=2 there and 1 here"),
        (
            "1.x",
            {"attention": [False, True, False]},
            r"attention=\[true, true, false\] there and \[false, true, false\] here",
        ),
        (
            "1.x inpainting",
            {"map_channels": 0},
            r"it takes 5 channels .*mask.*set conditions=\[inpaint\].*choose weights that draw from captions",
        ),
        ("2.x depth", {"map_channels": 0}, r"it takes 1 channel .*set conditions=\[depth\]"),
        ("x4 upscaler", {"map_channels": 0}, r"it takes 3 channels .*set conditions=\[low_resolution\]"),
        ("1.x", {"map_channels": 5}, r"map_channels=0 there and 5 here.*network.add_input_channels=true"),
        ("1.x", {"scale_shift": True}, "scale_shift=false there and true here"),
        ("1.x", {"expansion": 2}, "expansion=4 there and 2 here"),
        ("1.x", {"extra_up_block": False}, "extra_up_block=true there and false here"),
        ("x4 upscaler", {"only_cross_attention": None}, r"only_cross_attention=\[true, true, true, false\] there"),
    ],
)
def test_another_network_is_reported_by_its_settings(case, changes, message, unet, loaded, tmp_path):
    unet(case).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"network\.weights=.*another network.*{message}"):
        loaded(case, tmp_path, **changes)


def test_input_channels_are_added_with_zeros_where_that_is_asked(unet, loaded, tmp_path):
    theirs = unet("1.x")
    theirs.save_pretrained(tmp_path)
    wider, reported = loaded("1.x", tmp_path, map_channels=5, add_input_channels=True)
    ours, _ = loaded("1.x", tmp_path)
    assert any("5 input channels are added" in line for line in reported)
    state = wider.state_dict()
    stem = state.pop("conv_in.weight")
    assert not stem[:, 4:].any()
    assert_close(state | {"conv_in.weight": stem[:, :4]}, dict(ours.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("model.diffusion_model.middle_block.0.in_layers.2.bias"), r"conv1.bias \(missing\)"),
        (
            lambda state: state.update({"model.diffusion_model.extra.weight": torch.zeros(1)}),
            r"extra.weight \(left over\)",
        ),
        (lambda state: state.update({"strange.weight": torch.zeros(1)}), r"strange.weight"),
        (
            lambda state: state.update({"model.diffusion_model.out.2.bias": torch.zeros(5)}),
            r"conv_out.bias \(\(5,\) where the network has \(4,\)\)",
        ),
        (
            lambda state: state.update({"model.diffusion_model.out.2.bias": torch.zeros(4, dtype=torch.int8)}),
            "conv_out.bias|out.2.bias as torch.int8",
        ),
    ],
)
def test_what_does_not_fit_is_listed(change, message, unet, loaded, saved):
    state = single(unet("1.x").state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        loaded("1.x", saved(state, "model.safetensors"))


def test_a_config_that_our_network_cannot_hold_is_refused(unet, loaded, tmp_path):
    import json

    unet("1.x").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"act_fn": "gelu", "dual_cross_attention": True}))
    with pytest.raises(ValueError, match=r"act_fn=gelu, dual_cross_attention=True.*network=diffusers_unet"):
        loaded("1.x", tmp_path)


def test_other_groups_of_the_normalisations_are_refused(unet, loaded, tmp_path):
    """No tensor's shape tells them."""
    import json

    unet("1.x").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"norm_num_groups": 16}))
    with pytest.raises(ValueError, match="normalisations have 16 groups everywhere, and this network's 32 at its widths"):
        loaded("1.x", tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_down_blocks_0.lora_down.weight"], "is a LoRA"),
        (["conditioner.embedders.0.weight", "model.diffusion_model.out.0.bias"], "Stable Diffusion XL"),
        (["control_model.input_blocks.0.0.weight"], "is a ControlNet"),
        (["a.weight", "b.weight"], r"a U-Net .*down_blocks.* a.weight, b.weight"),
    ],
)
def test_other_files_are_reported_from_models(names, message, loaded, saved):
    with pytest.raises(ValueError, match=message):
        loaded("1.x", saved({name: torch.zeros(2) for name in names}, "other.safetensors"))


SCHEDULER = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({}, None),
        ({"prediction_type": "v_prediction"}, "predicts velocity, and prediction=noise is set; set prediction=velocity"),
        (
            {"beta_end": 0.02},
            "another noise schedule .*schedule=scaled_linear schedule.beta_start=0.00085 schedule.beta_end=0.02",
        ),
        ({"rescale_betas_zero_snr": True}, "schedule.zero_terminal_snr=true"),
    ],
)
def test_a_pipeline_s_scheduler_is_compared_with_the_run(changes, warning, unet, loaded, tmp_path):
    import json
    import re

    unet("2.x").save_pretrained(tmp_path / "unet")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(json.dumps(SCHEDULER | changes))
    warned = [line for line in loaded("2.x", tmp_path)[1] if isinstance(line, Caution)]
    assert (warned == []) if warning is None else re.search(warning, " ".join(warned))
