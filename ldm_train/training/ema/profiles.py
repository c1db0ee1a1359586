"""How an average of the weights forgets: the share that it keeps at its n-th update, from 1 on."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

MAX_LENGTH = 12**-0.5  # gamma = 0: all steps count the same


class AveragingProfile(ABC):
    """The shares that one average keeps, and its name among several averages."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The average's name in checkpoints."""

    @abstractmethod
    def kept_share(self, number: int) -> float:
        """Return the share of the average that is kept at update `number` (from 1), 0 to 1."""


@dataclass(frozen=True)
class Decay(AveragingProfile):
    """min(decay, (1 + n) / (10 + n)): exponential forgetting.

    The warm-up is that of TensorFlow's ExponentialMovingAverage; with it, a short run forgets its start.

    Args:
        decay: the share that is kept at each optimizer step after the warm-up.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema.decay={self.decay} must be from 0 (no averaging) to below 1")

    @property
    def name(self) -> str:
        return "decay"

    def kept_share(self, number: int) -> float:
        return min(self.decay, (1 + number) / (10 + number))


@dataclass(frozen=True)
class Power(AveragingProfile):
    """(1 - 1/n)^(gamma + 1): step s counts in proportion to s^gamma (Karras et al. 2024, arXiv 2312.02696, section 3.1).

    After t updates, step s has exactly the coefficient (s^(gamma + 1) - (s - 1)^(gamma + 1)) / t^(gamma + 1). So the first
    weights are forgotten, and the average spans the same share of the run however long the run gets.

    Args:
        length: the profile's standard deviation as a share of the run so far, sigma_rel.
    """

    length: float = 0.10

    def __post_init__(self) -> None:
        check_length(self.length, "ema.lengths")

    @property
    def name(self) -> str:
        return f"length {self.length}"

    def kept_share(self, number: int) -> float:
        return (1 - 1 / number) ** (gamma_of_length(self.length) + 1)


def check_length(length: float, setting: str) -> None:
    """Raise a ValueError if a length is no number above 0 and at most MAX_LENGTH."""
    if not isinstance(length, int | float) or isinstance(length, bool) or not 0 < length <= MAX_LENGTH:
        raise ValueError(
            f"{setting}={length} must be above 0 and at most {math.floor(MAX_LENGTH * 1e4) / 1e4} (the mean of all steps): "
            "the average's standard deviation as a share of the run, such as 0.05 or 0.10"
        )


def length_of_gamma(gamma: float) -> float:
    """Return the standard deviation of a density s^gamma on [0, 1].

    It is (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).
    """
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of_length(length: float) -> float:
    """Return the exponent of a profile of this length.

    It is the largest root of gamma^3 + 7 gamma^2 + (16 - S) gamma + (12 - S) with S = length^-2, which is `length_of_gamma`
    cleared of fractions. For S >= 12 the polynomial is 2 S at -3, 2 at -1 and at most 0 at 0, so all three roots are real
    and the largest is at least 0; Viete's formula gives it by a cosine.
    """
    inverse = length**-2
    b, c, d = 7.0, 16 - inverse, 12 - inverse
    # gamma = u - b / 3 leaves u^3 + p u + q.
    p, q = c - b * b / 3, 2 * b**3 / 27 - b * c / 3 + d
    angle = math.acos(max(-1.0, min(1.0, 3 * q / (2 * p) * math.sqrt(-3 / p)))) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - b / 3
