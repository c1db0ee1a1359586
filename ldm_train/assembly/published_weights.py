"""Load published weights into a run's network, and compare how they were trained with what the run does."""

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.published_scheduler import compare_scheduler, read_scheduler
from ldm_train.assembly.trained_for import read_purpose, warn_of_other_purpose
from ldm_train.assembly.weights_match import (
    compare_unet,
    describe_own_unet,
    refuse_maps,
    refuse_other_config,
    refuse_other_groups,
    warn_of_other_condition,
)
from ldm_train.networks.diffusers_unet import DiffusersUNet
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.messages import Caution
from ldm_train.weights.layouts.unet_layout import map_unet_from_diffusers
from ldm_train.weights.leftovers import VELOCITY
from ldm_train.weights.module_loading import copy_into_module
from ldm_train.weights.published_parts import PublishedPart
from ldm_train.weights.tensor_mapping import Piece


def load_published(found: PublishedPart, parts: Parts, config: TrainSettings) -> list[str]:
    """Load published weights into the network, and return the lines to print.

    Raises:
        ValueError: they are those of another network; it names the settings in which.
    """
    network, notes, adding = parts.network, [], bool(config.network.get("add_input_channels", False))
    state = network.state_dict()
    refuse_maps(found, network.map_channels)  # type: ignore[arg-type]
    if isinstance(network, DiffusersUNet):
        refuse_other_config(found, network.unet.config)
        table = {name: Piece((name.removeprefix("unet."),)) for name in state}
        stem = "unet.conv_in.weight"
    else:
        notes = compare_unet(found, describe_own_unet(config.network, parts), adding=adding)
        refuse_other_groups(network, (found.config or {}).get("norm_num_groups", 32))
        table, stem = map_unet_from_diffusers(state, found.tensors), "conv_in.weight"
    there = found.shapes.get("conv_in.weight", ())
    if adding and len(there) == 4 and (more := state[stem].shape[1] - there[1]) > 0:
        table[stem] = Piece(table[stem].names, more_columns=more)
        notes.append(f"{more} input channels are added to it, with zeros for weights")
    copy_into_module(state, table, found.tensors, found.shapes)
    return notes + warn_of_other_condition(found, parts.conditions)


def describe_training(found: PublishedPart, config: TrainSettings, parts: Parts) -> list[str]:
    """Return warnings about how the published network was trained: what the run does differently."""
    if read_purpose(found.path) is not None:
        return warn_of_other_purpose(found.path, config, parts)
    scheduler = read_scheduler(found.path)
    if scheduler is not None:
        return compare_scheduler(scheduler, parts.prediction, parts.schedule)
    name = type(parts.prediction).__name__.lower()
    if VELOCITY in found.ignored:
        problem = (
            f"the file's key {VELOCITY} says that it predicts velocity, and prediction={name} is taken; "
            "set prediction=velocity"
        )
        return [] if name == "velocity" else [Caution(problem)]
    return [
        f"nothing next to it says what it predicts, and prediction={name} is taken; Stable Diffusion 2.x at 768 pixels "
        "predicts velocity, all its other published models noise"
    ]
