"""What an object of each group must have, so that own code of another kind is refused where it is built, in one message.

First its methods and attributes, by the base class or protocol of its group, then the kinds of its attributes, then what a
few small calls return (`ldm_train.assembly.own_probes`).
"""

import importlib
import inspect

from ldm_train.settings.own_attributes import check_attributes
from ldm_train.util.text import list_names

KINDS = {
    "sampler": "ldm_train.samplers.base.Sampler",
    "spacing": "ldm_train.samplers.spacings.Spacing",
    "schedule": "ldm_train.diffusion.schedules.schedule.NoiseSchedule",
    "prediction": "ldm_train.diffusion.prediction.Prediction",
    "timesteps": "ldm_train.diffusion.timesteps.Timesteps",
    "weighting": "ldm_train.diffusion.weighting.Weighting",
    "lr_schedule": "ldm_train.training.optimization.lr_schedules.LRSchedule",
    "ema": "ldm_train.training.ema.ema.EMA",
    "crop": "ldm_train.data.pictures.crops.Crop",
    "source": "ldm_train.data.sources.source.Source",
    "autoencoder": "ldm_train.types.Autoencoder",
    "text_encoder": "ldm_train.types.Conditioner",
    "condition": "ldm_train.conditioners.condition.Condition",
    "features": "ldm_train.types.FeatureExtractor",
    "evaluation": "ldm_train.metrics.evaluation.Evaluation",
    "clip_score": "ldm_train.features.clip_score.CLIPPair",
    "adapter": "ldm_train.networks.lora.LoRA",
    "logger": "pytorch_lightning.loggers.logger.Logger",
    "callbacks": "pytorch_lightning.callbacks.callback.Callback",
    "metrics": "ldm_train.metrics.evaluation.PictureMetric",
}
MODULES = ("network", "autoencoder", "text_encoder")  # groups of modules of torch
DERIVED = ("source", "callbacks", "condition")  # groups of which a base class does most of the work
SINGULAR = {"callbacks": "callback", "metrics": "metric"}
BOUND = ("optimizer", "guidance")  # groups of constructors that get further arguments from the run
PROBES = "ldm_train.assembly.own_probes"
NETWORK_ARGUMENTS = ("x_t", "t", "conditioning")


def check_kind(made: object, target: str, group: str) -> None:
    """Raise if what own code made lacks something that the objects of its group have, or returns something else.

    Raises:
        ValueError: naming the class, the group and what is missing, or what was returned.
    """
    name = type(made).__name__
    if group in MODULES:
        _check_module(made, target, group)
    if group == "network":
        _check_network(made, target)
    elif group in KINDS:
        kind, message = KINDS[group], f"{group}._target_={target} makes a {name}, which is no {SINGULAR.get(group, group)}"
        module, _, base_name = kind.rpartition(".")
        base = getattr(importlib.import_module(module), base_name)
        if group in DERIVED and not isinstance(made, base):
            raise ValueError(f"{message}: derive the class from {kind}")
        if missing := sorted(_members(base) - set(dir(made))):
            raise ValueError(
                f"{message}: it has no {list_names(missing)}; add what is missing, or derive the class from {kind}"
            )
    check_attributes(made, target, group)
    if group in KINDS or group in BOUND:
        importlib.import_module(PROBES).probe(made, target, group)


def _check_module(made: object, target: str, group: str) -> None:
    from torch import nn
    from torch.nn.parameter import is_lazy

    if not isinstance(made, nn.Module):
        raise ValueError(
            f"{group}._target_={target} makes a {type(made).__name__}, which is no {group}: derive the class from "
            "torch.nn.Module"
        )
    weights = {**dict(made.named_parameters()), **dict(made.named_buffers())}
    if empty := [name for name, weight in weights.items() if not is_lazy(weight) and weight.is_meta]:
        raise ValueError(
            f"{group}._target_={target} makes a {type(made).__name__} with {list_names(empty)} without values, on the "
            "device meta; build it on the CPU"
        )


def _check_network(made: object, target: str) -> None:
    from torch import nn

    assert isinstance(made, nn.Module)
    message = f"network._target_={target} makes a {type(made).__name__}, which is no network"
    if type(made).forward is nn.Module.forward:
        raise ValueError(f"{message}: it has no forward({', '.join(NETWORK_ARGUMENTS)})")
    try:
        inspect.signature(made.forward).bind(*NETWORK_ARGUMENTS)
    except TypeError as error:
        raise ValueError(
            f"{message}: its forward cannot be called with ({', '.join(NETWORK_ARGUMENTS)}): {error}"
        ) from error


def _members(base: type) -> set[str]:
    """The public attributes and methods of a class, and whether it can be called."""
    own = {name for parent in base.__mro__ for name in (*vars(parent), *getattr(parent, "__annotations__", {}))}
    public = {name for name in own if not name.startswith("_")}
    return public | ({"__call__"} if any("__call__" in vars(parent) for parent in base.__mro__) else set())
