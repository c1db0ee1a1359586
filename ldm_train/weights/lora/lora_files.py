"""Files of low-rank adapters, whoever wrote them."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.lora.lora_layout import from_theirs
from ldm_train.weights.lora.lora_names import layout_of
from ldm_train.weights.lora.low_rank import from_run
from ldm_train.weights.tensor_files import read, read_told

DIFFUSERS = "lora_adapter_metadata"


def read_adapter(path: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's adapter under our names.

    Args:
        like: all weights of a run, with `network.` or `text_encoder.` before each name; meta tensors will do.

    Raises:
        ValueError: it cannot be read, is no adapter, or is one of other layers.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is not a .safetensors file; other files of weights may hold code, and are not read")
    state = read(path)
    try:
        if wrong := [name for name, tensor in state.items() if not is_number(tensor)]:
            raise ValueError(f"it holds numbers that are none, or not finite: {list_names(sorted(wrong), most=3)}")
        if layout_of(list(state)) == "ours":
            alpha = read_told(path).get("alpha")
            if not isinstance(alpha, int | float):
                raise ValueError("it does not tell its alpha, as one that `ldm-train export` wrote of a LoRA's run does")
            return from_run(state, alpha=alpha)
        return from_theirs(state, like, told=read_told(path, DIFFUSERS))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_number(tensor: Tensor) -> bool:
    """Whether all in it can be a weight, or an alpha, which some write as an integer."""
    return bool(tensor.isfinite().all()) if tensor.is_floating_point() else tensor.ndim == 0
