"""Call own objects of a group a few times where they are built, so that what returns a wrong shape is refused at once."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from ldm_train.assembly.condition_probes import probe_condition
from ldm_train.assembly.probing import UnfitError, attempt, describe, expect, expect_floats, require
from ldm_train.diffusion.denoiser import Denoiser, Estimate
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.metrics.evaluation import Comparison
from ldm_train.samplers.base import TimePoint
from ldm_train.types import Conditioning

TWO = 2  # examples
FOUR = 4  # pictures, or steps


def probe(made: Any, target: str, group: str) -> None:
    """Raise if own code of a group returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    if (check := PROBES.get(group)) is not None:
        attempt(f"{group}._target_={target}", lambda: check(made))


def _probe_schedule(schedule: Any) -> None:
    require(
        schedule.start < schedule.end, f"start={schedule.start} must be below end={schedule.end}: t rises with the noise"
    )
    t = torch.linspace(schedule.start, schedule.end, 5, dtype=torch.float64)
    pair = schedule(t)
    require(isinstance(pair, tuple) and len(pair) == 2, "it must return alpha and sigma for t")
    for name, value in zip(("alpha", "sigma"), pair, strict=True):
        expect_floats(value, t.shape, f"{name} of what it returns for t {tuple(t.shape)}")
        require(value.dtype == t.dtype, f"{name} must have the type of t, {t.dtype}, and has {value.dtype}")
        require((value >= 0).all(), f"{name} must be at least 0, and is {value.tolist()} for t={t.tolist()}")
    ratios = schedule.ratio(t)
    require((ratios.diff() > 0).all(), f"sigma / alpha must rise with t, and is {ratios.tolist()} for t={t.tolist()}")
    expect_floats(schedule.network_time(t), t.shape, "network_time")
    inner = t[1:-1]
    back = expect_floats(schedule.t_at_ratio(schedule.ratio(inner)), inner.shape, "t_at_ratio")
    require(
        torch.allclose(back.double(), inner, rtol=1e-3),
        f"t_at_ratio must be the inverse of sigma / alpha: t={inner.tolist()} became {back.tolist()}",
    )


def _probe_prediction(prediction: Any) -> None:
    alpha = sigma = torch.full((TWO, 1), 0.5**0.5)
    x, noise = torch.randn(TWO, 3), torch.randn(TWO, 3)
    target = expect(prediction.target(x, noise, alpha, sigma), x.shape, "target")
    x_t = alpha * x + sigma * noise
    clean = expect(prediction.to_clean(target, x_t, alpha, sigma), x.shape, "to_clean", finite=False)
    require(torch.allclose(clean, x, atol=1e-3), "to_clean of the target must be x")


def _probe_weighting(weighting: Any) -> None:
    snr, clean_error = torch.tensor([0.01, 1.0, 100.0]), torch.tensor([0.02, 1.0, 50.0])
    with torch.enable_grad():
        error = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
        loss = expect_floats(weighting.loss(error, snr, clean_error), (3,), "loss of squared errors (3,)")
        first = expect_floats(weighting.loss(error[:1], snr[:1], clean_error[:1]), (1,), "loss of squared errors (1,)")
    require(loss.requires_grad, "loss must keep the gradient of the error, and detaches it")
    require(torch.allclose(loss[:1], first), "the loss of an example must not depend on the other examples of its batch")
    positive = (loss >= 0).all() and (loss > 0).any()
    require(
        positive, f"losses of at least 0, some above it, are needed, and they are {loss.tolist()} for SNR={snr.tolist()}"
    )


def _probe_timesteps(timesteps: Any) -> None:
    schedule = scaled_linear()
    quantiles = torch.tensor([0.0, 0.3, 0.99], dtype=torch.float64)
    t = expect(timesteps.t_at_quantiles(quantiles, schedule), (3,), "t_at_quantiles", finite=False)
    require(t.dtype == torch.float64, f"t_at_quantiles must return float64, and returned {t.dtype}")
    require(
        ((t >= schedule.start) & (t <= schedule.end)).all(),
        f"t_at_quantiles must stay within the schedule's {schedule.start} to {schedule.end}, and returned {t.tolist()}",
    )
    expect(timesteps(torch.arange(FOUR), schedule=schedule, seed=0, batch_size=TWO), (FOUR,), "t of four examples")


def _probe_lr_schedule(lr_schedule: Any) -> None:
    for step in (0, 1):
        factor = lr_schedule(step, 10)
        fits = isinstance(factor, int | float) and factor >= 0 and isfinite(factor)
        require(fits, f"a factor must be a finite number of at least 0, not {factor!r} at step {step}")


def _probe_sampler(sampler: Any) -> None:
    def draw(step: int) -> Tensor:
        return torch.zeros_like(noise)

    noise, denoiser = torch.randn(TWO, 1, 4, 4), _toy_denoiser()
    try:
        sampler.check(TimePoint.of(denoiser.schedule, denoiser.schedule.end))
    except ValueError:  # it does not go with this schedule
        return
    latents = sampler(denoiser, noise, Conditioning(), steps=TWO, generator=draw)
    expect_floats(latents, noise.shape, f"a sampler of noise {tuple(noise.shape)}")


def _probe_spacing(spacing: Any) -> None:
    schedule = scaled_linear()
    points = spacing.points(schedule, FOUR)
    numbers = isinstance(points, list) and all(isinstance(point, int | float) for point in points)
    require(numbers, f"points must return a list of numbers, and returned {describe(points)} {points!r:.80}")
    require(len(points) == FOUR, f"points must return as many points as there are steps, {FOUR}, not {len(points)}")
    spacing(schedule, FOUR)


def _probe_guidance(guidance: Any) -> None:
    denoiser, noise = _toy_denoiser(), torch.randn(TWO, 1, 4, 4)
    guided, refusal = None, None
    for weak in (denoiser, None):  # some need a weaker model, others refuse one
        try:
            guided = guidance(denoiser, Conditioning(), weak)
            break
        except ValueError as error:
            refusal = error
    else:
        raise UnfitError(f"it refuses a denoiser with a weaker model and one without: {refusal}")
    found = guided(noise, torch.full((TWO,), 500.0, dtype=torch.float64), Conditioning())
    if not isinstance(found, Estimate):
        raise UnfitError(f"what it returns must be a denoiser, which returns an Estimate; it returned {describe(found)}")
    expect_floats(found.clean, noise.shape, "the clean estimate")
    require(hasattr(guided, "schedule"), "what it returns must have the schedule of the denoiser that it wraps")


def _toy_denoiser() -> Denoiser:
    return Denoiser(lambda x_t, t, conditioning: x_t, scaled_linear(), Noise())


def _probe_features(features: Any) -> None:
    expect_floats(features(torch.zeros(TWO, 3, 32, 32)), (TWO, features.size), "forward of images (2, 3, 32, 32)")


def _probe_crop(crop: Any) -> None:
    views = crop((40, 30), "0" * 64)
    shape = crop.shape((40, 30))
    require(len(views) == crop.views, f"it must return views={crop.views} views of a picture")
    found = {(view.height, view.width) for view in views}
    require(found == {tuple(shape)}, f"all views of a picture must have the shape {shape}, and have {sorted(found)}")


def make_toy_comparison(count: int) -> Comparison:
    """Return a comparison of black pictures with different captions."""
    pictures = torch.zeros(count, 3, 64, 64)
    captions = [f"caption {number}" for number in range(count)]
    return Comparison(pictures, pictures.clone(), captions, [{} for _ in captions], held_out=True)


def _probe_metric(metric: Any) -> None:
    for count in (FOUR, TWO):
        values = metric(make_toy_comparison(count))
        require(isinstance(values, dict), f"a metric must return a dict of names and tensors (B,), not {describe(values)}")
        for name, value in values.items():
            require(isinstance(name, str) and name.strip(), f"a metric's name must be a text, not {name!r}")
            expect(value, (count,), f"a metric's {name!r} of {count} pictures", finite=False)
            require(not value.is_complex(), f"a metric's {name!r} must be real numbers, and is {value.dtype}")


def _probe_ema(ema: Any) -> None:
    from ldm_train.training.ema.ema import EMA

    require(isinstance(ema, EMA), "derive the class from ldm_train.training.ema.ema.EMA, or return one with own profiles")
    for profile in ema.profiles:
        require(isinstance(profile.name, str) and profile.name, f"a profile's name must be a text, not {profile.name!r}")
        for number in (1, 2, 1000):
            share = profile.kept_share(number)
            fits = isinstance(share, int | float) and 0 <= share <= 1
            require(fits, f"kept_share must be a number from 0 to 1, and is {share!r} at update {number}")


PROBES: dict[str, Callable[[Any], None]] = {
    "schedule": _probe_schedule,
    "prediction": _probe_prediction,
    "weighting": _probe_weighting,
    "timesteps": _probe_timesteps,
    "lr_schedule": _probe_lr_schedule,
    "sampler": _probe_sampler,
    "spacing": _probe_spacing,
    "guidance": _probe_guidance,
    "features": _probe_features,
    "crop": _probe_crop,
    "metrics": _probe_metric,
    "ema": _probe_ema,
    "condition": probe_condition,
}
