"""The parts of a run, built from its settings: network, text encoder, autoencoder, schedule, prediction, weighting."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.condition import Condition, Conditions
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.data.pictures.map_values import refuse_two_pictures
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.weighting import Weighting
from ldm_train.generation import Generation
from ldm_train.settings.composition import build
from ldm_train.settings.constructors import find_constructor
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.signatures import signature
from ldm_train.types import Autoencoder, Conditioner
from ldm_train.util.memory import check_fits


@dataclass(frozen=True)
class Parts:
    """The objects that a run's settings name; networks among them have no trained weights yet."""

    network: torch.nn.Module
    text_encoder: TextEncoder | ClassLabels
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    weighting: Weighting
    size: int
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def divisor(self) -> int:
        """Return what the sides of pictures must be multiples of, in pixels."""
        return math.lcm(self.autoencoder.factor * getattr(self.network, "divisor", 1), self.conditions.unit)

    def trained(self) -> dict[str, torch.nn.Module]:
        """Return the modules that may have trained weights, by their prefix in a checkpoint."""
        modules = {
            "network.": self.network,
            "text_encoder.": self.text_encoder,
            "conditions.": self.conditions,
            "weighting.": self.weighting,
        }
        return {prefix: module for prefix, module in modules.items() if isinstance(module, torch.nn.Module)}

    def generation(
        self,
        network: torch.nn.Module,
        text_encoder: torch.nn.Module,
        device: torch.device,
        weak: Generation | None = None,
        conditions: Conditions | None = None,
    ) -> Generation:
        """Return a generation with these weights on a device, guided by a weaker model if there is one.

        Args:
            conditions: None for its own.
        """
        conditions = self.conditions if conditions is None else conditions
        self.autoencoder.to(device)
        network.to(device)
        text_encoder.to(device)
        conditions.to(device)
        return Generation(
            network=network,
            conditioner=text_encoder,  # type: ignore[arg-type]
            conditions=conditions,
            autoencoder=self.autoencoder,
            schedule=self.schedule,
            prediction=self.prediction,
            size=self.size,
            device=device,
            weak=weak,
        )


def build_parts(config: TrainSettings, *, empty_network: bool = False) -> Parts:
    """Build the parts of a run from completed settings: autoencoder, text encoder and picture size are set.

    Args:
        empty_network: on "meta": for its names and shapes alone, in no memory, unless it is own code.
    """
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    assert config.image_size is not None
    autoencoder, text_encoder = build(config.autoencoder, "autoencoder"), build(config.text_encoder, "text_encoder")
    conditions = build_conditions(config, autoencoder, text_encoder.context_width)
    make = partial(build, config.network, "network", **network_widths(config, autoencoder, text_encoder, conditions))
    if is_shipped(config.network):
        with torch.device("meta"):
            network = make()
        if not empty_network:
            check_fits(sum(parameter.numel() for parameter in network.parameters()), noun="network")
            network = make()
    else:  # own code may need numbers where it is built
        network = make()
    schedule, prediction = build(config.schedule, "schedule"), build(config.prediction, "prediction")
    weighting = build(config.weighting, "weighting")
    deviation = getattr(weighting, "sigma_data", schedule.sigma_data)
    if schedule.sigma_data not in (None, deviation):
        raise ValueError(f"weighting.sigma_data={deviation} and schedule.sigma_data={schedule.sigma_data} must be the same")
    return Parts(network, text_encoder, autoencoder, schedule, prediction, weighting, config.image_size, conditions)


def build_conditions(config: TrainSettings, autoencoder: Autoencoder, context_width: int | None) -> Conditions:
    """Build what a run's settings condition the network on besides the caption.

    Args:
        context_width: width of the text encoder's tokens, None if it has none.

    Raises:
        ValueError: two have the same name, or settings that do not go together.
    """
    passed = {
        "latent_channels": autoencoder.channels,
        "latent_factor": autoencoder.factor,
        "to_model": Scaling.of(autoencoder).to_model,
        "to_unscaled": Scaling(autoencoder.shift, 1.0).to_model,
        "context_width": context_width,
    }
    made = [build_condition(part, passed) for part in config.conditions]
    for one in made:
        if one.token_width not in (0, context_width):
            raise ValueError(
                f"the condition {one.name} gives tokens of width {one.token_width}, and the text encoder's have "
                f"{'none' if context_width is None else context_width}; a class with the argument context_width gets theirs"
            )
    refuse_two_pictures([one.name for one in made if one.takes_picture], [one.name for one in made if one.takes_mask])
    return Conditions(made)


def build_condition(part: Part, passed: Mapping[str, object]) -> Condition:
    """Return a condition, which gets those of the arguments `passed` that its constructor takes."""
    found = signature(part.target)
    takes = {} if found is None else found.kinds
    made: Condition = build(part, "condition", **{name: value for name, value in passed.items() if name in takes})
    return made


def find_class(part: Part) -> type | None:
    """Return the class of a condition; None if a function makes it."""
    made_by = find_constructor(part.target, "condition")
    return made_by if inspect.isclass(made_by) else None


def network_widths(
    config: TrainSettings, autoencoder: Autoencoder, text_encoder: Conditioner, conditions: Conditions
) -> dict[str, int | None]:
    """Return what the network gets from the parts around it: the channels of its input, the widths of its conditioning.

    Raises:
        ValueError: network.map_channels is set to another number than that of the maps.
    """
    widths: dict[str, int | None] = {
        "in_channels": autoencoder.channels,
        "context_width": text_encoder.context_width,
        "vector_width": ((text_encoder.vector_width or 0) + conditions.vector_width) or None,
    }
    if (channels := conditions.map_channels) == 0:
        return widths
    if config.network.get("map_channels") not in (None, 0, channels):
        raise ValueError(
            f"network.map_channels={config.network.get('map_channels')}, and the maps of conditions have {channels}; "
            "leave network.map_channels out"
        )
    return widths | {"map_channels": channels}


def is_shipped(part: Part) -> bool:
    """Return whether a group's constructor is one of this package."""
    return part.target.startswith("ldm_train.")


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device={name}: this machine has {count or 'no'} GPU{'s' * (count != 1)}; device=auto takes what there is"
        )
    return device
