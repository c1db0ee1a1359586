"""The config that a run directory holds, checked as the command line's words are before anything is built from it."""

from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.composition import defaults, plain
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.ranges import out_of_range
from ldm_train.settings.shipped import ConfigError, groups_of
from ldm_train.settings.strict import Check


def check_stored(config: DictConfig, path: Path) -> None:
    """Raise if a stored config, filled with the defaults, is none that its verb could have written.

    Raises:
        ValueError: it names the file and the first setting that is unknown, missing, of another type or out of range.
    """
    verb = "train_autoencoder" if "architecture" in config else "train"
    try:
        nodes = {name: config[name] for name in groups_of(verb) if _is_constructor(config.get(name))}
        named = {name: nearest_option(name, plain(node)) for name, node in nodes.items()}
        options = tuple(f"{name}={option}" for name, option in named.items() if option is not None)
        Check(verb, lambda name: "", defaults(verb, options))(config)
        problems = [*out_of_range(config), *_gaps(verb, config)]
    except (ConfigError, OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or was not written by this version: {error}") from error
    if problems:
        raise ValueError(f"{path} is damaged: {problems[0]}")


def _gaps(verb: str, config: DictConfig) -> list[str]:
    """Return what training fills in before it writes a config and this one lacks."""
    needed = ("autoencoder", "text_encoder", "image_size") if verb == "train" else ()
    return [f"it has no {name}" for name in needed if config.get(name) is None]


def _is_constructor(node: object) -> bool:
    return isinstance(node, DictConfig) and "_target_" in node
