"""Settings as a Python program passes them: plain values, names of options, and objects.

A class or function that can be imported by its name becomes that name in the config, with the arguments that
`functools.partial` binds: the command line can run it too. Any other object becomes `from_python.MODULE.CLASS`, which stands
for it in the config and can be built only while a program passes the object.
"""

import copy
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike, fspath

from ldm_train.settings.config_file import CONFIG, write_mapping
from ldm_train.settings.constructors import LISTS, may_build
from ldm_train.settings.own_code import BOUND
from ldm_train.settings.schema.commands import kind_of
from ldm_train.settings.schema.kinds import takes_container, takes_text
from ldm_train.settings.schema.options import TARGET
from ldm_train.settings.shipped import CONFIG_PATH, ConfigError, groups_of
from ldm_train.settings.trust import FROM_PYTHON, REFUSED, TRUST, Grants, PassedObject, is_from_python, read_grants

LISTED = {"metrics": "metrics", **LISTS}  # settings that list objects, and their groups
NO_OBJECTS = {"experiment", "memory", "trainer"}  # groups of settings only


class PythonValues:
    """The settings of one call.

    Args:
        settings: by name, full names such as "optimizer.lr" among them; a mapping gives settings of a group or section.

    Attributes:
        values: as plain values.
        objects: what was passed, by the names that stand for it in `values`.

    Raises:
        ConfigError: a value that no setting takes.
    """

    def __init__(self, verb: str, settings: Mapping[str, object]) -> None:
        self.verb, self.objects = verb, dict[str, PassedObject]()
        self._originals = dict[str, object]()  # by the names in `objects`
        if "hydra" in settings:
            raise ConfigError("hydra is no setting: Hydra's launchers and sweepers are for `ldm-train … --multirun`")
        if refused := [name for name in (TRUST, CONFIG, CONFIG_PATH) if name in settings]:
            raise ConfigError(f"{refused[0]} is no setting of {verb}, but a keyword of some functions: {refused[0]}=…")
        self.values = {name: self._read(name, value) for name, value in settings.items()}

    def _read(self, name: str, value: object) -> object:
        if isinstance(value, Mapping):
            read = {str(key): self._read(f"{name}.{key}", item) for key, item in value.items()}
            found = kind_of(self.verb, name, {})
            takes_mapping = found is not None and takes_text(found[0]) and takes_container(found[0], dict)
            return write_mapping(read) if takes_mapping else read
        if isinstance(value, list | tuple):
            return [self._read_item(name, item) for item in value]
        if isinstance(value, PathLike):
            return fspath(value)
        value = as_python_number(value)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if name in {*groups_of(self.verb)} - NO_OBJECTS:
            return self._describe(name, value)
        groups = ", ".join(sorted({*groups_of(self.verb)} - NO_OBJECTS))
        raise ConfigError(f"{name} takes a plain value, not a {type(value).__name__}; objects are accepted for {groups}")

    def _read_item(self, name: str, item: object) -> object:
        group = LISTED.get(name)
        return self._read(name, item) if group is None or is_plain(item) else self._describe(group, item)

    def _describe(self, group: str, value: object) -> dict[str, object]:
        """Return what stands for an object in a config, and keep the object."""
        made, arguments = (value.func, value.keywords) if isinstance(value, partial) and not value.args else (value, {})
        if not is_plain(arguments):
            made, arguments = value, {}
        if inspect.isclass(made) or inspect.isfunction(made):
            target = find_name(made, group) or stand_in(made)
            passed = PassedObject(made, made)
        elif isinstance(made, partial):
            passed = PassedObject(made, made.func)
            target = stand_in(passed.code)
        elif group in BOUND:
            raise ConfigError(
                f"{group} takes a class or function, not a {type(value).__name__}, for the run gives it further arguments; "
                "pass the class, or functools.partial(CLASS, …) with its settings"
            )
        else:
            passed = PassedObject(GiveBack(made), type(made))
            target = stand_in(passed.code)
        if not may_build(target, group) or is_from_python(target):
            target = self._name_apart(target, made)
            self.objects[target] = passed
        call = {"_partial_": True} if group in BOUND else {}
        return {TARGET: target, **call, **{key: self._read(key, one) for key, one in arguments.items()}}

    def _name_apart(self, target: str, made: object) -> str:
        """Return the name, with a number if another object has it."""
        names = (target, *(f"{target}_{number}" for number in range(2, len(self._originals) + 2)))
        name = next(name for name in names if self._originals.get(name, made) is made)
        self._originals[name] = made
        return name


def merge_settings(settings: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of a call's dictionary and of its keywords.

    Raises:
        ConfigError: the first argument is no dictionary.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings are a dictionary of names and values, not a {type(settings).__name__}")
    return {**settings, **more}


def read_trust(trust: str | Sequence[str]) -> Grants:
    """Return what a Python program grants by the names of packages, or ".", which the command line's `trust=` accepts too.

    Raises:
        ConfigError: no name of a package, or one that is never trusted.
    """
    named = [trust] if isinstance(trust, str | None) else trust
    if not isinstance(named, Sequence) or not all(isinstance(name, str) for name in named if name is not None):
        raise ConfigError(f"trust takes the name of a package as a text, or a list of names, not {trust!r:.100}")
    return read_grants([f"{TRUST}={trust}" if isinstance(trust, str) else f"{TRUST}=[{','.join(trust)}]"] if trust else [])


def as_python_number(value: object) -> object:
    """Return a number of NumPy or a tensor of one number as Python's own number, and anything else as it is."""
    library = type(value).__module__.partition(".")[0]
    if library in ("numpy", "torch") and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value


def is_plain(value: object) -> bool:
    """Return whether a config can hold a value."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return as_python_number(value) is None or isinstance(as_python_number(value), bool | int | float | str | PathLike)


def find_name(made: object, group: str) -> str | None:
    """Return the name by which Python imports a class or function that this group may name; None if there is none."""
    module, name = str(getattr(made, "__module__", "")), str(getattr(made, "__qualname__", ""))
    parents = [module, *(module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1))]
    names = [f"{one}.{name}" for one in parents if getattr(sys.modules.get(one), name, None) is made]
    listed = next((target for target in names if may_build(target, group)), None)
    return listed or (names[0] if names and module.partition(".")[0] not in REFUSED else None)


def stand_in(code: object) -> str:
    """Return the name that stands in a config for an object of this class, or for this function."""
    name = f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', type(code).__name__)}"
    return f"{FROM_PYTHON}." + re.sub(r"[^\w.]", "", name).strip(".")


@dataclass(frozen=True)
class GiveBack:
    """A constructor that returns an object; a copy of a module of torch, since training changes its weights."""

    value: object

    def __call__(self, **arguments: object) -> object:
        torch = sys.modules.get("torch")
        return copy.deepcopy(self.value) if torch is not None and isinstance(self.value, torch.nn.Module) else self.value
