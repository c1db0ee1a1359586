"""What of a run is trained: all of it, parameters by their names, or adapters; the rest is what `network.weights` names.

Checkpoints hold what is trained alone. So a run that trains a part needs the weights that it stands on each time it is
opened, and they must be the same: `run.json` tells their fingerprint.
"""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from ldm_train import draws
from ldm_train.encoders.fingerprint import fingerprint
from ldm_train.networks.names import chosen
from ldm_train.tasks.running.directory import CONFIG, RECORD, read_record
from ldm_train.tasks.running.lightning import launched_rank
from ldm_train.tasks.settings.config import build
from ldm_train.tasks.settings.constructors import check_config
from ldm_train.tasks.settings.safe_yaml import read_settings_file
from ldm_train.weights.files import read_told
from ldm_train.weights.lora import Weighed, from_run, merged

if TYPE_CHECKING:
    from ldm_train.tasks.parts.assemble import Parts

Load = Callable[[DictConfig, "Parts"], list[str]]  # gives parts what network.weights names; what there is to tell


def is_partial(config: DictConfig) -> bool:
    return config.get("trained") is not None or config.get("adapter") is not None


def refuse_part(config: DictConfig) -> None:
    """Refuse what cannot be trained in part.

    Raises:
        ValueError: both ways at once, or nothing to stand on.
    """
    if not is_partial(config):
        return
    what = "trained=…" if config.get("trained") is not None else "adapter=…"
    if config.get("trained") is not None and config.get("adapter") is not None:
        raise ValueError(
            f"trained={list(config.trained)} and an adapter are two ways to train a part; give one: "
            "trained=null or adapter=null"
        )
    if config.network.weights is None:
        raise ValueError(
            f"{what} leaves the rest of the network as it is, and with network.weights=null that is a random one; "
            "set network.weights=… to what it shall start from"
        )


def load_base(config: DictConfig, parts: "Parts", load: Load) -> str | None:
    """Give the parts what a run that trains a part of them stands on, and its fingerprint; None where all is trained.

    Raises:
        ValueError: it cannot be loaded, or leaves something random that is not trained.
    """
    if not is_partial(config):
        return None
    path, trained = Path(config.network.weights), any(p.requires_grad for p in parts.text_encoder.parameters())
    whole = (path / CONFIG).is_file() or (path.is_file() and path.suffix == ".safetensors" and "weights" in read_told(path))
    if trained and not whole and config.text_encoder.get("weights") is None:
        raise ValueError(
            f"network.weights={path} is no run, from which the text encoder's weights would come, and "
            "text_encoder.weights names none: a part of a random one would stay as it is; set text_encoder=clip_… or weights"
        )
    told = load(config, parts)
    if launched_rank() == 0:
        print("\n".join([*told, f"keep {path}, for this run's files hold what it trains alone"]))
    return base_fingerprint(parts)


def load_first_weights(config: DictConfig, parts: "Parts", load: Load) -> str | None:
    """Give the parts what a run that trains all of them starts from, and return its fingerprint; None if its seed draws it.

    Raises:
        ValueError: it cannot be loaded.
    """
    if is_partial(config):
        return None  # `load_base` loaded it
    if config.network.weights is not None:
        print(*load(config, parts), sep="\n")
        return base_fingerprint(parts)
    given = parts.text_encoder.trained and config.text_encoder.get("weights") is not None
    return fingerprint(parts.text_encoder) if given else None


def base_fingerprint(parts: "Parts") -> str:
    """Of the network and the text encoder as they are."""
    both = fingerprint(parts.network) + fingerprint(parts.text_encoder)
    return hashlib.sha256(both.encode()).hexdigest()


def choose_trained(config: DictConfig, parts: "Parts") -> None:
    """Freeze in place what the config does not train, and put adapters in where it says so. A weighting is always trained.

    Raises:
        ValueError: patterns that match nothing.
    """
    if config.get("adapter") is not None:
        seed = draws.generator(config.seed, "adapter", 0).initial_seed()
        build(config.adapter, "adapter").attach(parts.network, parts.text_encoder, seed=seed)
    elif config.get("trained") is not None:
        parameters = {name: p for name, p in trainable(parts).items() if not name.startswith("weighting.")}
        kept = set(chosen(trained_patterns(config), parameters, setting="trained"))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in kept)


def trained_patterns(config: DictConfig) -> list[str]:
    """Return the patterns of `trained`.

    Raises:
        ValueError: it is no list of texts.
    """
    if not isinstance(config.trained, ListConfig) or not all(isinstance(pattern, str) for pattern in config.trained):
        raise ValueError(f'trained={config.trained} must be a list of patterns, such as ["network.*.cross_attention.*"]')
    return list(config.trained)


def trainable(parts: "Parts") -> dict[str, nn.Parameter]:
    """What wants gradients, by its name in a checkpoint."""
    return {name: p for name, p in parameters_of(parts).items() if p.requires_grad}


def parameters_of(parts: "Parts") -> dict[str, nn.Parameter]:
    return {prefix + name: p for prefix, module in parts.trained().items() for name, p in module.named_parameters()}


def completed(state: Mapping[str, Tensor], run_dir: Path, parts: "Parts", load: Load) -> Mapping[str, Tensor]:
    """A run's weights with those that it did not train, and with its adapters merged into them.

    Args:
        parts: the run's; they are given what it stands on.

    Raises:
        ValueError: what it stands on is not there, or is another than it was.
    """
    path = run_dir / CONFIG
    config = read_settings_file(path) if path.is_file() else OmegaConf.create()
    check_config(config, origin=str(path))
    expected = trainable(parts)
    if not is_partial(config) or expected.keys() <= state.keys():
        return state
    base = config.network.weights
    refuse_circle(run_dir, config)
    try:
        load(config, parts)
    except ValueError as error:
        raise ValueError(f"{run_dir} stands on network.weights={base}, which cannot be loaded: {error}") from error
    refuse_other_base(run_dir, parts, base)
    weights = {name: p.detach() for name, p in expected.items()}
    if config.get("adapter") is None:
        return weights | dict(state)
    adapter = Weighed(from_run(state, alpha=alpha_of(config)), 1.0, str(run_dir))
    plain = {name: tensor for name, tensor in state.items() if ".lora_" not in name}
    return weights | plain | merged(weights, [adapter])


def refuse_circle(run_dir: Path, config: DictConfig) -> None:
    """Raise if a run that trains a part stands on itself, through however many other runs.

    Raises:
        ValueError: it names the runs; or the config of one of them cannot be read.
    """
    chain = [run_dir]
    while is_partial(config) and (Path(str(config.network.weights)) / CONFIG).is_file():
        base = Path(str(config.network.weights))
        if base.resolve() in [one.resolve() for one in chain]:
            runs = ", ".join(map(str, [*chain[1:], base]))
            raise ValueError(
                f"{run_dir} stands on itself: network.weights in its config and on lead in a circle ({runs}); "
                f"set network.weights in {chain[-1] / CONFIG} to what that run was trained on"
            )
        chain.append(base)
        config = read_settings_file(base / CONFIG)
        check_config(config, origin=str(base / CONFIG))


def alpha_of(config: DictConfig) -> float:
    """Of a run's adapters."""
    alpha = config.adapter.get("alpha")
    return float(config.adapter.rank if alpha is None else alpha)


def refuse_other_base(run_dir: Path, parts: "Parts", base: str) -> None:
    """Refuse what a run would stand on in place of what it was trained on."""
    path = run_dir / RECORD
    then = read_record(run_dir).get("base") if path.is_file() else None
    if then is None or any(p.is_meta for p in parts.network.parameters()):
        return
    if then != base_fingerprint(parts):
        raise ValueError(
            f"{run_dir} was trained on other weights than network.weights={base} has now; if that is a run that has gone "
            "on, put back the checkpoint that it had, or train on one that stays"
        )
