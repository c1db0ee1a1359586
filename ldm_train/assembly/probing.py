"""Call own code a few times before anything is read, and say in one message what it returns wrongly."""

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor


class UnfitError(Exception):
    """What own code returned does not fit; the message says what it must return."""


def attempt(name: str, check: Callable[[], None]) -> None:
    """Run a check, which draws nothing from torch's generators; gradients are recorded only if it asks for them.

    Args:
        name: of the setting and the class, for messages.

    Raises:
        ValueError: what was checked does not fit, or raised itself.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            check()
    except UnfitError as error:
        raise ValueError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        missing = isinstance(error, AttributeError) and not isinstance(error.obj, ModuleType | Tensor | None)
        hint = "; does its __init__ call super().__init__()?" if missing else ""
        raise ValueError(f"{name} fails when it is tried ({type(error).__name__}: {error}){hint}") from error


def require(fits: object, must: str) -> None:
    """Raise an `UnfitError` that says what must be, if it is not."""
    if not fits:
        raise UnfitError(must)


def expect(found: object, shape: Sequence[int], of: str, *, finite: bool = True) -> Tensor:
    """Return what own code returned, as a tensor of numbers of this shape on the CPU.

    Args:
        of: what returned it, for the message.

    Raises:
        UnfitError: it is something else.
    """
    if not isinstance(found, Tensor):
        raise UnfitError(f"{of} must return a tensor {tuple(shape)}, and returned {describe(found)}")
    if found.shape != tuple(shape):
        raise UnfitError(f"{of} must return a tensor {tuple(shape)}, and returned {tuple(found.shape)}")
    require(found.device.type == "cpu", f"{of} must stay on the device of what it gets, cpu, and is on {found.device}")
    require(not finite or found.isfinite().all(), f"{of} must return finite numbers, and returned NaN or infinity")
    return found


def expect_floats(found: object, shape: Sequence[int], of: str, *, finite: bool = True) -> Tensor:
    """Return a tensor as `expect` does, and raise also for one of whole numbers or complex numbers."""
    tensor = expect(found, shape, of, finite=finite)
    require(tensor.is_floating_point(), f"{of} must return floating-point numbers, and returned {tensor.dtype}")
    return tensor


def describe(found: object) -> str:
    """Return what a value is, for a message."""
    return "None" if found is None else f"a {type(found).__name__}"
