"""Convert a run's noise schedule, prediction and spacing to the config of diffusers' DDIMScheduler."""

from typing import Any

import torch

from ldm_train.assembly.published_scheduler import PREDICTIONS, is_same_noise, named_schedule
from ldm_train.conditioners.low_resolution import LEVELS, LowResolution
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule, VariancePreserving
from ldm_train.samplers.spacings import Leading, Linspace, Spacing, Trailing
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings

PUBLISHED_NAMES = {own: theirs for theirs, own in PREDICTIONS.items()}
NAMED = {"scaled_linear": "scaled_linear", "linear": "linear", "cosine": "squaredcos_cap_v2"}


def list_scheduler_problems(schedule: NoiseSchedule, prediction: Prediction) -> list[str]:
    """Return why a schedule or prediction cannot be expressed as DDIMScheduler, a message for each."""
    problems = []
    if not isinstance(schedule, VariancePreserving):
        problems.append(f"schedule={type(schedule).__name__}: DDIMScheduler supports tables of betas only")
    if (name := type(prediction).__name__.lower()) not in PUBLISHED_NAMES:
        problems.append(f"prediction={name}: DDIMScheduler supports {', '.join(PUBLISHED_NAMES)}")
    return problems


def build_scheduler_config(trained: TrainSettings, schedule: VariancePreserving, prediction: Prediction) -> dict[str, Any]:
    """Return the content of `scheduler_config.json`: a named schedule if it gives the same table, else its betas."""
    config = {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "num_train_timesteps": schedule.end,
        "prediction_type": PUBLISHED_NAMES[type(prediction).__name__.lower()],
        "set_alpha_to_one": True,
        "thresholding": False,
        **convert_spacing(build(trained.spacing, "spacing")),
    }
    for named in list_published_schedules(trained.schedule):
        found = named_schedule(config | named)
        if found is not None and is_same_noise(found, schedule):
            return config | named
    return config | {"trained_betas": compute_betas(schedule)}


def build_small_noise_config(condition: LowResolution) -> dict[str, Any]:
    """Return the content of the `scheduler_config.json` of the noise on small pictures."""
    return {
        "_class_name": "DDPMScheduler",
        "beta_start": condition.beta_start,
        "beta_end": condition.beta_end,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": LEVELS,
    }


def list_published_schedules(part: Part) -> list[dict[str, Any]]:
    """Return the config of a published schedule with the same settings, or nothing if none corresponds."""
    name = NAMED.get(part.target.rpartition(".")[2])
    if name is None:
        return []
    ends: dict[str, Any] = {key: part.get(key) for key in ("beta_start", "beta_end") if key in part.arguments}
    return [{"beta_schedule": name, "rescale_betas_zero_snr": bool(part.get("zero_terminal_snr", False)), **ends}]


def compute_betas(schedule: VariancePreserving) -> list[float]:
    """Return beta_t = 1 - alpha_t^2 / alpha_(t-1)^2 for t = 1 ... T."""
    table = torch.cat([schedule.alphas_squared.new_ones(1), schedule.alphas_squared])
    return (1 - table[1:] / table[:-1]).tolist()


def convert_spacing(spacing: Spacing) -> dict[str, Any]:
    """Return the DDIMScheduler settings of a spacing; trailing if it has no such spacing.

    Only leading spacing uses the offset. StableDiffusionPipeline warns about an offset other than 1 and sets it to 1.
    """
    if isinstance(spacing, Leading):
        return {"timestep_spacing": "leading", "steps_offset": spacing.offset}
    return {"timestep_spacing": "linspace" if isinstance(spacing, Linspace) else "trailing", "steps_offset": 1}


def list_spacing_notes(spacing: Spacing) -> list[str]:
    """Return a note if the pipeline's spacing differs from the run's."""
    if isinstance(spacing, Leading) and spacing.offset != 1:
        return [f"spacing.offset={spacing.offset}: StableDiffusionPipeline always uses a steps_offset of 1"]
    if isinstance(spacing, Trailing | Leading | Linspace):
        return []
    return [f"spacing={type(spacing).__name__.lower()} is not supported by DDIMScheduler; the pipeline uses trailing"]
