"""Guidance as a denoiser around denoisers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ldm_train.diffusion.denoiser import Denoiser, Denoises, Estimate
from ldm_train.types import Conditioning


class ClassifierFreeGuidance:
    """output = null + scale (conditional - null) (Ho and Salimans 2022, arXiv 2207.12598, eq. 6, with scale = 1 + w).

    Both in one batched call. A scale of 1 is the conditional network alone, and calls nothing else.

    Args:
        denoiser: the plain one.
        null: conditioning of the empty caption, or of a negative prompt, for the batch that will come.
        scale: 0 ignores the prompt, 1 follows it, more exaggerates it.
        rescale: how far, from 0 to 1, the guided output is brought back to the deviation of the conditional one (Lin et al.
            2024, arXiv 2305.08891, eq. 15 and 16), against over-exposed pictures; they use 0.7.
    """

    def __init__(self, denoiser: Denoiser, null: Conditioning, *, scale: float, rescale: float = 0.0) -> None:
        if not 0 <= rescale <= 1:
            raise ValueError(f"guidance.rescale={rescale} must be from 0 (off) to 1")
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.null = null
        self.scale = scale
        self.rescale = rescale

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        if self.scale == 1:
            return self.denoiser(x_t, t, conditioning)
        both = self.denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), conditioning.cat(self.null))
        conditional, null = both.output.chunk(2)
        output = null + self.scale * (conditional - null)
        if self.rescale > 0:
            deviations = [part.std(dim=(1, 2, 3), keepdim=True) for part in (conditional, output)]
            output = torch.lerp(output, output * (deviations[0] / deviations[1]), self.rescale)
        return self.denoiser.estimate(output, x_t, t)


class Autoguidance:
    """weak + scale (strong - weak): away from a weaker network's mistakes (Karras et al. 2024, arXiv 2406.02507).

    Args:
        denoiser: the strong one.
        weak: one of a smaller network, or of the same trained for less long; of any prediction, on the same schedule.
        scale: 1 is the strong one alone, and calls nothing else.
    """

    def __init__(self, denoiser: Denoises, weak: Denoises, *, scale: float) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.weak = weak
        self.scale = scale

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        strong = self.denoiser(x_t, t, conditioning)
        return strong if self.scale == 1 else strong.beyond(self.weak(x_t, t, conditioning), self.scale)


class LimitedGuidance:
    """Guidance in an interval of noise levels, the plain denoiser elsewhere (Kynkäänniemi et al. 2024, arXiv 2404.07724).

    Args:
        guided, plain: what is called within and without.
        low, high: the interval low < sigma / alpha <= high.
    """

    def __init__(self, guided: Denoises, plain: Denoises, *, low: float, high: float) -> None:
        if not 0 <= low < high:
            raise ValueError(f"guidance.interval=[{low}, {high}] must be two rising noise levels sigma / alpha, from 0 up")
        self.guided = guided
        self.plain = plain
        self.schedule = plain.schedule
        self.low = low
        self.high = high

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        """All of t (B,) must be one."""
        level = self.schedule.ratio(t[:1]).item()
        return (self.guided if self.low < level <= self.high else self.plain)(x_t, t, conditioning)


class Conditioned:
    """A denoiser with a conditioning of its own, whatever it is told."""

    def __init__(self, denoiser: Denoises, conditioning: Conditioning) -> None:
        self.denoiser = denoiser
        self.schedule = denoiser.schedule
        self.conditioning = conditioning

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        return self.denoiser(x_t, t, self.conditioning)


Guidance = Callable[[Denoiser, Conditioning, Denoises | None], Denoises]
"""How to guide: from a plain denoiser, the null conditioning, and a weak denoiser where there is one."""


def classifier_free(
    denoiser: Denoiser,
    null: Conditioning,
    weak: Denoises | None = None,
    *,
    scale: float,
    rescale: float = 0.0,
    interval: Sequence[float] | None = None,
) -> Denoises:
    """Away from the empty caption or a negative prompt (arXiv 2207.12598), in an interval of noise levels or at all."""
    return limited(ClassifierFreeGuidance(denoiser, null, scale=scale, rescale=rescale), denoiser, interval)


def autoguidance(
    denoiser: Denoiser,
    null: Conditioning,
    weak: Denoises | None = None,
    *,
    scale: float,
    interval: Sequence[float] | None = None,
) -> Denoises:
    """Away from a weaker network's mistakes (arXiv 2406.02507), in an interval of noise levels or at all."""
    if weak is None:
        raise ValueError("guidance=autoguidance needs a weaker model: guidance.weak=RUN_DIR, a run on the same schedule")
    return limited(Autoguidance(denoiser, weak, scale=scale), denoiser, interval)


def limited(guided: Denoises, plain: Denoises, interval: Sequence[float] | None) -> Denoises:
    """Guided within [low, high], or everywhere where that is None."""
    if interval is None:
        return guided
    if not isinstance(interval, Sequence) or [type(level) in (int, float) for level in interval] != [True, True]:
        raise ValueError(f"guidance.interval={interval} must be two noise levels sigma / alpha: [low, high]")
    return LimitedGuidance(guided, plain, low=interval[0], high=interval[1])
