"""The names that Lightning and optimizers take of modules which need not run for them."""

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import FunctionType

from ldm_train.util.light_modules import import_lightly

to_replace: list[Callable[[], None]] = []  # which has functions call what the compiler makes of them, once it runs


class AnyOptimized(type):
    """The type of a class whose instances are those of the compiler's class of that name."""

    def __instancecheck__(cls, instance: object) -> bool:
        own = vars(sys.modules["torch._dynamo"]).get("OptimizedModule", cls)
        return own is not cls and isinstance(instance, own)


class OptimizedModule(metaclass=AnyOptimized):
    """What `torch.compile` makes of a module."""


def disable(fn: Callable[..., object] | None = None, *more: object, **options: object) -> object:
    """Return a function that calls this one, and that the compiler leaves alone once it runs."""
    if not isinstance(fn, FunctionType) or sys.modules["torch._dynamo"].disable is not disable:
        return find_own("torch._dynamo", disable)(fn, *more, **options)
    targets: list[Callable[..., object]] = [fn]

    @wraps(fn)
    def call(*values: object, **named: object) -> object:
        return targets[0](*values, **named)

    def replace() -> None:
        targets[0] = sys.modules["torch._dynamo"].disable(fn, *more, **options)

    to_replace.append(replace)
    return call


def graph_break(msg: str = "") -> None:
    """Do nothing, as the compiler's function does where nothing is compiled."""


def disable_again() -> None:
    """Have the compiler, now that it runs, leave alone what it was to leave alone before."""
    while to_replace:
        to_replace.pop()()


def give_compiler() -> Mapping[str, object]:
    return {"OptimizedModule": OptimizedModule, "disable": disable, "graph_break": graph_break}


def give_metrics() -> Mapping[str, object]:
    sys.modules["torchmetrics"].__dict__["_logger"] = logging.getLogger("torchmetrics")  # which the modules import
    # Metric is in torchmetrics.metric, which cannot be imported before checks, since both import each other.
    places = {"Metric": "utilities.checks", "MetricCollection": "collections", "__version__": "__about__"}
    return {name: getattr(importlib.import_module(f"torchmetrics.{place}"), name) for name, place in places.items()}


def give_plots() -> Mapping[str, object]:
    def plot_single_or_multi_val(*values: object, **options: object) -> object:
        return find_own("torchmetrics.utilities.plot", plot_single_or_multi_val)(*values, **options)

    types = {"_AX_TYPE": object, "_PLOT_OUT_TYPE": object}
    return {**types, "plot_single_or_multi_val": plot_single_or_multi_val}


def find_own(name: str, given: Callable[..., object]) -> Callable[..., object]:
    """Return the module's own function of the name that this one was given for, which runs the module."""
    module = sys.modules[name]
    if getattr(module, given.__name__) is given:
        delattr(module, given.__name__)
    own: Callable[..., object] = getattr(module, given.__name__)
    return own


def import_what_is_needed() -> None:
    """Have modules that are imported from now on run only when a program needs more of them than is given here."""
    import_lightly("torchmetrics.utilities.plot", give_plots)
    import_lightly("torchmetrics", give_metrics)
    import_lightly("torch._dynamo", give_compiler, then=disable_again)
