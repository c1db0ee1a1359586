"""Compare how a published network was trained, by its pipeline's scheduler config, with how a run uses it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.named import cosine, from_betas, linear, scaled_linear
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.util.messages import Caution
from ldm_train.util.safe_json import read_object
from ldm_train.weights.exported_files import check_exported_file

PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity", "sample": "clean"}


def read_scheduler(unet: Path) -> dict[str, Any] | None:
    """Return the scheduler config of a pipeline, or None if there is none.

    Raises:
        ValueError: they cannot be read.
    """
    path = unet.parent / "scheduler" / "scheduler_config.json"
    if not unet.is_dir() or not path.is_file():
        return None
    check_exported_file(path)
    return read_object(path)


def compare_scheduler(scheduler: Mapping[str, Any], prediction: Prediction, schedule: NoiseSchedule) -> list[str]:
    """Return a warning for each thing that the run does differently from how the network was trained."""
    warnings = []
    there, here = PREDICTIONS.get(str(scheduler.get("prediction_type", "epsilon"))), type(prediction).__name__.lower()
    if there != here:
        warnings.append(
            f"its scheduler says that it predicts {there or scheduler['prediction_type']}, and prediction={here} "
            f"is set; set prediction={there or '…'} unless it shall learn another"
        )
    own = named_schedule(scheduler)
    if own is not None and not is_same_noise(own, schedule):
        words = ", ".join(f"{n}={scheduler[n]}" for n in ("beta_schedule", "beta_start", "beta_end") if n in scheduler)
        zero = ", rescale_betas_zero_snr" if scheduler.get("rescale_betas_zero_snr") else ""
        warnings.append(
            f"its scheduler has another noise schedule ({words}{zero}) than schedule=… is set to; "
            f"{suggest_schedule(scheduler)} is the one that it was trained on"
        )
    return [Caution(line) for line in warnings]


def named_schedule(scheduler: Mapping[str, Any]) -> NoiseSchedule | None:
    """Return the noise schedule of a scheduler config, or None if it is not a known one."""
    steps = scheduler.get("num_train_timesteps", 1000)
    start, end = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    zero = bool(scheduler.get("rescale_betas_zero_snr", False))
    try:
        if scheduler.get("trained_betas"):
            return from_betas(list(scheduler["trained_betas"]), zero_terminal_snr=zero)
        match scheduler.get("beta_schedule", "linear"):
            case "linear":
                return linear(num_steps=steps, beta_start=start, beta_end=end, zero_terminal_snr=zero)
            case "scaled_linear":
                return scaled_linear(num_steps=steps, beta_start=start, beta_end=end, zero_terminal_snr=zero)
            case "squaredcos_cap_v2":
                return cosine(num_steps=steps, zero_terminal_snr=zero)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its scheduler_config.json makes no noise schedule ({error})") from error
    return None


def is_same_noise(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Return whether two schedules give a network the same times for the same noise."""
    if one.end != other.end or not other.discrete:
        return False
    t = torch.arange(1, int(one.end) + 1)
    return torch.allclose(one(t)[0], other(t)[0], rtol=1e-4, atol=1e-6)


def suggest_schedule(scheduler: Mapping[str, Any]) -> str:
    """Return the words of a command line that make the schedule."""
    kind = {"squaredcos_cap_v2": "cosine"}.get(str(scheduler.get("beta_schedule")), scheduler.get("beta_schedule"))
    betas = "" if kind == "cosine" else "".join(f" schedule.{n}={scheduler[n]}" for n in ("beta_start", "beta_end"))
    zero = " schedule.zero_terminal_snr=true" if scheduler.get("rescale_betas_zero_snr") else ""
    return f"schedule={kind}{betas}{zero}"
