"""The words for Hydra itself on a sweep's command line: `hydra/launcher=…`, `hydra/sweeper=…` and the settings of these.

Only the command line can name them: files of settings and folders of options are refused if they hold any.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from hydra import initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm_train.settings.schema.options import TARGET
from ldm_train.settings.shipped import ConfigError, key_of
from ldm_train.settings.trust import current_grants
from ldm_train.util.text import nearest

BASIC, KINDS = "basic", ("launcher", "sweeper")
CHOICE = re.compile(r"hydra/(launcher|sweeper|sweeper/sampler)")
SETTING = re.compile(r"hydra\.(launcher|sweeper)\.(.+)")
EXTRAS = {
    "launcher": {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit"},
    "sweeper": {"optuna": "optuna", "ax": "ax"},
}
CODE = "custom_search_space"  # the setting of Optuna's sweeper that names a function
EMPTY = "ldm_train_plugins"


@dataclass(frozen=True)
class PluginWords:
    """The words of a command line for Hydra's launcher and sweeper."""

    words: tuple[str, ...] = ()

    @property
    def launcher(self) -> str:
        return self._chosen("launcher")

    @property
    def sweeper(self) -> str:
        return self._chosen("sweeper")

    @property
    def searches(self) -> bool:
        """Whether the sweeper chooses the values of a job by the results of others."""
        return self.sweeper != BASIC

    @property
    def minimizes(self) -> bool | None:
        """Whether a setting of the sweeper asks for the lowest value; None if no setting says."""
        values = {key_of(word): word.partition("=")[2].strip("'\" ").lower() for word in self.words}
        directions = {"minimize": True, "maximize": False, "true": True, "false": False}
        given = [values.get("hydra.sweeper.direction"), values.get("hydra.sweeper.ax_config.experiment.minimize")]
        return next((directions[value] for value in given if value in directions), None)

    def _chosen(self, kind: str) -> str:
        return next((word.partition("=")[2] for word in reversed(self.words) if key_of(word) == f"hydra/{kind}"), BASIC)


def split_plugins(words: Sequence[str]) -> tuple[list[str], PluginWords]:
    """Return the words for the jobs, and those for Hydra.

    Raises:
        ConfigError: a word sets something else of Hydra's, or names code that was not trusted.
    """
    own = [word for word in words if re.match(r"hydra\b", key_of(word))]
    for word in own:
        key = key_of(word)
        if "=" not in word or not (CHOICE.fullmatch(key) or SETTING.fullmatch(key)):
            raise ConfigError(
                f"{word} is refused: of Hydra's settings a sweep takes hydra/launcher=NAME, hydra/sweeper=NAME, and their "
                "settings, hydra.launcher.NAME=VALUE and hydra.sweeper.NAME=VALUE"
            )
        if TARGET in word or (key.endswith(CODE) and not current_grants().cover(word.partition("=")[2])):
            raise ConfigError(f"{word} is refused: it names code to run; for a function of your own add trust=PACKAGE")
    return [word for word in words if word not in own], PluginWords(tuple(own))


def check_plugins(plugins: PluginWords) -> None:
    """Raise unless the plugins are installed, and have the settings that are given.

    Raises:
        ConfigError: it names the extra to install, or the nearest option or setting.
    """
    with initialize(config_path=None, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        options = {kind: loader.get_group_options(f"hydra/{kind}") for kind in KINDS}
    for kind in KINDS:
        name = plugins.launcher if kind == "launcher" else plugins.sweeper
        if name not in options[kind]:
            raise ConfigError(describe_missing(kind, name, options[kind]))
    if not plugins.words:
        return
    choices = [word for word in plugins.words if CHOICE.fullmatch(key_of(word))]
    known = compose_plugins(choices)
    for word in plugins.words:
        if (match := SETTING.fullmatch(key_of(word))) and not word.startswith("+"):
            names = list_setting_names(known[match[1]])
            if match[2] not in names:
                near = nearest(match[2], names)
                raise ConfigError(f"unknown setting {key_of(word)!r}; there are: {', '.join(names)}{near}")
    compose_plugins(plugins.words)


def describe_missing(kind: str, name: str, installed: Sequence[str]) -> str:
    """Return what to do about an option of `hydra/launcher` or `hydra/sweeper` that Hydra does not find."""
    known = EXTRAS[kind]
    if name not in known:
        names = sorted({*installed, *known})
        return f"hydra/{kind}={name} is no option; there are: {', '.join(names)}{nearest(name, names)}"
    note = f"; it needs hydra-core 1.4, and here is {version('hydra-core')}" if name == "ax" else ""
    return (
        f"hydra/{kind}={name} is a plugin of Hydra that is not installed: pip install 'ldm-train[{known[name]}]'{note} "
        f"(installed: {', '.join(installed)}; Python {sys.version_info.major}.{sys.version_info.minor})"
    )


def compose_plugins(words: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return the settings of the launcher and of the sweeper that words make.

    Raises:
        ConfigError: Hydra refuses them.
    """
    ConfigStore.instance().store(name=EMPTY, node={})
    GlobalHydra.instance().clear()
    try:
        with initialize(config_path=None, version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            config = hydra.compose_config(EMPTY, [*words], run_mode=RunMode.MULTIRUN)
            found = {kind: OmegaConf.to_container(config.hydra[kind], resolve=False) for kind in KINDS}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{' '.join(words)}: {str(error.__cause__ or error).strip()}") from error
    return {
        kind: {str(name): value for name, value in values.items()}
        for kind, values in found.items()
        if isinstance(values, dict)
    }


def list_setting_names(settings: Mapping[str, object], prefix: str = "") -> list[str]:
    """Return the dotted names of settings and of those in them, without what Hydra itself reads."""
    names = []
    for name, value in settings.items():
        if not str(name).startswith("_"):
            names += [f"{prefix}{name}"]
            names += list_setting_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else []
    return names
