"""A run's adapters as a file in diffusers' layout or in that of kohya's scripts, which the web UIs load."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.parts import build_parts
from ldm_train.assembly.stacked_adapters import PIPELINES
from ldm_train.assembly.trained_for import TRAINED_FOR
from ldm_train.assembly.trained_part import alpha_of
from ldm_train.commands.export.export_folder import write_tensors
from ldm_train.commands.export.exported_parts import lacking_of_network, plain_tensors, projects_linearly
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.weights.lora.lora_files import DIFFUSERS_METADATA_KEY
from ldm_train.weights.lora.lora_layout import export_adapter_to_diffusers, export_adapter_to_kohya
from ldm_train.weights.lora.lora_names import NETWORK_PREFIX, TEXT_PREFIX
from ldm_train.weights.lora.low_rank import extract_adapter, group_layers

FORMATS = ("diffusers", "kohya")


def write_lora(
    folder: Path,
    trained: TrainSettings,
    weights: Mapping[str, Tensor],
    *,
    form: str,
    dtype: torch.dtype,
    name: str,
    purpose: object = None,
) -> Path:
    """Write the file; where it is.

    Args:
        form: "diffusers" or "kohya".
        name: of the file in kohya's layout, without its suffix.
        purpose: what the adapters were trained for.

    Raises:
        ValueError: the run has no adapters, or they are of a network that these layouts have no place for.
    """
    if trained.adapter is None:
        raise ValueError(
            "layout=lora is for a run of adapters, and this one was trained with adapter=null; export all of it"
        )
    parts = build_parts(trained, empty_network=True)
    if reasons := lacking_of_network(parts, trained):
        raise ValueError(
            f"layouts of LoRA are for networks of diffusers' shape, which cannot hold this one: {'; '.join(reasons)}; "
            "layout=null writes it under our own names"
        )
    adapter = extract_adapter(weights, alpha=alpha_of(trained))
    like = {NETWORK_PREFIX + name: tensor for name, tensor in parts.network.state_dict().items()}
    like |= {TEXT_PREFIX + name: tensor for name, tensor in parts.text_encoder.state_dict().items()}
    linear = projects_linearly(parts, trained)
    if form == "kohya":
        path, metadata = folder / f"{name}.safetensors", kohya_told(adapter)
        state = export_adapter_to_kohya(adapter, like, linear_projection=linear)
    else:
        state, settings = export_adapter_to_diffusers(adapter, like, linear_projection=linear)
        path, metadata = folder / PIPELINES, {DIFFUSERS_METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}
    ours = {} if purpose is None else {TRAINED_FOR: purpose}
    write_tensors(path, plain_tensors(state), dtype=dtype, told=ours, metadata=metadata)
    return path


def kohya_told(adapter: Mapping[str, Tensor]) -> dict[str, str]:
    """What the web UIs show of a file."""
    first = next(iter(group_layers(adapter).values()))
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.alpha),
    }
