"""The parts of a run, built from its settings: network, text encoder, autoencoder, schedule, prediction, weighting."""

from dataclasses import dataclass
from functools import partial

import torch

from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.weighting import Weighting
from ldm_train.generation import Generation
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.types import Autoencoder
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

    @property
    def divisor(self) -> int:
        """Return what the sides of pictures must be multiples of, in pixels."""
        return self.autoencoder.factor * getattr(self.network, "divisor", 1)

    def trained(self) -> dict[str, torch.nn.Module]:
        """Return the modules that may have trained weights, by their prefix in a checkpoint."""
        modules = {"network.": self.network, "text_encoder.": self.text_encoder, "weighting.": self.weighting}
        return {prefix: module for prefix, module in modules.items() if isinstance(module, torch.nn.Module)}

    def generation(
        self,
        network: torch.nn.Module,
        text_encoder: torch.nn.Module,
        device: torch.device,
        weak: Generation | None = None,
    ) -> Generation:
        """Return a generation with these weights on a device, guided by a weaker model if there is one."""
        self.autoencoder.to(device)
        network.to(device)
        text_encoder.to(device)
        return Generation(
            network=network,
            conditioner=text_encoder,  # type: ignore[arg-type]
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
    make = partial(
        build,
        config.network,
        "network",
        in_channels=autoencoder.channels,
        context_width=text_encoder.context_width,
        vector_width=text_encoder.vector_width,
    )
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
    return Parts(network, text_encoder, autoencoder, schedule, prediction, weighting, config.image_size)


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
