"""Say which setting's code failed, and how: where it is imported, and where its constructor is called."""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from ldm_train.util.text import nearest, shorten

LOOKED = "; Python looks in what is installed, in PYTHONPATH and, with trust=…, in the folder you stand in"


def import_name(target: str, group: str, *, trusted: bool) -> Any:
    """Return what the full name of a class or function stands for.

    Raises:
        ValueError: it is not there, or importing its module fails.
    """
    module, _, name = target.rpartition(".")
    setting, where = f"{group}._target_={target}", LOOKED if trusted else ""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(f"{setting}: importing {module} fails ({error})") from error
        raise ValueError(f"{setting} is not there ({error}){where}") from error
    except (Exception, SystemExit) as error:
        if not trusted and not isinstance(error, ImportError):
            raise
        raise ValueError(f"{setting}: importing {module} fails ({describe_error(error)})") from error
    if not hasattr(found, name):
        raise ValueError(f"{setting} is not there: {found.__name__} has no {name}{nearest(name, list_classes(found))}")
    return getattr(found, name)


def list_classes(module: ModuleType) -> list[str]:
    """Return the names in a module that may be constructors."""
    return [name for name, value in vars(module).items() if callable(value)]


def mentions(error: BaseException, name: str) -> bool:
    """Return whether a message names a setting already."""
    return "=" in str(error) or f"{name}." in str(error)


def describe_failure(error: BaseException, name: str, target: str, given: Mapping[str, object]) -> str:
    """Return the message for a constructor that raised: the setting, the class, the error, and what was given."""
    settings = ", ".join(f"{name}.{key}={value}" for key, value in given.items())
    return f"{name}._target_={target}: {describe_error(error)}" + (f" (with {shorten(settings, 300)})" if settings else "")


def describe_error(error: BaseException) -> str:
    """Return an error's text, with its class unless that says nothing."""
    if isinstance(error, SystemExit):
        return f"it ends the process with exit code {error.code}"
    return str(error) if isinstance(error, ValueError) and str(error) else f"{type(error).__name__}: {error}"
