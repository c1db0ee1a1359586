"""Tensors that public checkpoints hold of the programs that wrote them, and that no part of a model here reads.

The list is explicit: whatever else belongs to no part is refused, since it may change what the model computes.
"""

import re
from pathlib import Path

from ldm_train.util.text import list_names
from ldm_train.weights.lazy_tensors import LazyTensors

LEFTOVER = re.compile(
    r"embedding_manager\..*"  # textual inversion of latent-diffusion: the words' vectors have files of their own
    r"|v_pred|ztsnr|edm_(vpred|mean|std)(\..*)?"  # what ComfyUI and others note about the prediction and the schedule
    r"|denoiser\.(sigmas|log_sigmas)|(model_sampling\.)?(sigmas|log_sigmas)|ddim_.*|lvlb_weights|snr"  # tables of schedules
    r"|global_step|epoch|iteration|learning_rate"  # where a training stood
)
VELOCITY = "v_pred"  # its presence is the message, whatever its value
SAVE_WITHOUT = (
    'python -c "import torch; from safetensors.torch import load_file, save_file; f = {load}; '
    "save_file({{k: v.contiguous() for k, v in f.items() if not k.startswith({prefixes})}}, '{stem}-plain.safetensors')\""
)
LOAD_SAFETENSORS = "load_file('{name}')"
LOAD_PICKLE = "torch.load('{name}', map_location='cpu', weights_only=True); f = f.get('state_dict', f)"


def drop_leftovers(tensors: LazyTensors) -> tuple[LazyTensors, tuple[str, ...]]:
    """Return the tensors that are not left over, and the names of those that are."""
    ignored = tuple(name for name in tensors if LEFTOVER.fullmatch(name))
    return (tensors.rename({name: name for name in tensors if name not in ignored}) if ignored else tensors), ignored


def describe_leftovers(ignored: tuple[str, ...]) -> list[str]:
    """Return the line that names them, if there are any."""
    return (
        [f"not read, as they are left over from the program that wrote the file: {list_names(ignored)}"] if ignored else []
    )


def suggest_removal(path: Path, strange: list[str]) -> str:
    """Return the advice for a file of a model with tensors that belong to no part."""
    load = (LOAD_SAFETENSORS if path.suffix == ".safetensors" else LOAD_PICKLE).format(name=path.name)
    prefixes = tuple(sorted({one.partition(".")[0] for one in strange}))
    command = SAVE_WITHOUT.format(load=load, stem=path.stem, prefixes=prefixes)
    return f"if you know that they change nothing, save the file without them: {command}"
