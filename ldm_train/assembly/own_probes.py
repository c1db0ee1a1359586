"""Call own code once with a few numbers, so that what returns a wrong shape is refused before anything is read.

Objects of a group are probed where they are built. Networks, text encoders and autoencoders are probed by `probe_parts`, at
the run's own size of pictures.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ldm_train.assembly.parts import Parts, is_shipped
from ldm_train.diffusion.denoiser import Denoiser, Estimate, weights_dtype
from ldm_train.diffusion.prediction import Noise
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.metrics.evaluation import Comparison
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import EncodeSettings
from ldm_train.types import Autoencoder, CaptionBatch, Conditioner, Conditioning, Moments

TWO = 2  # examples


def probe(made: object, target: str, group: str) -> None:
    """Raise if own code of a group returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    if (check := PROBES.get(group)) is not None:
        _attempt(f"{group}._target_={target}", lambda: check(made))


@torch.no_grad()
def probe_parts(parts: Parts, config: TrainSettings) -> None:
    """Raise if an own autoencoder, text encoder or network returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    probe_encoders(parts.autoencoder, parts.text_encoder, config)
    if not is_shipped(config.network):
        side = max(1, parts.size // parts.divisor) * parts.divisor // parts.autoencoder.factor
        conditioning = parts.conditions(
            parts.text_encoder(CaptionBatch(parts.text_encoder.tokenize([""] * TWO))),
            parts.conditions.absent(TWO, size=(parts.size, parts.size), latent_size=(side, side)),
        )
        shape = (parts.autoencoder.channels, side, side)
        _attempt(f"network._target_={config.network.target}", lambda: _probe_network(parts.network, shape, conditioning))


@torch.no_grad()
def probe_encoders(autoencoder: Autoencoder, text_encoder: nn.Module, config: TrainSettings | EncodeSettings) -> None:
    """Raise if an own autoencoder or text encoder returns something of another kind or shape.

    Raises:
        ValueError: it names the class, the method, and what it must return.
    """
    assert config.autoencoder is not None
    assert config.text_encoder is not None
    assert config.image_size is not None
    if not is_shipped(config.autoencoder):
        side = max(1, config.image_size // autoencoder.factor) * autoencoder.factor
        _attempt(f"autoencoder._target_={config.autoencoder.target}", lambda: _probe_autoencoder(autoencoder, side))
    if not is_shipped(config.text_encoder):
        conditioner: Conditioner = text_encoder  # type: ignore[assignment]
        _attempt(f"text_encoder._target_={config.text_encoder.target}", lambda: _probe_text_encoder(conditioner))


def _attempt(name: str, check: Callable[[], None]) -> None:
    try:
        with torch.random.fork_rng(devices=[]):
            check()
    except _UnfitError as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:
        raise ValueError(f"{name} fails when it is tried ({type(error).__name__}: {error})") from error


class _UnfitError(Exception):
    """What own code returned does not fit; the message says what it must return."""


def _expect(found: object, shape: Sequence[int], of: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise _UnfitError(f"{of} must return a tensor {tuple(shape)}, and returned {_describe(found)}")
    if found.shape != tuple(shape):
        raise _UnfitError(f"{of} must return a tensor {tuple(shape)}, and returned {tuple(found.shape)}")
    return found


def _require(fits: object, must: str) -> None:
    if not fits:
        raise _UnfitError(must)


def _describe(found: object) -> str:
    return "None" if found is None else f"a {type(found).__name__}"


def _probe_network(module: nn.Module, shape: tuple[int, ...], conditioning: Conditioning) -> None:
    x_t = torch.zeros(TWO, *shape, dtype=weights_dtype(module, default=torch.float32))
    _expect(module(x_t, torch.tensor([1.0, 500.0]), conditioning), x_t.shape, f"forward of noisy latents {tuple(x_t.shape)}")


def _probe_text_encoder(text_encoder: Conditioner) -> None:
    tokens = text_encoder.tokenize([""] * TWO)
    _require(isinstance(tokens, Tensor) and tokens.ndim == 2 and len(tokens) == TWO, "tokenize must return ids (B, L)")
    _require(not tokens.is_floating_point(), f"tokenize must return whole numbers, and returned {tokens.dtype}")
    _require(len(text_encoder.count([""] * TWO)) == TWO, "count must return one number for each caption")
    learns = any(parameter.requires_grad for parameter in text_encoder.parameters())  # type: ignore[attr-defined]
    _require(text_encoder.trained or not learns, "trained=False, but its parameters learn; call requires_grad_(False)")
    found = text_encoder(CaptionBatch(tokens))
    if not isinstance(found, Conditioning):
        raise _UnfitError(f"forward must return a Conditioning, and returned {_describe(found)}")
    for name, width in (("tokens", text_encoder.context_width), ("vector", text_encoder.vector_width)):
        value = getattr(found, name)
        setting = "context_width" if name == "tokens" else "vector_width"
        _require((value is None) == (width is None), f"{setting}={width}, but forward returns {name}={_describe(value)}")
        if width is not None and value is not None:
            shape = (TWO, value.shape[1], width) if name == "tokens" and value.ndim == 3 else (TWO, width)
            _expect(value, shape, f"{name} of what forward returns")
    if found.mask is not None:
        _require(found.tokens is not None, "forward returns a mask, but no tokens that it hides")
        assert found.tokens is not None
        _expect(found.mask, found.tokens.shape[:2], "mask of what forward returns")


def _probe_autoencoder(autoencoder: Autoencoder, side: int) -> None:
    images = torch.zeros(TWO, 3, side, side)
    shape = (TWO, autoencoder.channels, side // autoencoder.factor, side // autoencoder.factor)
    moments = autoencoder.encode(images)
    if not isinstance(moments, Moments):
        raise _UnfitError(f"encode must return Moments, and returned {_describe(moments)}")
    _expect(moments.mean, shape, f"mean of what encode returns for images {tuple(images.shape)}")
    if moments.log_variance is not None:
        _expect(moments.log_variance, shape, "log_variance of what encode returns")
    _expect(autoencoder.decode(moments.mean), images.shape, f"decode of latents {shape}")


def _probe_schedule(schedule: object) -> None:
    t = torch.linspace(schedule.start, schedule.end, 3, dtype=torch.float64)  # type: ignore[attr-defined]
    pair = schedule(t)  # type: ignore[operator]
    _require(isinstance(pair, tuple) and len(pair) == 2, "it must return alpha and sigma for t")
    for name, value in zip(("alpha", "sigma"), pair, strict=True):
        _expect(value, t.shape, f"{name} of what it returns for t (3,)")
    _expect(schedule.network_time(t), t.shape, "network_time")  # type: ignore[attr-defined]
    middle = t[1:2]
    back = _expect(schedule.t_at_ratio(schedule.ratio(middle)), (1,), "t_at_ratio")  # type: ignore[attr-defined]
    _require(
        torch.isclose(back.double(), middle, rtol=1e-3).all(),
        f"t_at_ratio must be the inverse of sigma / alpha: t={middle.item():g} became {back.item():g}",
    )


def _probe_prediction(prediction: object) -> None:
    alpha = sigma = torch.full((TWO, 1), 0.5**0.5)
    x, noise = torch.randn(TWO, 3), torch.randn(TWO, 3)
    target = _expect(prediction.target(x, noise, alpha, sigma), x.shape, "target")  # type: ignore[attr-defined]
    x_t = alpha * x + sigma * noise
    clean = _expect(prediction.to_clean(target, x_t, alpha, sigma), x.shape, "to_clean")  # type: ignore[attr-defined]
    _require(torch.allclose(clean, x, atol=1e-3), "to_clean of the target must be x")


def _probe_weighting(weighting: object) -> None:
    error = snr = clean_error = torch.ones(3)
    _expect(weighting.loss(error, snr, clean_error), (3,), "loss of squared errors (3,)")  # type: ignore[attr-defined]


def _probe_timesteps(timesteps: object) -> None:
    schedule = scaled_linear()
    quantiles = torch.tensor([0.0, 0.3, 0.99], dtype=torch.float64)
    t = _expect(timesteps.t_at_quantiles(quantiles, schedule), (3,), "t_at_quantiles")  # type: ignore[attr-defined]
    _require(
        ((t >= schedule.start) & (t <= schedule.end)).all(),
        f"t_at_quantiles must stay within the schedule's {schedule.start} to {schedule.end}, and returned {t.tolist()}",
    )


def _probe_lr_schedule(lr_schedule: object) -> None:
    factor = lr_schedule(0, 10)  # type: ignore[operator]
    _require(isinstance(factor, int | float) and factor >= 0, f"a factor must be a number of at least 0, not {factor!r}")


def _probe_sampler(sampler: object) -> None:
    def draw(step: int) -> Tensor:
        return torch.zeros_like(noise)

    noise, denoiser = torch.randn(TWO, 1, 4, 4), _toy_denoiser()
    try:
        latents = sampler(denoiser, noise, Conditioning(), steps=TWO, generator=draw)  # type: ignore[operator]
    except ValueError:  # it does not go with this schedule
        return
    _expect(latents, noise.shape, f"a sampler of noise {tuple(noise.shape)}")


def _probe_guidance(guidance: object) -> None:
    denoiser, noise = _toy_denoiser(), torch.randn(TWO, 1, 4, 4)
    try:
        guided = guidance(denoiser, Conditioning(), denoiser)  # type: ignore[operator]
    except ValueError:
        return
    found = guided(noise, torch.full((TWO,), 500.0, dtype=torch.float64), Conditioning())
    if not isinstance(found, Estimate):
        raise _UnfitError(f"what it returns must be a denoiser, which returns an Estimate; it returned {_describe(found)}")
    _expect(found.clean, noise.shape, "the clean estimate")
    _require(hasattr(guided, "schedule"), "what it returns must have the schedule of the denoiser that it wraps")


def _toy_denoiser() -> Denoiser:
    return Denoiser(lambda x_t, t, conditioning: x_t, scaled_linear(), Noise())


def _probe_features(features: object) -> None:
    size = features.size  # type: ignore[attr-defined]
    _expect(features(torch.zeros(TWO, 3, 32, 32)), (TWO, size), "forward of images (2, 3, 32, 32)")  # type: ignore[operator]


def _probe_crop(crop: object) -> None:
    views = crop((40, 30), "0" * 64)  # type: ignore[operator]
    shape = crop.shape((40, 30))  # type: ignore[attr-defined]
    _require(len(views) == crop.views, f"it must return views={crop.views} views of a picture")  # type: ignore[attr-defined]
    found = {(view.height, view.width) for view in views}
    _require(found == {tuple(shape)}, f"all views of a picture must have the shape {shape}, and have {sorted(found)}")


def _probe_metric(metric: object) -> None:
    pictures = torch.zeros(4, 3, 64, 64)
    captions = [f"caption {number}" for number in range(4)]
    values = metric(Comparison(pictures, pictures.clone(), captions, [{}] * 4, held_out=True))  # type: ignore[operator]
    _require(isinstance(values, dict), f"a metric must return a dict of names and tensors (B,), not {_describe(values)}")
    for name, value in values.items():
        _expect(value, (4,), f"a metric's {name!r} of 4 pictures")


def _probe_ema(ema: object) -> None:
    from ldm_train.training.ema.ema import EMA

    _require(isinstance(ema, EMA), "derive the class from ldm_train.training.ema.ema.EMA, or return one with own profiles")


PROBES: dict[str, Callable[[object], None]] = {
    "schedule": _probe_schedule,
    "prediction": _probe_prediction,
    "weighting": _probe_weighting,
    "timesteps": _probe_timesteps,
    "lr_schedule": _probe_lr_schedule,
    "sampler": _probe_sampler,
    "guidance": _probe_guidance,
    "features": _probe_features,
    "crop": _probe_crop,
    "metrics": _probe_metric,
    "ema": _probe_ema,
}
