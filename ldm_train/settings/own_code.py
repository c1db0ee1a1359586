"""What an object of each group must have, so that own code of another kind is refused where it is built, in one message."""

import importlib
import inspect

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
    "features": "ldm_train.types.FeatureExtractor",
    "evaluation": "ldm_train.metrics.evaluation.Evaluation",
}
NETWORK_ARGUMENTS = ("x_t", "t", "conditioning")


def check_kind(made: object, target: str, group: str) -> None:
    """Raise if what own code made lacks something that the objects of its group have.

    Raises:
        ValueError: naming the class, the group and what is missing.
    """
    name = type(made).__name__
    if group == "network":
        _check_network(made, target)
    elif group in KINDS:
        kind = KINDS[group]
        module, _, base = kind.rpartition(".")
        if missing := sorted(_members(getattr(importlib.import_module(module), base)) - set(dir(made))):
            raise ValueError(
                f"{group}._target_={target} makes a {name}, which is no {group}: it has no {list_names(missing)}; "
                f"add what is missing, or derive the class from {kind}"
            )


def _check_network(made: object, target: str) -> None:
    from torch import nn

    message = f"network._target_={target} makes a {type(made).__name__}, which is no network"
    if not isinstance(made, nn.Module):
        raise ValueError(f"{message}: derive the class from torch.nn.Module")
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
