"""The weights that the ControlNet of a run starts from, if not from its network's."""

from pathlib import Path

from ldm_train.assembly.control import PREFIX, control_of, has_control, load_control
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.stored_weights import read_weights
from ldm_train.assembly.trained_for import read_purpose, warn_of_other_purpose
from ldm_train.run_dir.record import CONFIG
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.weights.hub import locate_weights
from ldm_train.weights.leftovers import describe_leftovers
from ldm_train.weights.module_loading import copy_into_module
from ldm_train.weights.published_parts import find_controlnet
from ldm_train.weights.tensor_files import read_metadata
from ldm_train.weights.tensor_mapping import Piece, get_shapes


def load_first_control(config: TrainSettings, parts: Parts) -> list[str]:
    """Load the weights that `adapter.weights` names into the ControlNet, and return the lines to print.

    Args:
        parts: whose network has a ControlNet; one on the meta device is only compared.

    Raises:
        ValueError: they are nowhere, cannot be read, or are of another ControlNet.
    """
    weights = None if config.adapter is None else config.adapter.get("weights")
    if weights is None or not has_control(config):
        return []
    path, known = Path(weights), None
    try:
        if (path / CONFIG).is_file():
            notes = [f"the ControlNet starts from that of {weights} at its step {load_of_run(path, parts)}"]
        elif path.suffix == ".safetensors" and path.is_file() and "weights" in read_metadata(path):
            step = copy_control(path.parent, weights, parts)
            notes = [f"the ControlNet starts from that in {weights}, of step {step}"]
        else:
            notes = load_published_control(weights, config, parts)
        known = read_purpose(path)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("adapter.weights") else f"adapter.weights={weights}: {text}") from error
    return notes if known is None else [*notes, *warn_of_other_purpose(path, config, parts)]


def load_published_control(weights: str, config: TrainSettings, parts: Parts) -> list[str]:
    """Load a ControlNet in diffusers' layout, and return the lines to print.

    Raises:
        ValueError: it is nowhere, cannot be read, or is of another network.
    """
    path = locate_weights(weights, setting="adapter.weights", subfolder="controlnet", name="diffusion_pytorch_model")
    found = find_controlnet(path)
    load_control(found, config, parts)
    first = f"the ControlNet starts from {weights}, in {found.layout}, {len(found.tensors)} tensors"
    return [first, *describe_leftovers(found.ignored)]


def load_of_run(run_dir: Path, parts: Parts) -> int:
    """Load the averaged ControlNet of a run, and return its step.

    Raises:
        ValueError: it has none, or one of another shape.
    """
    if not has_control(read_trained(run_dir)):
        raise ValueError("it is a run without a ControlNet; name one that was trained with adapter=controlnet")
    return copy_control(run_dir, "ema", parts)


def copy_control(run_dir: Path, weights: str, parts: Parts) -> int:
    """Copy the ControlNet of a run's weights, or of a file of `ldm-train export`, and return its step.

    Raises:
        ValueError: there is none, or one of another shape.
    """
    state, step, path = read_weights(run_dir, weights)
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    if not tensors:
        raise ValueError(f"{path} has no ControlNet; name one that was trained with adapter=controlnet")
    control = control_of(parts)
    assert control is not None
    own = control.state_dict()
    copy_into_module(own, {name: Piece((name,)) for name in own}, tensors, get_shapes(tensors))
    return step
