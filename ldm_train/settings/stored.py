"""The config that a run directory holds, checked as the command line's words are before anything is built from it."""

from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.composition import defaults, plain
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.schema.parts import TARGET, CommandSettings
from ldm_train.settings.shipped import ConfigError, groups_of
from ldm_train.settings.strict import NameCheck
from ldm_train.settings.validation import out_of_range, read_settings


def read_stored(config: DictConfig, path: Path) -> CommandSettings:
    """Return the settings that a stored config holds, after it was filled with the defaults.

    Raises:
        ValueError: it names the file and the first setting that is unknown, missing, of another type or out of range.
    """
    verb = "train_autoencoder" if "architecture" in config else "train"
    try:
        values = plain(config)
        nodes = {name: values[name] for name in groups_of(verb) if _is_constructor(values.get(name))}
        named = {name: nearest_option(name, node) for name, node in nodes.items()}
        options = tuple(f"{name}={option}" for name, option in named.items() if option is not None)
        NameCheck(verb, lambda name: "", plain(defaults(verb, options), resolve=False))(values)
        settings = read_settings(verb, values)
        problems = [*out_of_range(settings), *_gaps(verb, settings)]
    except (ConfigError, OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged, or was not written by this version: {error}") from error
    if problems:
        raise ValueError(f"{path} is damaged: {problems[0]}")
    return settings


def _gaps(verb: str, settings: CommandSettings) -> list[str]:
    """Return what training fills in before it writes a config and this one lacks."""
    needed = ("autoencoder", "text_encoder", "image_size") if verb == "train" else ()
    return [f"it has no {name}" for name in needed if getattr(settings, name) is None]


def _is_constructor(value: object) -> bool:
    return isinstance(value, dict) and TARGET in value
