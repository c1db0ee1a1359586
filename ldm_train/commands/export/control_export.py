"""Write a run's ControlNet as a folder of diffusers' ControlNetModel."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.control import PREFIX, attach_control, control_of, has_control
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.weights_match import describe_own_unet
from ldm_train.commands.export.diffusers_folder import WEIGHTS
from ldm_train.commands.export.export_folder import write_json, write_tensors
from ldm_train.commands.export.exported_parts import (
    ExportedPart,
    as_lazy_tensors,
    has_linear_projection,
    list_network_problems,
    map_lazily,
    select_module,
)
from ldm_train.networks.controlnet import ControlBranch
from ldm_train.networks.diffusers_unet import DiffusersControl
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.weights.layouts.control_layout import build_control_config, map_control_to_diffusers
from ldm_train.weights.layouts.unet_config import build_unet_config

RGB = 3


def write_control(folder: Path, trained: TrainSettings, weights: Mapping[str, Tensor], dtype: torch.dtype) -> list[str]:
    """Write `config.json` and the weights; return notes for the model card.

    Raises:
        ValueError: the run has no ControlNet, or ControlNetModel cannot hold it.
    """
    if not has_control(trained):
        raise ValueError(
            "layout=controlnet needs a run that was trained with adapter=controlnet; leave layout out, or set "
            "layout=diffusers"
        )
    parts = build_parts(trained, empty_network=True)
    if reasons := list_control_problems(parts, trained):
        raise ValueError(
            f"diffusers' ControlNetModel cannot hold this ControlNet: {'; '.join(reasons)}; layout=null writes ldm-train's "
            "own file"
        )
    attach_control(trained, parts, seed=0)
    exported = export_control(parts, trained, weights)
    write_json(folder / "config.json", {**exported.config, "_diffusers_version": version("diffusers")})
    write_tensors(folder / WEIGHTS, exported.tensors, dtype=dtype)
    channels = exported.config["conditioning_channels"]
    return [] if channels == RGB else [f"pass its map as a tensor of {channels} channels from 0 to 1, (B, C, H, W)"]


def list_control_problems(parts: Parts, trained: TrainSettings) -> list[str]:
    """Return why diffusers' ControlNetModel, or its pipelines, cannot hold a run's ControlNet."""
    reasons = list_network_problems(parts, trained)
    others = [one.name for one in parts.conditions.each if not getattr(one, "control", False)]
    if others:
        reasons.append(f"conditions: its pipelines pass a prompt and one map, and not {' or '.join(others)}")
    elif getattr(parts.network, "map_channels", 0):
        reasons.append("network.map_channels: its pipelines pass it latents without maps")
    if parts.text_encoder.vector_width is not None:
        reasons.append("text_encoder: it takes tokens, and no vector (pooled=true, or class labels)")
    return reasons


def export_control(parts: Parts, trained: TrainSettings, weights: Mapping[str, Tensor]) -> ExportedPart:
    """Return the ControlNet that was put into the network under diffusers' names, with these weights of the run.

    Raises:
        ValueError: the weights do not fit.
    """
    control = control_of(parts)
    assert control is not None
    state = select_module(weights, PREFIX, control.state_dict())
    if isinstance(control, DiffusersControl):
        config = {name: value for name, value in control.model.config.items() if not name.startswith("_")}
        plain = {name.removeprefix("model."): tensor for name, tensor in state.items()}
        return ExportedPart(config | {"_class_name": "ControlNetModel"}, as_lazy_tensors(plain))
    assert isinstance(control, ControlBranch)
    linear = has_linear_projection(parts, trained)
    network = [name for name in parts.network.state_dict() if not name.startswith("control.")]
    own = describe_own_unet(trained.network, parts)
    config = build_control_config(
        build_unet_config(own, linear_projection=linear, sample_size=1),
        channels=control.channels,
        widths=control.hint.widths,
    )
    table = map_control_to_diffusers(state, network, linear_projection=linear)
    return ExportedPart(config, map_lazily(table, state, control.state_dict()))
