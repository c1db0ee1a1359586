"""Weights out in the layouts that others read, and in again: the same tensors."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stored_weights import load_first_weights, load_weights
from ldm_train.autoencoders.autoencoder import pretrained
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.options import Part
from ldm_train.weights.layouts.text_layout import map_text_encoder_from_published
from ldm_train.weights.module_loading import copy_into_module
from ldm_train.weights.published_parts import find_text_encoder
from tests.commands.export.shaped import SCALE, SHIFT


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
@pytest.mark.parametrize(("shape", "weights"), [("1.x", "ema"), ("2.x", "raw")])
def test_out_and_in_again_is_bitwise(
    shape: str, weights: str, layout: str, run_dir: Path, run_1: Path, export: Callable
) -> None:
    run, shift = (run_1, 0.0) if shape == "1.x" else (run_dir, SHIFT)
    out = export(run, f"layout={layout}", f"weights={weights}")
    path = out if layout == "diffusers" else out / "out.safetensors"
    config = read_trained(run)
    expected, found = build_parts(config), build_parts(config)
    load_weights(run, expected, weights=weights)
    network = Part(config.network.target, config.network.arguments, kept=config.network.kept | {"weights": str(path)})
    load_first_weights(config.with_values(network=network), found)
    assert_close(found.network.state_dict(), expected.network.state_dict(), rtol=0, atol=0)
    tower, text = found.text_encoder.tower.state_dict(), find_text_encoder(path)
    copy_into_module(tower, map_text_encoder_from_published(tower, text.tensors), text.tensors, text.shapes)
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
