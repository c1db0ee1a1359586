"""What a config may name in `_target_`, and the objects that it stands for.

Each group has an exact list: the constructors that its shipped options name, for `optimizer` also every optimizer of the
libraries in `LIBRARIES`, and the classes and functions of packages that the command line trusts. The names are compared as
text before anything is imported; a constructor where a plain value is expected is refused.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ldm_train.settings.own_code import check_kind
from ldm_train.settings.own_failures import describe_failure, import_name, mentions
from ldm_train.settings.schema.kinds import MISSING
from ldm_train.settings.schema.options import OWN_KEYS, PART_LISTS, TARGET, Part
from ldm_train.settings.shipped import folder, groups, shipped, shipped_groups
from ldm_train.settings.trust import NAME, TRUST, UntrustedCodeError, current_grants, is_from_python, may_be_granted

LIBRARIES = {"optimizer": ("torch.optim", "bitsandbytes.optim")}  # modules of which every torch.optim.Optimizer is accepted
# Arguments that are objects, or lists of them, and their groups.
NESTED = {("weighting", "base"): "weighting", ("text_encoder", "encoders"): "text_encoder"}
EXTRAS = {"bitsandbytes": "eight_bit", "pytorch_optimizer": "optimizers"}  # optional packages, and the extra of each
NEEDS = {  # modules of this package that import an optional one
    f"ldm_train.training.optimization.{name}": "pytorch_optimizer" for name in ("muon", "schedule_free")
}
# Settings that list objects, and their groups.
LISTS = {"callbacks": "callbacks", "metrics.own": "metrics", **PART_LISTS}
ANY = "*"  # the group of arguments of trusted code: objects of any group
COMMANDS = {"ldm_train.data.sources.tar_shards.TarShards": "commands"}  # the argument by which a path may be a command


def build(part: Part, group: str, **values: object) -> Any:
    """Return the object that a part of this group stands for, with further arguments; nested objects are built first.

    A part with `_partial_: true` gives the constructor with its arguments bound.

    Raises:
        ValueError: a name that the group does not list, arguments that the constructor does not take, or own code that makes
            an object of another kind.
    """
    plain = {TARGET: part.target, **part.call, **part.arguments}
    if missing := next((name for name, value in part.arguments.items() if value == MISSING), None):
        raise ValueError(f"{group} has no value for {group}.{missing}; set {group}.{missing}=…")
    check_constructors(plain, group, name=group)
    if (argument := COMMANDS.get(part.target)) is not None:
        values[argument] = current_grants().commands
    made = _construct(plain, values, group, group)
    if current_grants().cover(part.target):
        check_kind(made, part.target, group)
    return made


def check_config(config: DictConfig, *, origin: str, unbuilt: Collection[str] = ()) -> None:
    """Raise if a whole config that a file holds names anything that may not be built, or grants trust.

    Args:
        unbuilt: settings of which nothing is built, so that own code in them needs no trust.

    Raises:
        ValueError: it names the file and the setting; nothing was imported or run.
    """
    plain = OmegaConf.to_container(config, throw_on_missing=False)
    assert isinstance(plain, dict)
    try:
        known = groups()
        for key, value in plain.items():
            if key == TRUST:
                raise ValueError("trust is accepted on the command line only; a file cannot grant it")
            with suppress(*([UntrustedCodeError] if key in unbuilt else [])):
                check_constructors(value, str(key) if key in known else None, name=str(key))
    except UntrustedCodeError as error:
        needed = {key: value for key, value in plain.items() if key not in unbuilt}
        raise UntrustedCodeError(f"{origin}: {error.refusal}", list_untrusted(needed)) from error
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error


def check_constructors(value: object, group: str | None, *, name: str) -> None:
    """Raise if a config names a constructor that its group does not list, at any depth; nothing is imported.

    Args:
        group: None where a plain value is expected.

    Raises:
        ValueError: it gives the setting's name and the constructor.
    """
    if isinstance(value, list):
        for number, item in enumerate(value):
            check_constructors(item, group if group == ANY else LISTS.get(name), name=f"{name}[{number}]")
    elif isinstance(value, str) and "${" in value:
        raise ValueError(f"{name}={value} is an interpolation; give the value itself")
    elif isinstance(value, Mapping):
        inner: str | None = None
        if value.keys() & {*OWN_KEYS}:
            _check_target(value, group, name)
            inner = ANY if current_grants().cover(str(value["_target_"])) else group
        for key, item in value.items():
            nested = ANY if ANY in (inner, group) else NESTED.get((inner or "", str(key)))
            check_constructors(item, nested, name=f"{name}.{key}")


def list_untrusted(config: Mapping[Any, object]) -> list[str]:
    """Return all packages of own code that a config names and the command line does not grant."""
    return sorted({*_untrusted(config)})


def _untrusted(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        target = value.get(TARGET)
        library = str(target).rpartition(".")[0] in {module for modules in LIBRARIES.values() for module in modules}
        if may_be_granted(target) and not library and not current_grants().cover(str(target)):
            yield str(target).partition(".")[0]
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        yield from _untrusted(item)


def may_build(target: object, group: str) -> bool:
    """Return whether a group lists a constructor, or it is trusted or passed from Python; nothing is imported."""
    if not isinstance(target, str) or not NAME.fullmatch(target):
        return False
    if is_from_python(target):
        return True  # nothing is imported for it
    if group == ANY:
        return current_grants().cover(target) or any(may_build(target, known) for known in groups())
    module = target.rpartition(".")[0]
    return target in _listed(group) or module in LIBRARIES.get(group, ()) or current_grants().cover(target)


def is_own(target: object, group: str) -> bool:
    """Return whether a name is of code outside this package, and no optimizer of the libraries of its group."""
    module = str(target).rpartition(".")[0]
    return isinstance(target, str) and not target.startswith("ldm_train.") and module not in LIBRARIES.get(group, ())


def find_constructor(target: str, group: str) -> Callable[..., Any]:
    """Import a constructor that `may_build` accepts, or return the one that a Python program passed.

    Raises:
        ValueError: it is not installed, not there, not passed, or neither a class nor a function of the expected kind.
    """
    assert may_build(target, group), target
    if (passed := current_grants().objects.get(target)) is not None:
        return passed.make
    if is_from_python(target):
        raise ValueError(
            f"{group}._target_={target} is an object that a Python program passed, which no file can hold; pass it again, "
            f"as in ldm_train.load_run(run_dir, {group}=…) or ldm_train.train(…, {group}=…)"
        )
    module = target.rpartition(".")[0]
    package = NEEDS.get(module, target.partition(".")[0])
    if package in EXTRAS and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"_target_: {target} needs the package {package}, which is not installed: "
            f"pip install 'ldm-train[{EXTRAS[package]}]', or choose another"
        )
    found = import_name(target, group, trusted=current_grants().cover(target))
    if module in LIBRARIES.get(group, ()):
        from torch.optim import Optimizer

        if not (inspect.isclass(found) and issubclass(found, Optimizer)):
            raise ValueError(f"{group}._target_={target} is no optimizer; name one, such as torch.optim.AdamW")
    elif target not in _all_listed():
        _require_own(found, target, group)
    return found


def _require_own(found: object, target: str, group: str) -> None:
    """Raise unless a trusted package defines what a name stands for, and it is a class or a function."""
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        kind = "module" if inspect.ismodule(found) else type(found).__name__
        raise ValueError(f"{group}._target_={target} is a {kind}; it must be a class or a function")
    if not current_grants().cover(f"{found.__module__}."):
        raise ValueError(
            f"{group}._target_={target} is defined in {found.__module__}, which is not trusted; name "
            f"{found.__module__}.{found.__qualname__} itself"
        )


def _check_target(node: Mapping[Any, object], group: str | None, name: str) -> None:
    given = sorted(node.keys() & {*OWN_KEYS})
    target = node.get("_target_")
    if group is None:
        raise ValueError(
            f"{name} must be a plain value, and names a constructor ({', '.join(f'{key}: {node[key]}' for key in given)}); "
            "nothing was run"
        )
    if not may_build(target, group):
        accepted = sorted(_listed(group)) if group != ANY else []
        listed = f"; it may be {', '.join(accepted)}" if accepted else ""
        libraries = "".join(f", or an optimizer of {library}" for library in LIBRARIES.get(group, ()))
        refusal = (
            f"{name}._target_={target} is not a constructor that this setting accepts{listed}{libraries}; nothing was run"
        )
        if not (isinstance(target, str) and "." in target and NAME.fullmatch(target)):
            raise ValueError(f"{refusal}. Code of your own is named as PACKAGE.CLASS, such as mynet.TinyNetwork")
        raise UntrustedCodeError(refusal, [str(target).partition(".")[0]]) if may_be_granted(target) else ValueError(refusal)
    known = {(key, str(value)) for option in _options(group) for key, value in option.items()}
    for key in given:
        if key != "_target_" and (key, str(node[key])) not in known | {("_convert_", "all"), ("_partial_", "False")}:
            raise ValueError(f"{name}.{key}={node[key]} is not accepted; nothing was run")


def _options(group: str) -> list[dict[str, object]]:
    return _options_in(folder(), group)


@cache
def _options_in(conf: Path, group: str) -> list[dict[str, object]]:
    """Return what Hydra reads of the options of a group in a folder of configs: `_target_` and the like."""
    known = shipped_groups()  # not a user's own options: what these name needs `trust`
    names = known.items() if group == ANY else [(group, known.get(group, []))]
    options = [shipped(f"{name}/{option}") for name, options in names for option in options]
    return [{key: option[key] for key in {*OWN_KEYS} & set(option)} for option in options]


def _listed(group: str) -> set[str]:
    return {str(option["_target_"]) for option in _options(group) if "_target_" in option}


def _all_listed() -> set[str]:
    return _listed(ANY)


def _construct(node: Mapping[str, object], values: Mapping[str, object], group: str, name: str) -> Any:
    target = str(node[TARGET])
    make = find_constructor(target, group)
    own = current_grants().cover(target)
    given = {key: value for key, value in node.items() if key not in {*OWN_KEYS}}
    arguments = {key: _value(value, ANY if own else group, f"{name}.{key}") for key, value in given.items()}
    if node.get("_partial_"):
        return partial(make, **arguments, **values)
    try:
        return make(**(arguments | dict(values)))
    except (Exception, SystemExit) as error:
        if not own and (isinstance(error, OSError | SystemExit) or mentions(error, name)):
            raise
        raise ValueError(describe_failure(error, name, target, given)) from error


def _value(value: object, group: str, name: str) -> object:
    if isinstance(value, list):
        return [_value(item, group, name) for item in value]
    if not isinstance(value, dict):
        return value
    key = name.rpartition(".")[2]
    if TARGET in value:
        return _construct(value, {}, ANY if group == ANY else NESTED[group, key], name)
    return {inner: _value(item, group, f"{name}.{inner}") for inner, item in value.items()}
