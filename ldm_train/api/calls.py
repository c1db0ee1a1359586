"""The commands as functions: settings as keywords, objects among them; errors are raised, and nothing ends the process.

Notes and warnings are records of the logger "ldm_train": `logging.basicConfig(level=logging.INFO)` shows them all.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike, fspath
from types import MappingProxyType

from ldm_train.api.trained_runs import open_for_drawing
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.data.cache.reader import LatentCache
from ldm_train.settings.composition import compose as compose_words
from ldm_train.settings.config_file import CONFIG
from ldm_train.settings.python_values import PythonValues, merge_settings, read_trust
from ldm_train.settings.quoting import quote
from ldm_train.settings.schema.commands import SCHEMAS
from ldm_train.settings.schema.options import CommandSettings
from ldm_train.settings.shipped import CONFIG_PATH, ConfigError, searching
from ldm_train.settings.trust import TRUST, granted
from ldm_train.settings.without_effect import notes
from ldm_train.util.messages import note_all
from ldm_train.util.processes import called_from_python, launched_rank
from ldm_train.util.text import nearest

Settings = Mapping[str, object]
NONE: Settings = MappingProxyType({})
Names = str | Sequence[str]
FileName = str | PathLike[str]
Files = FileName | Sequence[FileName]


def compose(
    verb: str,
    settings: Settings = NONE,
    /,
    *,
    trust: Names = (),
    config: Files = (),
    config_path: FileName = "",
    **more: object,
) -> CommandSettings:
    """Return the settings that a command would run with, checked and complete; `as_plain()` of them is a dictionary.

    A setting is passed by its name, `max_steps=500`. A group takes the name of an option, `schedule="cosine"`, settings of
    the default option, `optimizer={"lr": 1e-3}`, or an object: a class or function, to which `functools.partial` gives
    settings, or an instance. Full names go into a dictionary: `compose("train", {"optimizer.lr": 1e-3}, cache="caches/a")`.

    Args:
        verb: the command, such as "train".
        trust: packages that a `_target_` in the settings or in a file may name. Objects need no trust.
        config: YAML files of settings, which the other arguments override.
        config_path: a folder of further options.

    Raises:
        ConfigError: an unknown command, setting or option, a value of another type, or a setting that is missing.
    """
    with _composed(verb, merge_settings(settings, more), trust, config, config_path) as composed:
        return composed


def run_command(
    verb: str,
    settings: Settings = NONE,
    /,
    *,
    trust: Names = (),
    config: Files = (),
    config_path: FileName = "",
    **more: object,
) -> int:
    """Run a command of `ldm-train` in this process, with settings as in `compose`; return its exit code.

    It is 0, 1 if `check` found problems or `encode` left pictures out with `strict=True`, or 75 if training was saved before
    its end.

    Raises:
        ConfigError: as in `compose`.
        ValueError, OSError: the command cannot do what the settings ask for; the message is the command line's.
    """
    with _composed(verb, merge_settings(settings, more), trust, config, config_path) as composed:
        return _run(verb, composed)


def encode(
    settings: Settings = NONE, /, *, trust: Names = (), config: Files = (), config_path: FileName = "", **more: object
) -> LatentCache:
    """Encode captioned pictures into a latent cache, as `ldm-train encode`, and return the cache.

    `cache` is the folder to write; `source={"path": "photos"}` are the pictures, and `image_size` is their side in pixels.
    Pictures that the cache has already are not encoded again.

    Raises:
        ConfigError: as in `compose`.
        ValueError: no picture can be used, some were left out with `strict=True`, or the cache would lose many.
    """
    with _composed("encode", merge_settings(settings, more), trust, config, config_path) as composed:
        code, folder = _run("encode", composed), str(composed.as_plain()["cache"])
    if code:
        raise ValueError(f"pictures were left out of {folder}, and strict=True; {folder}/report.json names them")
    return LatentCache(folder)


def train(
    settings: Settings = NONE, /, *, trust: Names = (), config: Files = (), config_path: FileName = "", **more: object
) -> TrainedRun:
    """Train a noise predictor on latent caches, as `ldm-train train`, and return the run as `load_run` opens it.

    A run that is stopped, by Ctrl-C or `max_time`, is saved and returned: its `step` is below `max_steps`. The same call
    continues it.

    `cache` is the folder of a cache and `run_dir` the one to write. Each part may be an
    object, such as `network=MyNetwork`, a class that is built with `in_channels`, `context_width` and `vector_width`, or an
    instance. Of a module of torch a copy is trained: the trained one is `run.parts.network`, on any device.

    A class that can be imported, and what `functools.partial` gives it, is recorded in the run directory, and the command
    line can use the run with `trust=PACKAGE`. Other objects cannot be recorded: pass them again to continue or load the run.

    Raises:
        ConfigError: as in `compose`.
        ValueError: the settings, the data or the objects do not fit each other, or training diverged.
        KeyboardInterrupt: it was stopped before its first step.
    """
    with _composed("train", merge_settings(settings, more), trust, config, config_path) as composed:
        _run("train", composed)
        return open_for_drawing(str(composed.as_plain()["run_dir"]))


@contextmanager
def _composed(
    verb: str, settings: Settings, trust: Names, config: Files, config_path: FileName
) -> Iterator[CommandSettings]:
    """Compose a call's settings; its grants end with the block."""
    if not isinstance(verb, str) or verb not in SCHEMAS:
        raise ConfigError(f"unknown command {verb!r}{nearest(str(verb), SCHEMAS)}; there are: {', '.join(SCHEMAS)}")
    named = list_files(config)
    if not isinstance(config_path, str | PathLike | None):
        raise ConfigError(f"{CONFIG_PATH} takes the name of a folder, not {config_path!r:.100}")
    path = [f"{CONFIG_PATH}={quote(fspath(config_path))}"] if config_path else []
    files = [f"{CONFIG}={quote(file)}" for file in named]
    given = {TRUST: trust, CONFIG: named, CONFIG_PATH: config_path and fspath(config_path)}
    with searching(path), _granted(verb, settings, trust, given) as values:
        yield compose_words(verb, files, values)


def list_files(config: Files | None) -> list[str]:
    """Return the names of the files of a call's `config`.

    Raises:
        ConfigError: it is something else than a name or a list of names.
    """
    given = [config] if isinstance(config, str | PathLike | None) else config
    files = [file for file in given if file] if isinstance(given, Sequence) else [given]
    if not all(isinstance(file, str | PathLike) for file in files):
        raise ConfigError(
            f"{CONFIG} takes the name of a YAML file, or a list of names, not {config!r:.100}; settings are a dictionary "
            "before the keywords"
        )
    return [fspath(file) for file in files]


@contextmanager
def _granted(verb: str, settings: Settings, trust: Names, given: Mapping[str, object]) -> Iterator[Settings]:
    """Let what a call passes and trusts be built until the block ends, which gets the settings as plain values.

    Args:
        given: further keywords of the call, for the record.
    """
    packages = read_trust(trust)
    with granted(packages):  # by which a group may name what is trusted
        read = PythonValues(verb, settings)
        source = read.values.get("source")
        typed = "source.path" in read.values or (isinstance(source, dict) and "path" in source)
        keywords = [f"{name}={value!r}" for name, value in given.items() if value]
        call = f"ldm_train.run_command({', '.join([repr(verb), repr(read.values), *keywords])})"
        with granted(replace(packages, commands=typed, objects=read.objects)), called_from_python(call):
            yield read.values


def _run(verb: str, composed: CommandSettings) -> int:
    refuse_at_once(verb, composed)
    if launched_rank() == 0:
        note_all(notes(verb, composed))
    return importlib.import_module(f"ldm_train.commands.{verb}.command").run(composed) or 0
