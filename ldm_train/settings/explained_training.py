"""What `explain` shows of a training that was not run: the parts that its settings name, as words of `explain`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.settings.config_file import CONFIG, text
from ldm_train.settings.run_options import choose_option
from ldm_train.settings.schema.commands import own_settings
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.typed_values import expand_home, unquote
from ldm_train.settings.shipped import ConfigError, groups_of, key_of, read

VERB = "explain"
SHOWN = ("schedule", "prediction", "autoencoder", "text_encoder")  # groups that need no trained network
OF_TRAINING = (*SHOWN, "experiment", "image_size")  # what the words of a training may set here
UNUSED = "run_dir=none"  # which `train` needs, and nothing reads


@dataclass(frozen=True)
class ShownTraining:
    """The settings of a training that `explain` shows: words, and plain values; none if there is no such training."""

    words: Sequence[str] = ()
    values: Mapping[str, object] = field(default_factory=dict)


def split_training(
    verb: str, words: Sequence[str], passed: Mapping[str, object]
) -> tuple[list[str], Mapping[str, object], ShownTraining]:
    """Return the words and plain values of `explain` itself, and those of the training that it shows without a run.

    There is no training if a run is named, or no cache and no file of a training's settings.

    Raises:
        ConfigError: a run is named, and settings of another training too.
    """
    if verb != VERB:
        return [*words], passed, ShownTraining()
    training = [word for word in words if is_of_training(word)]
    values = {name: value for name, value in passed.items() if root_of(name) in OF_TRAINING}
    keys = {*map(key_of, words), *passed}
    if "run_dir" in keys:
        if given := [*training, *(f"{name}=…" for name in values)]:
            raise ConfigError(
                f"{given[0]} and run_dir=… are refused together: a run has its own settings; leave out run_dir, and give "
                "cache=DIR, to see what needs no trained network"
            )
        return [*words], passed, ShownTraining()
    if not training and not values and "cache" not in keys:
        return [*words], passed, ShownTraining()
    if "cache" not in keys and CONFIG not in map(key_of, training):
        first = training[0] if training else f"{next(iter(values))}=…"
        raise ConfigError(f"{first} needs cache=DIR, the cache that a training would read")
    caches = [word for word in words if key_of(word) == "cache"]
    values |= {"cache": passed["cache"]} if "cache" in passed else {}
    rest = {name: value for name, value in passed.items() if name not in values}
    return [word for word in words if word not in training], rest, ShownTraining([*training, *caches, UNUSED], values)


def is_of_training(word: str) -> bool:
    """Return whether a word of `explain` sets a training: an option of it, or a file that has settings of `train` only."""
    if key_of(word) != CONFIG:
        return root_of(word) in OF_TRAINING
    path = Path(expand_home(unquote(word.partition("=")[2])))
    own = {*map(root_of, own_settings(VERB)), *groups_of(VERB), "defaults"}
    return path.is_file() and not {root_of(str(key)) for key in read(path)} <= own


def root_of(word: str) -> str:
    """Return the group, or the setting, that a word or a full name belongs to."""
    return key_of(word).partition(".")[0]


def words_of_training(shown: ShownTraining, compose: Callable[..., object]) -> Iterable[str]:
    """Yield the words of `explain` that stand for a training's cache and for its parts that need no trained network.

    Args:
        compose: returns the settings of a command.
    """
    if not shown.words:
        return
    settings = compose("train", [*shown.words], shown.values)
    assert isinstance(settings, TrainSettings)
    yield f"++cache={text(settings.cache)}"
    yield f"++image_size={text(settings.image_size)}"
    for group in SHOWN:
        part = getattr(settings, group)
        yield from [] if part is None else choose_option(group, part.as_plain())
