"""The settings that a run directory holds, checked as the command line's words are before anything is built from them."""

from pathlib import Path

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ldm_train.run_dir.moved_paths import locate_paths
from ldm_train.run_dir.reading import CONFIG
from ldm_train.settings.composition import defaults, plain
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.constructors import check_config
from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.settings.schema.options import TARGET, CommandSettings
from ldm_train.settings.schema.training import FittingSettings, TrainSettings
from ldm_train.settings.shipped import ConfigError, groups_of
from ldm_train.settings.strict import NameCheck
from ldm_train.settings.validation import out_of_range, validate_settings

# What only training builds, by the settings of its own command line.
TRAINING_ONLY = ("optimizer", "lr_schedule", "ema", "timesteps", "callbacks", "metrics", "logger", "source", "crop")


def read_config(run_dir: Path) -> FittingSettings:
    """Return the settings that a run was last started with, of whichever command.

    Raises:
        ValueError: no run there, or a config that its command could not have written.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise ValueError(f"run_dir={run_dir} is not a run directory: it has no {CONFIG}")
    config = read_settings_file(path)
    if "max_steps" not in config:
        raise ValueError(f"{path} is no config of a run: it has no max_steps")
    check_config(config, origin=str(path), unbuilt=TRAINING_ONLY)
    try:
        return read_stored(config, path)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def read_trained(run_dir: Path | str) -> TrainSettings:
    """Return the settings that a run of `train` was last started with, and the paths where its files are now.

    Raises:
        ValueError: no run there, one of another command, or a config that `train` could not have written.
    """
    settings = read_config(Path(run_dir))
    if not isinstance(settings, TrainSettings):
        raise ValueError(
            f"run_dir={run_dir} trained an autoencoder, which is in {Path(run_dir) / 'autoencoder'} in diffusers' layout; "
            "give a run of `ldm-train train`"
        )
    return locate_paths(settings, Path(run_dir))


def read_stored(config: DictConfig, path: Path) -> FittingSettings:
    """Return the settings that a stored config holds.

    Raises:
        ValueError: it names the file and the first setting that is unknown, missing, of another type or out of range.
    """
    verb = "train" if "network" in config else "train_autoencoder"
    try:
        values = plain(config)
        nodes = {name: values[name] for name in groups_of(verb) if _is_constructor(values.get(name))}
        named = {name: nearest_option(name, node) for name, node in nodes.items()}
        options = tuple(f"{name}={option}" for name, option in named.items() if option is not None)
        NameCheck(verb, lambda name: "", plain(defaults(verb, options), resolve=False), TRAINING_ONLY)(values)
        settings = validate_settings(verb, values)
        problems = [*out_of_range(settings), *_gaps(verb, settings)]
    except (ConfigError, OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged, or was written by another version, whose runs are not read: {error}"
        ) from error
    if problems:
        raise ValueError(f"{path} is damaged: {problems[0]}")
    assert isinstance(settings, FittingSettings)
    return settings


def _gaps(verb: str, settings: CommandSettings) -> list[str]:
    """Return what training fills in before it writes a config and this one lacks."""
    needed = ("autoencoder", "text_encoder", "image_size") if verb == "train" else ()
    return [f"it has no {name}" for name in needed if getattr(settings, name) is None]


def _is_constructor(value: object) -> bool:
    return isinstance(value, dict) and TARGET in value
