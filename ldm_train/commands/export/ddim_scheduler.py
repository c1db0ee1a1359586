"""A run's noise schedule, prediction and spacing as the config of diffusers' DDIMScheduler."""

from typing import Any

import torch

from ldm_train.assembly.published_scheduler import PREDICTIONS, named_schedule, same
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule, VariancePreserving
from ldm_train.samplers.spacings import Leading, Linspace, Spacing, Trailing
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings

THEIRS = {own: theirs for theirs, own in PREDICTIONS.items()}
NAMED = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}


def not_held(schedule: NoiseSchedule, prediction: Prediction) -> list[str]:
    """What of them a table of betas and DDIM cannot hold, each with its reason."""
    found = []
    if not isinstance(schedule, VariancePreserving):
        found.append(f"schedule={type(schedule).__name__}: DDIMScheduler holds tables of betas alone")
    if (name := type(prediction).__name__.lower()) not in THEIRS:
        found.append(f"prediction={name}: DDIMScheduler knows {', '.join(THEIRS)}")
    return found


def scheduler_config(trained: TrainSettings, schedule: VariancePreserving, prediction: Prediction) -> dict[str, Any]:
    """What belongs into `scheduler_config.json`: by the published names where they make the same table, else the table."""
    config = {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "num_train_timesteps": schedule.end,
        "prediction_type": THEIRS[type(prediction).__name__.lower()],
        "set_alpha_to_one": True,
        "thresholding": False,
        **spaced(build(trained.spacing, "spacing")),
    }
    for named in candidates(trained.schedule):
        found = named_schedule(config | named)
        if found is not None and same(found, schedule):
            return config | named
    return config | {"trained_betas": betas(schedule)}


def candidates(part: Part) -> list[dict[str, Any]]:
    """The published name, if any, that a run's own settings of its schedule go by."""
    name = NAMED.get(part.target.rpartition(".")[2])
    if name is None:
        return []
    ends: dict[str, Any] = {key: part.get(key) for key in ("beta_start", "beta_end") if key in part.arguments}
    return [{"beta_schedule": name, "rescale_betas_zero_snr": bool(part.get("zero_terminal_snr", False)), **ends}]


def betas(schedule: VariancePreserving) -> list[float]:
    """1 - alpha_t^2 / alpha_(t-1)^2 for t = 1 ... T."""
    table = torch.cat([schedule.alphas_squared.new_ones(1), schedule.alphas_squared])
    return (1 - table[1:] / table[:-1]).tolist()


def spaced(spacing: Spacing) -> dict[str, Any]:
    """A spacing in DDIMScheduler's words; trailing for one that it does not have.

    The offset is of leading alone; with another than 1 StableDiffusionPipeline warns, and takes 1.
    """
    if isinstance(spacing, Leading):
        return {"timestep_spacing": "leading", "steps_offset": spacing.offset}
    return {"timestep_spacing": "linspace" if isinstance(spacing, Linspace) else "trailing", "steps_offset": 1}


def told_spacing(spacing: Spacing) -> list[str]:
    """What is to be told of a spacing that the pipeline's is not."""
    if isinstance(spacing, Leading) and spacing.offset != 1:
        return [f"spacing.offset={spacing.offset}: StableDiffusionPipeline takes a steps_offset of 1 in any case"]
    if isinstance(spacing, Trailing | Leading | Linspace):
        return []
    return [f"spacing={type(spacing).__name__.lower()} is not one of DDIMScheduler's; the pipeline has trailing"]
