"""Reject settings that nothing reads: in a composed config, from whichever word or file they came."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ldm_train.settings.constructors import check_constructors, list_untrusted
from ldm_train.settings.schema.commands import SCHEMAS, own_settings
from ldm_train.settings.schema.kinds import Section
from ldm_train.settings.schema.options import OWN_KEYS, PART_LISTS, PASSED, READ_BY_RUN, TARGET, list_part_groups
from ldm_train.settings.shipped import ConfigError, groups, none_chosen, shipped
from ldm_train.settings.signatures import signature
from ldm_train.settings.suggestions import suggest_setting
from ldm_train.settings.trust import UntrustedCodeError

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
SCALE = "guidance.scale"
SET_BY_THE_RUN = {
    "max_steps": "from max_steps",
    "accumulate_grad_batches": "from batch_size and micro_batch_size",
    "logger": "from the group `logger`",
    "callbacks": "from callbacks=[…]",
    "enable_checkpointing": "which keeps its last checkpoint itself, every checkpoint.every steps",
    **dict.fromkeys(("limit_val_batches", "val_check_interval"), "which validates itself, every validation.every steps"),
    **dict.fromkeys(
        (
            *("use_distributed_sampler", "max_epochs", "min_epochs", "min_steps", "limit_train_batches"),
            *("enable_progress_bar", "enable_model_summary", "inference_mode", "overfit_batches", "barebones"),
            *("check_val_every_n_epoch", "num_sanity_val_steps", "reload_dataloaders_every_n_epochs", "fast_dev_run"),
            *("limit_test_batches", "limit_predict_batches"),
        ),
        "which is one endless epoch",
    ),
}
Plain = Mapping[str, Any]


@dataclass(frozen=True)
class NameCheck:
    """Compare the names in a config with those that its command reads.

    Args:
        origin: returns the file that a setting came from, as words that begin with a space, or nothing.
        defaults: the command's config as it is shipped, with the chosen options.
        unbuilt: settings of which nothing is built, so that own code in them needs no trust.
    """

    verb: str
    origin: Callable[[str], str]
    defaults: Plain
    unbuilt: Collection[str] = ()

    def __call__(self, values: Plain) -> None:
        """Raise for the first setting that nothing reads, or that is missing.

        Raises:
            ConfigError: it names the setting, where it came from, and the nearest name that there is.
        """
        schema, used = SCHEMAS[self.verb], list_part_groups(SCHEMAS[self.verb])
        for key, value in values.items():
            try:
                self._constructors(key, value, key if key in used else None)
            except UntrustedCodeError as error:
                if key in self.unbuilt:
                    continue
                named = UntrustedCodeError(f"{error.refusal}{self.origin(key)}", list_untrusted(values))
                raise ConfigError(str(named)) from error
        for key, value in values.items():
            if key in used:
                self._group(key, value, values)
            elif key not in schema.model_fields:
                raise self._unknown(key, [*own_settings(self.verb), *used])
            elif key in PART_LISTS:
                for number, item in enumerate(value if isinstance(value, list) else []):
                    if isinstance(item, Mapping):
                        self._arguments(f"{key}[{number}]", item, passed=PASSED[PART_LISTS[key]], kept=frozenset())
            elif _is_section(schema.model_fields[key].annotation):
                self._section(key, value)
        needed = schema.model_fields.keys() - {group for group, optional in used.items() if optional}
        if missing := sorted(needed - values.keys()):
            names = ", ".join(f"{key}=…" for key in missing)
            raise ConfigError(
                f"{self.verb} needs {names}: {'they' if missing[1:] else 'it'} can be neither null nor deleted"
            )

    def _constructors(self, key: str, value: object, group: str | None) -> None:
        """Raise for constructors that may not be built, before any other check."""
        try:
            check_constructors(value, group, name=key)
        except UntrustedCodeError:
            raise
        except ValueError as error:
            raise ConfigError(f"{error}{self.origin(key)}") from error

    def _section(self, key: str, value: object) -> None:
        names = [name for name in own_settings(self.verb) if name.startswith(f"{key}.")]
        if not isinstance(value, Mapping):
            raise ConfigError(f"{key}={value}{self.origin(key)} is no value: {key} has the settings {', '.join(names)}")
        for name in value:
            if f"{key}.{name}" not in names:
                raise self._unknown(f"{key}.{name}", names)
        for name in names:
            if name.removeprefix(f"{key}.") not in value:
                raise ConfigError(f"{self.verb} needs {name}: it cannot be deleted")

    def _group(self, group: str, node: object, values: Plain) -> None:
        if group == "trainer" and isinstance(node, Mapping):
            return self._trainer(node)
        if isinstance(node, Mapping) and TARGET in node:
            return self._arguments(group, node, passed=PASSED.get(group, set()), kept=READ_BY_RUN.get(group, frozenset()))
        if node is None and list_part_groups(SCHEMAS[self.verb])[group]:
            return None
        options = ", ".join(groups()[group])
        if isinstance(node, Mapping) and node:
            setting = f"{group}.{next(iter(node))}{self.origin(group)}"
            raise ConfigError(none_chosen(group, setting, values.get("cache")))
        raise ConfigError(f"{group}={node}{self.origin(group)} is no option; there are: {options}")

    def _trainer(self, node: Plain) -> None:
        known = {str(key) for option in groups()["trainer"] for key in shipped(f"trainer/{option}")}
        for key in (key for key in node if key not in known):
            if key in SET_BY_THE_RUN:
                raise ConfigError(describe_set_by_the_run(key, self.origin(f"trainer.{key}")))
            found = signature(TRAINER)
            if found is not None and key not in found.kinds:
                names = {f"trainer.{name}" for name in found.kinds.keys() - SET_BY_THE_RUN.keys()}
                raise self._unknown(f"trainer.{key}", sorted(names), of="Lightning's Trainer")

    def _arguments(self, path: str, node: Plain, *, passed: set[str], kept: frozenset[str]) -> None:
        """Check what a config gives a constructor, and the constructors in it."""
        target = str(node[TARGET])
        found = signature(target)
        own = [key for key in node if key not in OWN_KEYS and key not in kept]
        if forbidden := next((key for key in own if key in passed), None):
            raise ConfigError(f"{path}.{forbidden}{self.origin(f'{path}.{forbidden}')} is set by the run itself")
        unknown = [] if found is None or found.further else [key for key in own if key not in found.kinds]
        if found is not None and unknown:
            names = [f"{path}.{name}" for name in sorted((found.kinds.keys() | kept) - passed)]
            of = f"{target.rpartition('.')[2]}, which takes {', '.join(names) or 'no setting'}"
            raise self._unlike(path, node, unknown, names, of)
        for name, nested in _nested(node):
            self._arguments(f"{path}.{name}", nested, passed=set(), kept=frozenset())

    def _unlike(self, path: str, node: Plain, unknown: list[str], known: list[str], of: str) -> ConfigError:
        """Return the error for what a constructor does not take: mistyped, or an argument of the option that it replaced."""
        before: object = self.defaults
        for key in path.split("."):
            before = before.get(key) if isinstance(before, Mapping) else None
        replaced = before if isinstance(before, Mapping) and before.get(TARGET) != node[TARGET] else {}
        left = [key for key in unknown if key in replaced]
        if mistyped := [key for key in unknown if key not in left]:
            return self._unknown(f"{path}.{mistyped[0]}", known, of=of)
        if f"{path}.{left[0]}" == SCALE:
            return ConfigError(f"{SCALE} is passed to every guidance, and {of} must take it: add the argument scale")
        words = " ".join(f"~{path}.{key}" for key in left)
        return ConfigError(f"unknown setting '{path}.{left[0]}' of {of}; leave out what another constructor takes: {words}")

    def _unknown(self, key: str, known: list[str], *, of: str = "") -> ConfigError:
        place = f"{of or self.verb}{self.origin(key)}{suggest_setting(self.verb, key, known)}"
        return ConfigError(f"unknown setting {key!r} of {place} (`ldm-train {self.verb} --help` lists them)")


def describe_set_by_the_run(key: str, origin: str = "") -> str:
    """Return why an argument of Lightning's Trainer is refused."""
    return f"trainer.{key}{origin} is set by the run, {SET_BY_THE_RUN[key]}"


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _nested(node: Plain) -> Iterator[tuple[str, Plain]]:
    """Yield the arguments of a constructor that are constructors again, also those in lists."""
    for key, value in node.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping) and TARGET in one:
                yield key, one
