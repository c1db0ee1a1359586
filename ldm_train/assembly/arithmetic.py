"""Choose how a device computes: the precision, TF32, compilation and the order of weights in memory."""

from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ldm_train.assembly.capabilities import Capabilities, read_capabilities, set_tf32, uses_tf32
from ldm_train.run_dir.stored_settings import read_config
from ldm_train.settings.schema.training import FittingSettings, TrainSettings
from ldm_train.training.checkpoints.checkpoint_files import checkpoints

AUTO = "auto"
WORTH_COMPILING = 2000  # steps: compiling takes minutes, which a shorter run does not get back
UNET = "ldm_train.networks.unet.UNet"  # which is known to compile as one graph
HALF_PRECISIONS = ("bf16-mixed", "bf16-true", "16-mixed", "16-true")

Fitting = TypeVar("Fitting", bound=FittingSettings)


def choose_precision(precision: str, able: Capabilities) -> str:
    """Return the precision that `auto` stands for: bf16-mixed on a GPU that has bfloat16, else 32-true."""
    if precision != AUTO:
        return precision
    return "bf16-mixed" if able.gpu and able.bfloat16 else "32-true"


def choose_backend(settings: TrainSettings, able: Capabilities) -> str | None:
    """Return the backend that `compile=auto` stands for: inductor for a long run of the whole U-Net on a GPU, else None.

    Args:
        settings: with a resolved precision.
    """
    if settings.compile != AUTO:
        return settings.compile
    whole = settings.network.target == UNET and settings.adapter is None and settings.trained is None
    alone = settings.trainer.strategy != "fsdp2" and not settings.fused_backward
    pays = able.compiler and settings.trainer.precision in HALF_PRECISIONS and settings.max_steps >= WORTH_COMPILING
    return "inductor" if whole and alone and pays else None


def choose_arithmetic(settings: Fitting, able: Capabilities) -> Fitting:
    """Return settings with what `auto` stands for on this device; channels come last where compiled code uses it."""
    precision = choose_precision(settings.trainer.precision, able)
    chosen = settings.with_values(trainer=settings.trainer.model_copy(update={"precision": precision}))
    if isinstance(chosen, TrainSettings):
        backend = choose_backend(chosen, able)
        last = able.gpu and backend is not None if chosen.channels_last == AUTO else chosen.channels_last
        chosen = chosen.with_values(compile=backend, channels_last=last)
    return chosen


def draws_ahead(settings: TrainSettings) -> bool:
    """Return whether noise is drawn ahead of its step; a CPU that also trains gains nothing from that."""
    if settings.draw_ahead != AUTO:
        return settings.draw_ahead is True
    return read_capabilities(settings.trainer.accelerator).gpu


def resolve_arithmetic(settings: Fitting) -> tuple[Fitting, str]:
    """Return settings with what `auto` stands for, for a continued run what it was started with; and a line about them.

    TF32 is switched on or off for this process.
    """
    able = read_capabilities(settings.trainer.accelerator)
    chosen = choose_arithmetic(keep_resolved(settings), able)
    return chosen, describe_arithmetic(chosen, able, tf32=set_tf32(uses_tf32(chosen.trainer)))


def keep_resolved(settings: Fitting) -> Fitting:
    """Return settings with the precision and the order of memory of the run that they continue, where they say `auto`."""
    run_dir = settings.run_dir and Path(settings.run_dir)
    if not run_dir or settings.resume == "restart" or not checkpoints(run_dir):
        return settings
    with suppress(ValueError, OSError):  # which is reported where the run is continued
        before = read_config(run_dir)
        if settings.trainer.precision == AUTO:
            trainer = settings.trainer.model_copy(update={"precision": before.trainer.precision})
            settings = settings.with_values(trainer=trainer)
        if isinstance(settings, TrainSettings) and isinstance(before, TrainSettings) and settings.channels_last == AUTO:
            settings = settings.with_values(channels_last=before.channels_last)
    return settings


def describe_arithmetic(settings: FittingSettings, able: Capabilities, *, tf32: bool) -> str:
    """Return one line that says how a run computes and which settings change it."""
    words, names = [f"computing on {able.name} in {settings.trainer.precision}"], ["trainer.precision"]
    if able.tf32:
        words.append(f"float32 {'as TF32' if tf32 else 'in full'}")
        names.append("trainer.tf32")
    if isinstance(settings, TrainSettings):
        words += [f"compiled by {settings.compile}"] if settings.compile else []
        words += ["channels last in memory"] if settings.channels_last else []
        names += ["compile", "channels_last"] if able.gpu else []
    advice = advise_precision(settings.trainer.precision, able)
    return f"{', '.join(words)} ({', '.join(names)} change{'s' * (len(names) == 1)} it{advice})"


def advise_precision(precision: str, able: Capabilities) -> str:
    """Return what to know about a precision on a CPU: half of them multiply bfloat16 fast, and the others very slowly."""
    if able.gpu:
        return ""
    if able.bfloat16 and precision == "32-true":
        return "; bf16-mixed is faster on this CPU, by a factor of 1.2 to 1.7"
    if not able.bfloat16 and precision in ("bf16-mixed", "bf16-true"):
        return "; this CPU has no bfloat16 and is up to 30 times faster in 32-true, to which only a new run can change"
    return ""
