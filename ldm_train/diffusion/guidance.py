"""Guidance: denoisers that wrap other denoisers and move their estimates."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import AnyDenoiser, Denoiser, Estimate
from ldm_train.types import Conditioning
from ldm_train.util.kept_values import keep


class ClassifierFreeGuidance:
    """output = null + scale (conditional - null) (Ho and Salimans 2022, arXiv 2207.12598, eq. 6, with scale = 1 + w).

    All outputs are computed in one batched call; with scale 1 only the conditional one is.

    Args:
        null: conditioning of the empty caption or of a negative prompt, one row for each example of a batch.
        scale: 0 ignores the prompt, 1 follows it, more exaggerates it.
        unconditional: conditioning that lacks the other conditions too, if these have a scale of their own:
            output = unconditional + condition_scale (null - unconditional) + scale (conditional - null)
            (Brooks et al. 2022, arXiv 2211.09800, eq. 3).
        rescale: 0 to 1; interpolates the guided output towards the standard deviation of the conditional one, against
            over-exposed pictures (Lin et al. 2024, arXiv 2305.08891, eq. 15 and 16, who use 0.7).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        null: Conditioning,
        *,
        scale: float,
        rescale: float = 0.0,
        unconditional: Conditioning | None = None,
        condition_scale: float = 1.0,
    ) -> None:
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale={rescale:g} must be from 0 (off) to 1")
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.null = null
        self.scale = scale
        self.rescale = rescale
        self.unconditional = None if condition_scale == 1 else unconditional
        self.condition_scale = condition_scale

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        if self.scale == 1 and self.unconditional is None:
            return self.denoiser(x_t, t, conditioning)
        together = keep(self, (conditioning,), lambda: self._join(conditioning))
        count = 2 if self.unconditional is None else 3
        conditional, null, *rest = self.denoiser(torch.cat([x_t] * count), torch.cat([t] * count), together).output.chunk(
            count
        )
        output = null + self.scale * (conditional - null)
        if rest:
            output = output + (self.condition_scale - 1) * (null - rest[0])
        if self.rescale > 0:
            deviations = [part.std(dim=(1, 2, 3), keepdim=True) for part in (conditional, output)]
            output = torch.lerp(output, output * (deviations[0] / deviations[1]), self.rescale)
        return self.denoiser.estimate(output, x_t, t)

    def _join(self, conditioning: Conditioning) -> Conditioning:
        """Return the conditioning of all branches in one batch."""
        together = conditioning.cat(self.null)
        return together if self.unconditional is None else together.cat(self.unconditional)


class Autoguidance:
    """weak + scale (strong - weak): away from a weaker network's mistakes (Karras et al. 2024, arXiv 2406.02507).

    Args:
        denoiser: the strong denoiser.
        weak: a denoiser with a smaller network, or one trained for fewer steps; any prediction, on the same schedule.
        scale: with 1 only the strong denoiser is called.
    """

    def __init__(self, denoiser: AnyDenoiser, weak: AnyDenoiser, *, scale: float) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.weak = weak
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        strong = self.denoiser(x_t, t, conditioning)
        return strong if self.scale == 1 else strong.extrapolate_from(self.weak(x_t, t, conditioning), self.scale)


class LimitedGuidance:
    """Guidance within an interval of noise levels, none outside (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Args:
        guided, plain: the denoisers for noise levels inside and outside the interval.
        low, high: the interval low < sigma / alpha <= high.
    """

    def __init__(self, guided: AnyDenoiser, plain: AnyDenoiser, *, low: float, high: float) -> None:
        if not 0 <= low < high:
            raise ValueError(f"guidance.interval=[{low},{high}] must be noise levels sigma / alpha with 0 <= low < high")
        self.guided = guided
        self.plain = plain
        self.schedule = plain.schedule
        self.low = low
        self.high = high

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        """Return the estimates; all t (B,) must be equal, as in a sampler's step."""
        level = self.schedule.ratio(t[:1]).item()
        return (self.guided if self.low < level <= self.high else self.plain)(x_t, t, conditioning)


class FixedConditioning:
    """A denoiser that is always called with the same conditioning, such as a weak model's own."""

    def __init__(self, denoiser: AnyDenoiser, conditioning: Conditioning) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.conditioning = conditioning

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        return self.denoiser(x_t, t, self.conditioning)


Guidance = Callable[[Denoiser, Conditioning, AnyDenoiser | None], AnyDenoiser]
"""Wraps a plain denoiser in guidance, given the null conditioning and a weak denoiser, if there is one."""


def classifier_free(
    denoiser: Denoiser,
    null: Conditioning,
    weak: AnyDenoiser | None = None,
    *,
    scale: float,
    rescale: float = 0.0,
    interval: Sequence[float] | None = None,
    condition_scale: float | None = None,
    unconditional: Conditioning | None = None,
) -> AnyDenoiser:
    """Guide away from the empty caption or a negative prompt (arXiv 2207.12598), everywhere or in [low, high].

    Args:
        condition_scale: of conditions other than the caption, which `unconditional` lacks; None: they are never left out.

    Raises:
        ValueError: a rescale outside [0, 1], or an interval that is not two rising noise levels sigma / alpha.
    """
    guided = ClassifierFreeGuidance(
        denoiser,
        null,
        scale=scale,
        rescale=rescale,
        unconditional=unconditional,
        condition_scale=1.0 if condition_scale is None else condition_scale,
    )
    return limit_to_interval(guided, denoiser, interval)


def autoguidance(
    denoiser: Denoiser,
    null: Conditioning,
    weak: AnyDenoiser | None = None,
    *,
    scale: float,
    interval: Sequence[float] | None = None,
) -> AnyDenoiser:
    """Guide away from a weaker network's mistakes (arXiv 2406.02507), everywhere or in [low, high].

    Raises:
        ValueError: no weak model, or an interval that is not two rising noise levels sigma / alpha.
    """
    if weak is None:
        raise ValueError("guidance=autoguidance needs a weaker model on the same schedule; set guidance.weak=RUN_DIR")
    return limit_to_interval(Autoguidance(denoiser, weak, scale=scale), denoiser, interval)


def limit_to_interval(guided: AnyDenoiser, plain: AnyDenoiser, interval: Sequence[float] | None) -> AnyDenoiser:
    """Return a denoiser that is guided within [low, high] only; everywhere if the interval is None."""
    if interval is None:
        return guided
    if not isinstance(interval, Sequence) or [type(level) in (int, float) for level in interval] != [True, True]:
        raise ValueError(f"guidance.interval={interval} must be two noise levels sigma / alpha: [low, high]")
    return LimitedGuidance(guided, plain, low=interval[0], high=interval[1])
