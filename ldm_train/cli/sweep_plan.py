"""What a sweep varies: the values of each swept setting, as they were typed, or the range that a search draws from."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from ldm_train.cli.sweep_jobs import Job, JobTemplate
from ldm_train.settings.composition import ConfigError, folder, last_words, targets_of
from ldm_train.settings.config_file import CONFIG
from ldm_train.settings.quoting import kind_of_texts, quote
from ldm_train.settings.schema.typed_values import expand_home, split_items, unquote
from ldm_train.settings.shipped import CONFIG_PATH, key_of
from ldm_train.settings.trust import is_trust

PLACES = {"train": "run_dir", "train_autoencoder": "run_dir", "encode": "cache"}  # of others: out
CHOICE = re.compile(r"choice\(.*\)", re.DOTALL)


@dataclass(frozen=True)
class SweptSetting:
    """A setting with several values.

    Args:
        name: as on the command line, perhaps with a `+`.
        values: as they are written on a job's command line; of an interval its ends; of a range that a search draws from,
            also its end.
        expression: of a range or an interval, in Hydra's grammar, which a search draws from; None for a list of values.
    """

    name: str
    values: tuple[str, ...]
    expression: str | None = None

    @property
    def words(self) -> list[str]:
        return [f"{self.name}={value}" for value in self.values]


@dataclass(frozen=True)
class SweepPlan:
    """A sweep's settings with several values, and what all its jobs share.

    Args:
        searches: whether a search chooses the combinations.
    """

    template: JobTemplate
    swept: tuple[SweptSetting, ...]
    searches: bool

    def jobs(self) -> list[Job]:
        """Return the jobs of all combinations; of a search, so few jobs that each value of each setting is in one."""
        choices = [setting.words for setting in self.swept]
        if self.searches:
            count = max(map(len, choices))
            return [self.template.job([words[number % len(words)] for words in choices]) for number in range(count)]
        return [self.template.job(combination) for combination in product(*choices)]

    @property
    def keys(self) -> dict[str, str]:
        """Return the name that each swept setting has in Hydra's config: its own, unless settings below it are swept too."""
        plain = {setting.name: key_of(setting.name) for setting in self.swept}
        above = {key for key in plain.values() if any(other.startswith(f"{key}.") for other in plain.values())}
        return {name: f"{key}.option" if key in above else key for name, key in plain.items()}

    @property
    def lists(self) -> dict[str, tuple[str, ...] | None]:
        """Return the values of each swept setting by its name in Hydra's config; None for a range; no shuffled ranges."""
        kept = [one for one in self.swept if "shuffle" not in (one.expression or "")]
        return {self.keys[one.name]: None if one.expression else one.values for one in kept}

    def hydra_words(self) -> list[str]:
        """Return what Hydra's sweeper gets: a list of texts as they were typed, or the expression of a range."""
        # Not choice("a","b"), in which Hydra drops the quotes: a text such as 1e3 would become a number.
        listed = {one.name: one.expression or ",".join(map(quote, one.values)) for one in self.swept}
        return [f"{key}={listed[name]}" for name, key in self.keys.items()]


def place_of(verb: str) -> str:
    """Return the setting that names what a command writes."""
    return PLACES.get(verb, "out")


def plan_sweep(verb: str, words: list[str], *, searches: bool) -> SweepPlan:
    """Return the plan of a command line: several values by Hydra's own rules, and of texts and paths as they were typed.

    Raises:
        ConfigError: a word that cannot be read, no word with several values, or a place to write that is not one.
    """
    place, words = place_of(verb), last_words(words)
    targets = targets_of(verb, words)
    swept, plain, base = list[SweptSetting](), [], ""
    with initialize_config_dir(str(folder()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for word in words:
            if is_trust(word) or key_of(word) in (CONFIG, CONFIG_PATH) or kind_of_texts(verb, word, targets) is not None:
                choices, expression = split_texts(word), None
            else:
                choices, expression = list_choices(parser, word, searches=searches)
            if key_of(word) == place:
                base = unquote(word.partition("=")[2]) if len(choices) == 1 else ""
            elif choices != [word]:
                values = tuple(one.partition("=")[2] for one in choices)
                swept.append(SweptSetting(choices[0].partition("=")[0], values, expression))
            else:
                plain.append(word)
    if not swept:
        raise ConfigError(f"--multirun sweeps nothing: give a setting of {verb} several values, as in seed=0,1")
    if not base.strip() or base == "null":
        raise ConfigError(f"--multirun needs {place}=…, the one folder in which each job has its own")
    return SweepPlan(JobTemplate(verb, tuple(plain), place, Path(expand_home(base))), tuple(swept), searches)


def split_texts(word: str) -> list[str]:
    """Return a word for each of the texts that it gives a setting, `a,b` or `choice(a,b)`, as they were typed."""
    name, equals, value = word.partition("=")
    chosen = value.removeprefix("choice(").removesuffix(")") if CHOICE.fullmatch(value) else value
    values = split_items(chosen) if equals and not is_trust(word) else [value]
    return [word] if len(values) == 1 and chosen == value else [f"{name}={one}" for one in values]


def list_choices(parser: OverridesParser, word: str, *, searches: bool) -> tuple[list[str], str | None]:
    """Return a word for each value that Hydra's grammar reads in a word, and the expression of a range.

    Raises:
        ConfigError: it cannot be read, or has values that cannot be listed.
    """
    [override] = parsed(parser, [word])
    name, _, expression = word.partition("=")
    if not override.is_sweep_override():
        return [word], None
    if override.is_interval_sweep():
        value = override.value()
        assert isinstance(value, IntervalSweep)
        if not searches:
            raise ConfigError(
                f"{word}: hydra/sweeper=optuna draws from an interval; without a search list values, as in a,b"
            )
        return [f"{name}={value.start}", f"{name}={value.end}"], expression
    try:
        listed = [one for [one] in BasicSweeper.split_arguments([override], None)[0]]
    except HydraException as error:
        raise ConfigError(str(error)) from error
    if not (searches and override.is_range_sweep()):
        return listed, None
    value = override.value()
    assert isinstance(value, RangeSweep)
    return [*listed, f"{name}={value.stop}"], expression  # Optuna draws the end too


def parsed(parser: OverridesParser, words: Iterable[str]) -> list[Override]:
    overrides = []
    for word in words:
        try:
            overrides += parser.parse_overrides([word])  # which tells it the options of groups
        except HydraException as error:
            raise ConfigError(f"{word!r} cannot be read: {error}") from error
    return overrides


def nest(names: Sequence[str]) -> dict[str, object]:
    """Return the config that has these dotted names, each with the value null."""
    found: dict[str, object] = {}
    for name in names:
        *parents, last = name.split(".")
        node = found
        for parent in parents:
            inner = node.setdefault(parent, {})
            assert isinstance(inner, dict)
            node = inner
        node[last] = None
    return found


def look_up(values: object, name: str) -> object:
    """Return the value of a dotted name in nested mappings."""
    for key in name.split("."):
        assert isinstance(values, dict)
        values = values[key]
    return values
