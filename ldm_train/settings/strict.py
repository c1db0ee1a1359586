"""Settings that nobody would read: in a composed config, from whichever word or file they came."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from omegaconf import DictConfig, ListConfig, OmegaConf

from ldm_train.settings.constructors import HYDRAS_OWN, check_constructors
from ldm_train.settings.shipped import ConfigError, dotted, groups, groups_of, nearest, none_chosen, shipped
from ldm_train.settings.signatures import signature
from ldm_train.settings.values import ONE_TEXT

ACCEPTED: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
MAPPINGS = {"adapters"}  # settings of a verb that may be one
FREE = {"trainer.devices"}  # Lightning takes a number, a list or "auto"
NULL_IS_MEANT = {"train.cache", "train.metrics.every", "check.metrics.every"}  # whatever the default

# What the assembly passes beside a config's own keys, and the keys that it keeps for itself.
PASSED = {
    "crop": {"image_size"},
    "network": {"in_channels", "context_width", "vector_width"},
    "logger": {"save_dir"},
    "guidance": {"denoiser", "null"},
    "optimizer": {"params"},
    "source": {"commands"},
}
KEPT = {"network": {"weights", "averaged", "add_input_channels"}, "guidance": {"weak"}}

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
SET_BY_THE_RUN = {
    "max_steps": "from max_steps",
    "accumulate_grad_batches": "from batch_size and micro_batch_size",
    "logger": "from the group `logger`",
    "enable_checkpointing": "which keeps its last checkpoint itself, every checkpoint.every steps",
    **dict.fromkeys(("limit_val_batches", "val_check_interval"), "which validates itself, every validation.every steps"),
    **dict.fromkeys(
        (
            *("callbacks", "use_distributed_sampler", "max_epochs", "min_epochs", "min_steps", "limit_train_batches"),
            *("enable_progress_bar", "enable_model_summary", "inference_mode", "overfit_batches", "barebones"),
            *("check_val_every_n_epoch", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs", "fast_dev_run"),
            *("limit_test_batches", "limit_predict_batches"),
        ),
        "which is one endless epoch",
    ),
}


@dataclass(frozen=True)
class Check:
    """The composed config of a verb, against what is read of it.

    Args:
        origin: of a setting's full name: the file that it came from, in words that begin with a space, or nothing.
        defaults: the config as it is shipped, with the chosen options.
    """

    verb: str
    origin: Callable[[str], str]
    defaults: DictConfig

    def __call__(self, config: DictConfig) -> None:
        """Refuse the first setting that nobody reads, that is missing, or whose value is of another type than its default.

        Raises:
            ConfigError: it names the setting, where it came from, and the nearest that there is.
        """
        reference, used = shipped(self.verb), groups_of(self.verb)
        for key, value in plain_settings(config).items():
            self._constructors(key, value, key if key in used else None)
        for key in map(str, config):
            if key in used:
                self._group(key, config[key])
            elif key not in reference.keys():  # noqa: SIM118 -- `in` alone passes over what is missing
                raise self._unknown(key, [*dotted(reference), *used])
            else:
                self._plain(key, reference._get_node(key), config[key])
        own = {str(key) for key in reference if key not in ("defaults", *used)}
        for key in sorted((own | {group for group, optional in used.items() if not optional}) - set(config)):
            raise ConfigError(f"{self.verb} needs {key}=…: it can be neither null nor deleted")
        self._values(config, self.defaults)

    def _constructors(self, key: str, value: object, group: str | None) -> None:
        """Refuse constructors that may not be built, before any other is looked at."""
        try:
            check_constructors(value, group, name=key)
        except ValueError as error:
            raise ConfigError(f"{error}{self.origin(key)}") from error

    def _plain(self, key: str, reference: object, value: object) -> None:
        """A setting of the verb itself, or a section of such."""
        if not isinstance(reference, DictConfig):
            if isinstance(value, DictConfig) and key not in MAPPINGS:
                raise ConfigError(f"{key}={value}{self.origin(key)} is a mapping, and {key} takes none")
            return
        names = [f"{key}.{name}" for name in map(str, reference)]
        if not isinstance(value, DictConfig):
            raise ConfigError(f"{key}={value}{self.origin(key)} is no value: {key} has the settings {', '.join(names)}")
        for name in map(str, value):
            if name not in reference.keys():  # noqa: SIM118
                raise self._unknown(f"{key}.{name}", names)
        for name in map(str, reference):
            if name not in value:
                raise ConfigError(f"{self.verb} needs {key}.{name}: it cannot be deleted")

    def _group(self, group: str, node: object) -> None:
        if group == "trainer" and isinstance(node, DictConfig):
            return self._trainer(node)
        if isinstance(node, DictConfig) and "_target_" in node:
            return self._arguments(group, node, passed=PASSED.get(group, set()), kept=KEPT.get(group, set()))
        if node is None and groups_of(self.verb)[group]:
            return None
        options = ", ".join(groups()[group])
        if isinstance(node, DictConfig) and len(node):
            raise ConfigError(none_chosen(group, f"{group}.{next(map(str, node))}{self.origin(group)}"))
        raise ConfigError(f"{group}={node}{self.origin(group)} is no option; there are: {options}")

    def _trainer(self, node: DictConfig) -> None:
        known = {str(key) for option in groups()["trainer"] for key in shipped(f"trainer/{option}")}
        for key in (str(key) for key in node if key not in known):
            if key in SET_BY_THE_RUN:
                raise ConfigError(set_by_the_run(key, self.origin(f"trainer.{key}")))
            found = signature(TRAINER)
            if found is not None and key not in found.nullable:
                names = {f"trainer.{name}" for name in found.nullable.keys() - SET_BY_THE_RUN.keys()}
                raise self._unknown(f"trainer.{key}", sorted(names), of="Lightning's Trainer")

    def _arguments(self, path: str, node: DictConfig, *, passed: set[str], kept: set[str]) -> None:
        """What a config tells a constructor, and the constructors in it."""
        target = str(node._target_)
        found = signature(target)
        own = [str(key) for key in node if key not in HYDRAS_OWN | kept]
        if meant := next((key for key in own if key in passed), None):
            raise ConfigError(f"{path}.{meant}{self.origin(f'{path}.{meant}')} is set by the run itself")
        unknown = [] if found is None or found.further else [key for key in own if key not in found.nullable]
        if found is not None and unknown:
            names = [f"{path}.{name}" for name in sorted((found.nullable.keys() | kept) - passed)]
            of = f"{target.rpartition('.')[2]}, which takes {', '.join(names) or 'no setting'}"
            raise self._unlike(path, node, unknown, names, of)
        for name, nested in _constructors(node):
            self._arguments(f"{path}.{name}", nested, passed=set(), kept=set())

    def _unlike(self, path: str, node: DictConfig, unknown: list[str], known: list[str], of: str) -> ConfigError:
        """What a constructor does not take: mistyped, or of the option whose constructor this one was put in place of."""
        before = OmegaConf.select(self.defaults, path)
        other = isinstance(before, DictConfig) and before.get("_target_") != node._target_
        left = [key for key in unknown if other and key in before.keys()]  # noqa: SIM118
        if mistyped := [key for key in unknown if key not in left]:
            return self._unknown(f"{path}.{mistyped[0]}", known, of=of)
        words = " ".join(f"~{path}.{key}" for key in left)
        return ConfigError(f"unknown setting '{path}.{left[0]}' of {of}; leave out what another constructor takes: {words}")

    def _unknown(self, key: str, known: list[str], *, of: str = "") -> ConfigError:
        told = f"{of or self.verb}{self.origin(key)}{nearest(key, known)}"
        return ConfigError(f"unknown setting {key!r} of {told} (`ldm-train {self.verb} --help` lists them)")

    def _values(self, config: DictConfig, defaults: DictConfig, prefix: str = "", target: str = "") -> None:
        """Where the default is a number, a switch or a list, the value must be one too, and null only where it is read."""
        for key in map(str, config):
            name = prefix + key
            missing = OmegaConf.is_missing(defaults, key)
            default = None if missing else defaults.get(key)
            value = config[key]
            text = isinstance(default, str) or bool({name, f"{self.verb}.{name}"} & ONE_TEXT)
            if OmegaConf.is_config(value) and text and not OmegaConf.is_config(default) and name not in FREE:
                raise ConfigError(f"{name}={value}{self.origin(name)} is not one text, which is what {name} takes")
            if isinstance(value, DictConfig):
                nested = TRAINER if name == "trainer" else str(value.get("_target_", ""))
                below = default if isinstance(default, DictConfig) else OmegaConf.create()
                self._values(value, below, f"{name}.", nested)
            elif value is None:
                if (default is not None or missing) and not self._may_be_null(name, target):
                    instead = f"its default is {default}" if default is not None else "it has no default"
                    raise ConfigError(f"{name}=null{self.origin(name)} is not accepted; {instead}")
            elif isinstance(default, ListConfig) and not isinstance(value, ListConfig):
                raise ConfigError(f"{name}={value}{self.origin(name)} is not a list, such as its default {default}")
            elif isinstance(default, bool | int | float) and name not in FREE:
                self._number(name, value, default)

    def _number(self, name: str, value: object, default: float) -> None:
        whole = isinstance(value, int) or not isinstance(default, int)
        if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, int | float) or not whole:
            accepted = next(words for kind, words in ACCEPTED.items() if isinstance(default, kind))
            raise ConfigError(f"{name}={value}{self.origin(name)} is not {accepted}, such as its default {default}")

    def _may_be_null(self, name: str, target: str) -> bool:
        if not target:
            return f"{self.verb}.{name}" in NULL_IS_MEANT or name in groups_of(self.verb)
        found = signature(target)
        return found is None or found.nullable.get(name.rpartition(".")[2], True)


def plain_settings(config: DictConfig) -> dict[str, object]:
    """Return a config in Python's own values; what is missing as the text ???."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def set_by_the_run(key: str, origin: str = "") -> str:
    return f"trainer.{key}{origin} is set by the run, {SET_BY_THE_RUN[key]}"


def _constructors(node: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """The settings of a constructor that are constructors again, also in lists."""
    for key in map(str, node):
        value = None if node._is_missing() else node[key]
        for one in value if isinstance(value, ListConfig) else [value]:
            if isinstance(one, DictConfig) and "_target_" in one:
                yield key, one
