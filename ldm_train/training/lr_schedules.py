"""Learning-rate schedules: the optimizer step to a factor of the base rate, in optimizer steps on any number of devices."""

import math
from abc import ABC, abstractmethod


class LRSchedule(ABC):
    """A factor for every step of a run of `max_steps`, after a linear warm-up.

    Args:
        warmup_steps: over which the factor rises from near 0.
    """

    def __init__(self, *, warmup_steps: int = 0) -> None:
        self.warmup_steps = warmup_steps

    def __call__(self, step: int, max_steps: int) -> float:
        """The factor of the update number `step` (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        return self.after_warmup(min(1.0, progress))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor at this share, 0 to 1, of what follows the warm-up."""


class Constant(LRSchedule):
    """The base rate throughout."""

    def after_warmup(self, progress: float) -> float:
        return 1.0


class Cosine(LRSchedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without restarts)."""

    def __init__(self, *, warmup_steps: int = 0, final: float = 0.0) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.final = final

    def after_warmup(self, progress: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
