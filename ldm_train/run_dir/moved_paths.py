"""Find the files that a run names by their paths, from wherever the run is opened, and also after they were moved.

A relative path is looked for in the current folder, then in the folder that the run was last started in, and then in the
folder that lies to the run directory now as that one did then.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from ldm_train.settings.schema.listed_parts import change_argument, iterate_parts
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.ownership import RUN, read_mark
from ldm_train.util.text import as_word, list_names

STARTED_IN = "folder"  # the key of the working folder in a start of the record
NAMED = (
    *((group, "weights") for group in ("network", "autoencoder", "text_encoder", "features", "clip_score")),
    *(("text_encoder", "tokenizer"), ("guidance", "weak"), ("evaluation", "source")),
)

_moved: ContextVar[Mapping[str, str]] = ContextVar("moved", default={})  # noqa: B039 - never changed in place


@contextmanager
def relocated(moved: Mapping[str, str] | None) -> Iterator[None]:
    """Take a command's setting `moved`, old paths to new ones, for all runs that are read until the block ends."""
    before = _moved.set(moved or {})
    try:
        yield
    finally:
        _moved.reset(before)


def locate_paths(settings: TrainSettings, run_dir: Path) -> TrainSettings:
    """Return a run's settings with the paths at which the files that it names are found now; others stay as they are.

    Raises:
        ValueError: a path leads to several places.
    """
    values: dict[str, object] = {}
    for group, name in NAMED:
        part = values.get(group, getattr(settings, group))
        if isinstance(part, Part):
            locate = partial(locate_path, run_dir=run_dir, setting=f"{group}.{name}")
            values[group] = change_argument(group, part, name, locate)
    locate = partial(locate_path, run_dir=run_dir, setting="weights of a condition")
    values["conditions"] = [change_argument("condition", part, "weights", locate) for part in settings.conditions]
    cache = settings.cache
    if isinstance(cache, str):
        values["cache"] = locate_path(cache, run_dir, setting="cache")
    elif cache is not None:
        values["cache"] = [locate_path(one, run_dir, setting="cache") for one in cache]
    return settings.with_values(**values)


def locate_path(path: str, run_dir: Path, *, setting: str) -> str:
    """Return where a file or folder is that a run's setting names; the path itself if it is nowhere.

    Raises:
        ValueError: there are several, of which the current folder has none.
    """
    for old, new in _moved.get().items():
        if path == old or path.startswith(f"{old.rstrip('/')}/"):
            return new + path[len(old.rstrip("/")) :]
    if os.path.exists(path):
        return path
    found = {place.resolve(): str(place) for place in list_places(path, run_dir) if place.exists()}
    if len(found) > 1:
        raise ValueError(
            f"{setting}={path} of {run_dir} may be {list_names(list(found.values()))}; say which: {suggest_move(path)}"
        )
    return next(iter(found.values()), path)


def list_places(path: str, run_dir: Path) -> list[Path]:
    """Return where a run's path may lead, the current folder first."""
    record = read_mark(run_dir, RUN) or {}
    starts, original, places = record.get("starts"), record.get("run_dir"), [Path.cwd() / path]
    last = starts[-1] if isinstance(starts, list) and starts else None
    folder = last.get(STARTED_IN) if isinstance(last, dict) else None
    if not isinstance(folder, str):
        return places
    relative = os.path.relpath(path, folder) if os.path.isabs(path) else path
    if not os.path.isabs(path):
        places.append(Path(folder) / path)
    if isinstance(original, str) and not relative.startswith(".."):
        places.append(Path(os.path.normpath(run_dir.resolve() / os.path.relpath(folder, original) / relative)))
    return list(dict.fromkeys(places))


@contextmanager
def explaining_paths(settings: TrainSettings, run_dir: Path) -> Iterator[None]:
    """Add to an error about a run's file that was not found where it was looked for, and how to say where it is.

    Raises:
        ValueError: what was raised, with that.
    """
    try:
        yield
    except ValueError as error:
        missing = list(_list_missing(settings, run_dir, str(error)))
        if not missing or "moved={" in str(error):
            raise
        raise ValueError(f"{error}\n" + "\n".join(missing)) from error


def suggest_move(path: str) -> str:
    """Return the word that says where the file or folder at a run's path is now."""
    return as_word("moved", f"{{{path}:PATH}}")


def _list_missing(settings: TrainSettings, run_dir: Path, message: str) -> Iterator[str]:
    """Yield a line for each path of a run that a message names and that leads nowhere."""
    named = [
        (f"{group}.{name}", one.get(name))
        for group, name in NAMED
        if (part := getattr(settings, group))
        for one in iterate_parts(group, part)
    ]
    caches = settings.cache if isinstance(settings.cache, list) else [settings.cache]
    for setting, path in [*named, *(("cache", cache) for cache in caches)]:
        if isinstance(path, str) and str(Path(path)) in message and not os.path.exists(path):
            places = list_names([str(place) for place in list_places(path, run_dir)])
            yield f"{setting}={path} of {run_dir} is at none of {places}; if it was moved, set {suggest_move(path)}"
