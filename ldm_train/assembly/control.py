"""The ControlNet of a run: what it needs, putting it into the network, and the weights that it starts from."""

from ldm_train.assembly.map_conditions import map_specs
from ldm_train.assembly.parts import Parts
from ldm_train.assembly.weights_match import describe_own_unet, refuse_other_config, refuse_other_groups
from ldm_train.conditioners.map import Map
from ldm_train.networks.controlnet import ControlBranch
from ldm_train.networks.diffusers_unet import DiffusersControl
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.weights.layouts.control_layout import map_control_from_diffusers
from ldm_train.weights.layouts.unet_architecture import infer_unet_settings, list_unet_differences, read_unet_config
from ldm_train.weights.module_loading import copy_into_module
from ldm_train.weights.published_parts import PublishedPart
from ldm_train.weights.tensor_mapping import Piece

CONTROLNET = "ldm_train.networks.controlnet.ControlNet"
PREFIX = "network.control."  # of its weights in a checkpoint


def has_control(config: TrainSettings) -> bool:
    """Return whether a run trains a ControlNet."""
    return config.adapter is not None and config.adapter.target == CONTROLNET


def refuse_control(config: TrainSettings) -> None:
    """Raise if a ControlNet lacks its map, or a map its ControlNet.

    Raises:
        ValueError: saying which to set.
    """
    names = [spec.name for spec in map_specs(config) if spec.control]
    if not has_control(config):
        if names:
            raise ValueError(
                f"conditions: the map {names[0]} is for a ControlNet, and this run has none; set adapter=controlnet "
                "network.weights=…, or concatenate the map to the network's input by "
                f"conditions=[{{map:{{name:{names[0]}}}}}]"
            )
        if config.adapter is not None and config.adapter.get("weights") is not None:
            raise ValueError(
                f"adapter.weights={config.adapter.get('weights')} is for adapter=controlnet; leave it out, or set it"
            )
        return
    if not names:
        raise ValueError(
            "adapter=controlnet follows a map, and conditions has none for it; set conditions=[{control:{name:edges}}], "
            "also for encode, with 'source.maps={edges:edges/{name}}'"
        )
    if len(names) > 1:
        raise ValueError(
            f"adapter=controlnet follows one map, and conditions has {' and '.join(names)} for it; train one run for each, "
            "or one map with the channels of all, as an array (.npy)"
        )


def attach_control(config: TrainSettings, parts: Parts, *, seed: int) -> None:
    """Put the ControlNet of a run into its network, which computes the same as before; one that is there stays.

    It is there if the run was opened, or if `network.weights` is a run with a ControlNet, whose training goes on.

    Raises:
        ValueError: the network cannot have one, or the parts have no map for it.
    """
    assert config.adapter is not None
    maps = [one for one in parts.conditions.each if isinstance(one, Map) and one.control]
    if len(maps) != 1:
        raise ValueError(
            "network.weights is a run with a ControlNet, and this run has no map for it; set network.weights to what that "
            "run was trained on"
        )
    if control_of(parts) is None:
        build(config.adapter, "adapter").attach(
            parts.network, channels=maps[0].channels, factor=parts.autoencoder.factor, seed=seed
        )


def control_of(parts: Parts) -> ControlBranch | DiffusersControl | None:
    """Return the ControlNet that was put into the network; None if there is none."""
    control = getattr(parts.network, "control", None)
    return control if isinstance(control, ControlBranch | DiffusersControl) else None


def scale_control(parts: Parts, scale: float) -> None:
    """Multiply what the ControlNet adds.

    Raises:
        ValueError: there is none, and another scale than 1.
    """
    control = control_of(parts)
    if control is not None:
        control.scale = scale
    elif scale != 1:
        raise ValueError(
            f"control_scale={scale:g} is for a run that was trained with adapter=controlnet, and this one was not; leave it "
            "out"
        )


def load_control(found: PublishedPart, config: TrainSettings, parts: Parts) -> None:
    """Copy the weights of a published ControlNet into that of the network.

    Raises:
        ValueError: they are those of another network, or it computes something that this project's does not.
    """
    control = control_of(parts)
    assert control is not None
    refuse_other_control(found, config, parts)
    state = control.state_dict()
    if isinstance(control, DiffusersControl):
        table = {name: Piece((name.removeprefix("model."),)) for name in state}
    else:
        whole = [name for name in parts.network.state_dict() if not name.startswith("control.")]
        table = map_control_from_diffusers(state, whole)
    copy_into_module(state, table, found.tensors, found.shapes)


def refuse_other_control(found: PublishedPart, config: TrainSettings, parts: Parts) -> None:
    """Raise for a ControlNet of another network, or one that computes something else with the same weights.

    Raises:
        ValueError: it does.
    """
    its_config = found.config or {}
    if its_config.get("controlnet_conditioning_channel_order", "rgb") != "rgb" or its_config.get("global_pool_conditions"):
        raise ValueError("it swaps the map's colours, or takes the mean of what it adds, which is not supported")
    control = control_of(parts)
    if isinstance(control, DiffusersControl):
        refuse_other_config(found, control.model.config)
        return
    there = {**infer_unet_settings(found.shapes), "patch_size": 1, "extra_up_block": True}
    there |= read_unet_config(its_config) if its_config else {}
    if other := list_unet_differences(there, describe_own_unet(config.network, parts)):
        raise ValueError(f"it is for another network: {'; '.join(other)}; choose one that was trained for network.weights")
    refuse_other_groups(parts.network, its_config.get("norm_num_groups", 32))
