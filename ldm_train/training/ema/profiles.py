"""How an average of the weights forgets: the share that it keeps at its n-th update, from 1 on."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

LONGEST = 12**-0.5  # of all steps alike, gamma = 0


class Profile(ABC):
    """The shares kept by one average, which goes by a name among several."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a checkpoint calls the average."""

    @abstractmethod
    def kept(self, number: int) -> float:
        """The share of the average that is kept at this update, 0 to 1."""


@dataclass(frozen=True)
class Decay(Profile):
    """min(decay, (1 + n) / (10 + n)): exponential forgetting.

    The warm-up is that of TensorFlow's ExponentialMovingAverage; it lets a short run forget its start.

    Args:
        decay: the share that is kept at each optimizer step, once warmed up.
    """

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise ValueError(f"ema.decay={self.decay} must be from 0 (no averaging) to below 1")

    @property
    def name(self) -> str:
        return "decay"

    def kept(self, number: int) -> float:
        return min(self.decay, (1 + number) / (10 + number))


@dataclass(frozen=True)
class Power(Profile):
    """(1 - 1/n)^(gamma + 1): the weights of step s enter by s^gamma (Karras et al. 2024, arXiv 2312.02696, section 3.1).

    After t updates the step s has exactly (s^(gamma + 1) - (s - 1)^(gamma + 1)) / t^(gamma + 1), so the first weights are
    forgotten, and the average's width stays the same share of the run however long it gets.

    Args:
        length: the profile's standard deviation as a share of the run so far, sigma_rel.
    """

    length: float = 0.10

    def __post_init__(self) -> None:
        refuse_length(self.length, "ema.lengths")

    @property
    def name(self) -> str:
        return f"length {self.length}"

    def kept(self, number: int) -> float:
        return (1 - 1 / number) ** (gamma_of_length(self.length) + 1)


def refuse_length(length: float, setting: str) -> None:
    """Name the lengths that there are.

    Raises:
        ValueError: it is none of them.
    """
    if not isinstance(length, int | float) or isinstance(length, bool) or not 0 < length <= LONGEST:
        raise ValueError(
            f"{setting}={length} must be above 0 and at most {math.floor(LONGEST * 1e4) / 1e4} (the mean of all steps): "
            "the average's standard deviation as a share of the run, such as 0.05 or 0.10"
        )


def length_of_gamma(gamma: float) -> float:
    """The standard deviation of a density s^gamma on [0, 1]: (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2)."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def gamma_of_length(length: float) -> float:
    """The exponent of a profile of this length.

    The largest root of gamma^3 + 7 gamma^2 + (16 - S) gamma + (12 - S) with S = length^-2: `length_of_gamma` cleared of
    fractions. With S >= 12 it is 2 S at -3, 2 at -1 and not above 0 at 0: all three roots are real, and the largest, by
    Viete's cosine, is at least 0.
    """
    inverse = length**-2
    b, c, d = 7.0, 16 - inverse, 12 - inverse
    # gamma = u - b / 3 leaves u^3 + p u + q.
    p, q = c - b * b / 3, 2 * b**3 / 27 - b * c / 3 + d
    angle = math.acos(max(-1.0, min(1.0, 3 * q / (2 * p) * math.sqrt(-3 / p)))) / 3
    return 2 * math.sqrt(-p / 3) * math.cos(angle) - b / 3
