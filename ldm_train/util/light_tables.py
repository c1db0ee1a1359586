"""The names that Lightning and optimizers take of modules which need not run for them."""

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import FunctionType

from ldm_train.util.light_modules import import_lightly

not_compiled: list[Callable[..., object]] = []  # functions that the compiler was to leave alone before it ran
to_replace: list[Callable[[], None]] = []


class AnyOptimized(type):
    """The type of a class whose instances are those of the compiler's class of that name."""

    def __instancecheck__(cls, instance: object) -> bool:
        compiler = sys.modules.get("torch._dynamo.eval_frame")
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


class OptimizedModule(metaclass=AnyOptimized):
    """What `torch.compile` makes of a module."""


def disable(
    fn: Callable[..., object] | None = None,
    recursive: bool = True,
    *,
    reason: str | None = None,
    wrapping: bool = True,
) -> object:
    """Return a function that calls this one, and that the compiler leaves alone once it runs."""
    if not isinstance(fn, FunctionType):
        return find_own("torch._dynamo", disable)(fn, recursive, reason=reason, wrapping=wrapping)
    if not wrapping:  # PyTorch itself, which keeps the answer with the function
        not_compiled.append(fn)
        return fn
    targets: list[Callable[..., object]] = [fn]

    @wraps(fn)
    def call(*values: object, **options: object) -> object:
        return targets[0](*values, **options)

    def replace() -> None:
        targets[0] = sys.modules["torch._dynamo"].disable(fn, recursive, reason=reason)

    to_replace.append(replace)
    return call


def graph_break(msg: str = "") -> None:
    """Do nothing, as the compiler's function does where nothing is compiled."""


def disable_again() -> None:
    """Have PyTorch ask the compiler, now that it runs, for what it uses of the functions that are not to be compiled."""
    for function in not_compiled:
        vars(function).pop("__dynamo_disable", None)
    for replace in to_replace:
        replace()
    not_compiled.clear()
    to_replace.clear()


def give_compiler() -> Mapping[str, object]:
    return {"OptimizedModule": OptimizedModule, "disable": disable, "graph_break": graph_break}


def give_metrics() -> Mapping[str, object]:
    sys.modules["torchmetrics"].__dict__["_logger"] = logging.getLogger("torchmetrics")  # which the modules import
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
