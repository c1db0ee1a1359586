"""Where a network's first weights are from: another run, an exported file, or what others published in their layouts."""

from pathlib import Path

from omegaconf import DictConfig

from ldm_train.assembly.model import Parts, load_weights
from ldm_train.assembly.published_scheduler import of_scheduler, promised
from ldm_train.assembly.trained_for import read_purpose, warn_of_other_purpose
from ldm_train.assembly.weights_match import (
    compare,
    own_settings,
    refuse_maps,
    refuse_other_config,
    refuse_other_groups,
)
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.weights.hub import locate
from ldm_train.weights.layouts.unet_architecture import family, of_shapes
from ldm_train.weights.layouts.unet_layout import ours_of_theirs
from ldm_train.weights.module_loading import load
from ldm_train.weights.part_folders import part_of
from ldm_train.weights.published_parts import RAW, Found, find_unet
from ldm_train.weights.tensor_files import read_told
from ldm_train.weights.tensor_mapping import Piece


def start(config: DictConfig, parts: Parts) -> list[str]:
    """Give the parts the weights that `network.weights` names; what is to be told of them.

    Raises:
        ValueError: they are nowhere, not to be trusted, or those of another network.
    """
    weights, averaged = str(config.network.weights), bool(config.network.get("averaged", True))
    path = Path(weights)
    if is_run(path):
        warnings = warn_of_other_purpose(path, config, parts)  # by the encoders before they are given weights
        step = load_weights(path, parts, weights="ema" if averaged else "raw")
        return [f"starting from the {'averaged' if averaged else 'raw'} weights of {weights} at its step {step}", *warnings]
    if path.suffix == ".safetensors" and path.is_file() and "weights" in read_told(path):
        warnings = warn_of_other_purpose(path, config, parts)
        step = load_weights(path.parent, parts, weights=weights)
        return [f"starting from the weights in {weights}, of step {step}", *warnings]
    name = "diffusion_pytorch_model" if averaged else f"diffusion_pytorch_model.{RAW}"
    path = locate(weights, setting="network.weights", subfolder="unet", name=name)
    try:
        found = find_unet(path, averaged=averaged)
        told = take(found, parts, config)
    except ValueError as error:
        raise ValueError(f"network.weights={weights}: {error}") from error
    kind = "averaged weights" if found.averaged else "weights"
    looks = family(of_shapes(found.shapes), found.shapes)
    first = f"starting from the {kind} of {weights}: {looks}, in {found.layout}, {len(found.tensors)} tensors"
    return [first, *told, *of_training(found, config, parts)]


def is_run(path: Path) -> bool:
    """Whether a folder is a run's, or none of those that others write."""
    part = part_of(path, "unet")
    published = any(f.is_file() for f in (part / "config.json", path / "model_index.json")) or any(
        part.glob("*.safetensors")
    )
    return path.is_dir() and not published


def take(found: Found, parts: Parts, config: DictConfig) -> list[str]:
    """Load them into the network, of whichever kind it is; what is to be told of it.

    Raises:
        ValueError: they are those of another network; it names the settings in which.
    """
    network, told, adding = parts.network, [], bool(config.network.get("add_input_channels", False))
    state = network.state_dict()
    refuse_maps(found, network.map_channels)  # type: ignore[arg-type]
    if isinstance(network, DiffusersUNet):
        refuse_other_config(found, network.unet.config)
        table = {name: Piece((name.removeprefix("unet."),)) for name in state}
        stem = "unet.conv_in.weight"
    else:
        told = compare(found, own_settings(config.network, parts), adding=adding)
        refuse_other_groups(network, (found.config or {}).get("norm_num_groups", 32))
        table, stem = ours_of_theirs(state, found.tensors), "conv_in.weight"
    there = found.shapes.get("conv_in.weight", ())
    if adding and len(there) == 4 and (more := state[stem].shape[1] - there[1]) > 0:
        table[stem] = Piece(table[stem].names, more_columns=more)
        told.append(f"{more} input channels are added to it, with zeros for weights")
    load(state, table, found.tensors, found.shapes)
    return told


def of_training(found: Found, config: DictConfig, parts: Parts) -> list[str]:
    """What is told of how it was trained: warnings where the run does otherwise, or that no file tells."""
    if read_purpose(found.path) is not None:
        return warn_of_other_purpose(found.path, config, parts)
    scheduler = of_scheduler(found.path)
    if scheduler is not None:
        return promised(scheduler, parts.prediction, parts.schedule)
    name = type(parts.prediction).__name__.lower()
    return [
        f"nothing beside it tells what it predicts, and prediction={name} is taken; Stable Diffusion 2.x at 768 pixels "
        "predicts velocity, all its other published models noise"
    ]
