"""Read files of low-rank adapters in every layout."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lora.lora_layout import import_adapter
from ldm_train.weights.lora.lora_names import recognize_lora_layout
from ldm_train.weights.lora.low_rank import extract_adapter
from ldm_train.weights.tensor_files import read_metadata, read_tensor_file

DIFFUSERS_METADATA_KEY = "lora_adapter_metadata"


def read_adapter(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's adapter under this package's names.

    Args:
        like: all weights of a run, by names that start with `network.` or `text_encoder.`; meta tensors are enough.

    Raises:
        ValueError: the file cannot be read, is not an adapter, or is one of other layers.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file; other files may contain code, and are not read as adapters")
    state = read_tensor_file(path)
    try:
        if wrong := [name for name, tensor in state.items() if not _is_finite(tensor)]:
            raise ValueError(f"it contains NaN, infinity or integers as weights: {list_names(sorted(wrong), most=3)}")
        if recognize_lora_layout(list(state)) == "ours":
            alpha = read_metadata(path).get("alpha")
            if not isinstance(alpha, int | float):
                raise ValueError(
                    "its metadata contain no alpha, as those that `ldm-train export` writes do; export it again"
                )
            return extract_adapter(state, alpha=alpha)
        return import_adapter(state, like, settings=read_metadata(path, DIFFUSERS_METADATA_KEY))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor can be a weight, or an alpha, which some tools write as an integer."""
    return bool(tensor.isfinite().all()) if tensor.is_floating_point() else tensor.ndim == 0
