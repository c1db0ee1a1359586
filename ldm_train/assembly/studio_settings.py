"""Change the settings of `ldm-train sample` by name, read and checked as those of a command line."""

import re
import threading
from collections.abc import Mapping, Sequence

from ldm_train.assembly.sample_command import write_words
from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.settings.composition import compose_as, refuse_interpolations
from ldm_train.settings.python_values import PythonValues
from ldm_train.settings.quoting import kind_of_texts, quote
from ldm_train.settings.schema.commands import default_values
from ldm_train.settings.schema.options import list_part_groups
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.shipped import ConfigError, key_of

Changes = Mapping[str, object] | Sequence[str]
# What changes with most pictures; for it alone, a tenth of a second of Hydra is not spent.
USUAL = re.compile(r"(seed|first_number)=(\d{1,18})")
MOST_CACHED = 100  # settings that need not be read again
# What a command draws or reads as a whole; a studio draws one picture of one prompt.
NOT_PER_PICTURE = ("prompts", "x", "y", "interpolate", "to_seed", "blend", "labels", "batch_size")
AT_THE_START = ("out", "trust", "debug", "hydra", "config", "config_path")  # decided before a run is loaded
FIXED = (*NOT_PER_PICTURE, *AT_THE_START)
_composing = threading.Lock()  # Hydra's state is the process's


class StudioSettings:
    """The settings of a studio, to which changes are applied.

    Args:
        base: without changes.
    """

    def __init__(self, base: SampleSettings) -> None:
        self.base = base
        defaults, groups = default_values("sample"), list_part_groups(SampleSettings)
        given = {name: value for name, value in base.as_plain().items() if name in groups or value != defaults[name]}
        self._given = PythonValues("sample", given | {"prompts": [""], "out": base.out}).values
        self._read: dict[tuple[str, ...], SampleSettings] = {}

    def read(self, changes: Changes) -> SampleSettings:
        """Return the settings with changes: values by dotted names, or words as on the command line.

        Raises:
            ConfigError: an unknown setting, one that has no effect on one picture, or a value of another type.
            ValueError: a value out of range.
        """
        words = list_change_words(changes)
        for name in map(key_of, words):
            if name.partition(".")[0] in AT_THE_START:
                raise ConfigError(f"{name} cannot be changed while a run stays loaded: start again with {name}=…")
            if name.partition(".")[0] in NOT_PER_PICTURE:
                raise ConfigError(f"{name} cannot be changed here: one picture of one prompt is drawn at a time")
        usual = {found[1]: int(found[2]) for word in words if (found := USUAL.fullmatch(word))}
        words = tuple(word for word in words if not USUAL.fullmatch(word))
        if not words:
            return self.base.with_values(**usual)
        with _composing:
            if words not in self._read:
                self._read[words] = self._compose(words)
            for oldest in [*self._read][:-MOST_CACHED]:
                del self._read[oldest]
            return self._read[words].with_values(**usual)

    def forget(self) -> None:
        """Read settings anew, as after the run changed."""
        with _composing:
            self._read.clear()

    def _compose(self, words: Sequence[str]) -> SampleSettings:
        groups = list_part_groups(SampleSettings)
        chosen = {key_of(word) for word in words} & {*groups}
        given = {name: value for name, value in self._given.items() if name not in chosen}
        kept = [word for word in words if word not in {f"{group}=null" for group in groups}]  # left to the run
        settings = compose_as(SampleSettings, kept, given)
        refuse_at_once("sample", settings)
        return settings


def list_change_words(changes: Changes) -> tuple[str, ...]:
    """Return changes as words of a command line; of a mapping, a text is that text, whatever characters are in it.

    Raises:
        ConfigError: a text of a mapping has `${`, which would be replaced, by an environment variable for example.
    """
    if not isinstance(changes, Mapping):
        return tuple(changes)
    refuse_interpolations([*changes.values()])
    words: list[str] = []
    for name, value in changes.items():
        takes_text = isinstance(value, str) and kind_of_texts("sample", f"{name}=", {}) is not None
        words += [f"{name}={quote(value)}"] if isinstance(value, str) and takes_text else write_words(name, value)
    return tuple(words)
