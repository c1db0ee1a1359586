"""Choose what a run trains: everything, parameters by their names, or adapters; the rest keeps its first weights.

Checkpoints hold what is trained alone. So a run that trains a part needs the weights that it stands on each time it is
opened, and they must be the same: `run.json` tells their fingerprint.
"""

import hashlib

from torch import nn

from ldm_train import draws
from ldm_train.assembly.control import attach_control, control_of, has_control, refuse_control
from ldm_train.assembly.parts import Parts
from ldm_train.conditioners.several_encoders import SeveralEncoders
from ldm_train.networks.layer_patterns import match_patterns
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.weights.fingerprint import fingerprint_module


def is_partial(config: TrainSettings) -> bool:
    return config.trained is not None or config.adapter is not None


def refuse_part(config: TrainSettings) -> None:
    """Raise for settings with which a part cannot be trained.

    Raises:
        ValueError: both ways at once, nothing to stand on, or a ControlNet without its map.
    """
    refuse_control(config)
    if not is_partial(config):
        return
    what = "trained=…" if config.trained is not None else "adapter=…"
    if config.trained is not None and config.adapter is not None:
        raise ValueError(
            f"trained={list(config.trained)} and an adapter are two ways to train a part; give one: "
            "trained=null or adapter=null"
        )
    if config.network.get("weights") is None:
        raise ValueError(
            f"{what} leaves the rest of the network as it is, and with network.weights=null that is a random one; "
            "set network.weights=… to what it shall start from"
        )


def base_fingerprint(parts: Parts) -> str:
    """Return the fingerprint of the weights that the network and the text encoder have now."""
    both = fingerprint_module(parts.network) + fingerprint_module(parts.text_encoder)
    return hashlib.sha256(both.encode()).hexdigest()


def choose_trained(config: TrainSettings, parts: Parts) -> None:
    """Freeze in place what the config does not train, and put adapters in where it says so. A weighting is always trained.

    Raises:
        ValueError: patterns that match nothing, or adapters for several text encoders.
    """
    seed = draws.generator(config.seed, "adapter", 0).initial_seed()
    if has_control(config):
        attach_control(config, parts, seed=seed)
        for module in (parts.network, parts.text_encoder, parts.conditions):
            module.requires_grad_(False)
        control = control_of(parts)
        assert control is not None
        control.requires_grad_(True)
    elif config.adapter is not None:
        if config.adapter.get("text_encoder") and isinstance(parts.text_encoder, SeveralEncoders):
            raise ValueError(
                "adapter.text_encoder=true is for one text encoder, and this run has several; set adapter.text_encoder=false"
            )
        build(config.adapter, "adapter").attach(parts.network, parts.text_encoder, seed=seed)
    elif config.trained is not None:
        parameters = {name: p for name, p in trainable(parts).items() if not name.startswith("weighting.")}
        kept = set(match_patterns(config.trained, parameters, setting="trained"))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in kept)


def trainable(parts: Parts) -> dict[str, nn.Parameter]:
    """Return the parameters that require gradients, by their names in a checkpoint."""
    return {name: p for name, p in parameters_of(parts).items() if p.requires_grad}


def parameters_of(parts: Parts) -> dict[str, nn.Parameter]:
    return {prefix + name: p for prefix, module in parts.trained().items() for name, p in module.named_parameters()}


def has_lora(config: TrainSettings) -> bool:
    """Return whether a run trains low-rank adapters."""
    return config.adapter is not None and not has_control(config)


def alpha_of(config: TrainSettings) -> float:
    """Return the alpha of a run's low-rank adapters."""
    assert config.adapter is not None
    alpha = config.adapter.get("alpha")
    return float(config.adapter.get("rank") if alpha is None else alpha)
