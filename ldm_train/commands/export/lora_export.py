"""Write a run's adapters in diffusers' layout or in the layout of kohya's scripts, which web UIs load."""

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
from ldm_train.commands.export.exported_parts import as_lazy_tensors, has_linear_projection, list_network_problems
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
    """Write the file and return its path.

    Args:
        form: "diffusers" or "kohya".
        name: the file's name in kohya's layout, without suffix.
        purpose: what the adapters were trained for, for the file's metadata.

    Raises:
        ValueError: the run has no adapters, or these layouts do not support its network.
    """
    if trained.adapter is None:
        raise ValueError(
            "layout=lora needs a run with adapters, but this one was trained with adapter=null; leave layout out, or set "
            "layout=diffusers or layout=single_file"
        )
    parts = build_parts(trained, empty_network=True)
    if reasons := list_network_problems(parts, trained):
        raise ValueError(
            f"layout=lora supports networks that diffusers supports, which cannot hold this one: {'; '.join(reasons)}; "
            "layout=null writes ldm-train's own file"
        )
    adapter = extract_adapter(weights, alpha=alpha_of(trained))
    like = {NETWORK_PREFIX + name: tensor for name, tensor in parts.network.state_dict().items()}
    like |= {TEXT_PREFIX + name: tensor for name, tensor in parts.text_encoder.state_dict().items()}
    linear = has_linear_projection(parts, trained)
    if form == "kohya":
        path, texts = folder / f"{name}.safetensors", build_kohya_metadata(adapter)
        state = export_adapter_to_kohya(adapter, like, linear_projection=linear)
    else:
        state, settings = export_adapter_to_diffusers(adapter, like, linear_projection=linear)
        path, texts = folder / PIPELINES, {DIFFUSERS_METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}
    metadata = {} if purpose is None else {TRAINED_FOR: purpose}
    write_tensors(path, as_lazy_tensors(state), dtype=dtype, metadata=metadata, texts=texts)
    return path


def build_kohya_metadata(adapter: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the metadata that web UIs show of a LoRA file."""
    first = next(iter(group_layers(adapter).values()))
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(first.rank),
        "ss_network_alpha": str(first.alpha),
    }
