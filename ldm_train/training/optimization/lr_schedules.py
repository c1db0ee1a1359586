"""Learning-rate schedules: from the number of an optimizer step to a factor of the base rate.

A step is one update of the weights, however many micro-batches and devices share its batch.
"""

import math
from abc import ABC, abstractmethod


class LRSchedule(ABC):
    """A shape between a linear warm-up and a linear cool-down.

    In a run of N = max_steps updates, W = warmup_steps and C = cooldown_steps, the update s (from 0) has the factor

        (s + 1) / W                                       for s < W,
        shape(s)                                          for W <= s < N - C,
        final + (shape(N - C) - final) (N - s) / C        for s >= N - C, and `final` from N on.

    The cool-down does not change the factors before it, so a run at a constant rate can be continued into one (Hägele et al.
    2024, arXiv 2405.18392).

    Args:
        warmup_steps: steps over which the factor rises from near 0; 0 for none.
        cooldown_steps: last steps, over which the factor falls linearly from the shape's value; 0 for none.
        final: the factor at max_steps, for the cool-down and for shapes that fall by themselves.

    Raises:
        ValueError: steps below 0, or a final factor outside 0 to 1.
    """

    def __init__(self, *, warmup_steps: int = 0, cooldown_steps: int = 0, final: float = 0.0) -> None:
        for name, steps in (("warmup_steps", warmup_steps), ("cooldown_steps", cooldown_steps)):
            if steps < 0:
                raise ValueError(f"lr_schedule.{name}={steps} must be at least 0 optimizer steps; 0 is none")
        if not 0 <= final <= 1:
            raise ValueError(f"lr_schedule.final={final:g} must be from 0 to 1, a factor of the base rate")
        self.warmup_steps = warmup_steps
        self.cooldown_steps = cooldown_steps
        self.final = final

    def __call__(self, step: int, max_steps: int) -> float:
        """Return the factor of the update number `step` (from 0)."""
        start = max_steps - self.cooldown_steps
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.cooldown_steps == 0 or step < start:
            return self.shape(step, max_steps)
        share = max(0, max_steps - step) / self.cooldown_steps
        return self.final + (self.shape(start, max_steps) - self.final) * share

    @abstractmethod
    def shape(self, step: int, max_steps: int) -> float:
        """Return the factor of an update after the warm-up, as if there were no cool-down."""

    def progress(self, step: int, max_steps: int) -> float:
        """Return the share, 0 to 1, of the steps after the warm-up that are done."""
        return min(1.0, (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps))

    def check(self, max_steps: int) -> None:
        """Raise if the cool-down would begin before the warm-up ends, or would rise.

        Raises:
            ValueError: the schedule does not fit into a run of `max_steps`.
        """
        if self.cooldown_steps and self.warmup_steps + self.cooldown_steps > max_steps:
            raise ValueError(
                f"lr_schedule.warmup_steps={self.warmup_steps} and lr_schedule.cooldown_steps={self.cooldown_steps} take "
                f"{self.warmup_steps + self.cooldown_steps} steps together, more than max_steps={max_steps}; lower one of "
                "them, or train longer"
            )
        if self.cooldown_steps and (reached := self.shape(max_steps - self.cooldown_steps, max_steps)) < self.final:
            raise ValueError(
                f"lr_schedule.final={self.final} is above the factor {reached:.2g} at which the cool-down of "
                f"lr_schedule.cooldown_steps={self.cooldown_steps} begins; lower it"
            )


class Constant(LRSchedule):
    """The base rate at every step."""

    def __init__(self, *, warmup_steps: int = 0, cooldown_steps: int = 0, final: float = 0.0) -> None:
        super().__init__(warmup_steps=warmup_steps, cooldown_steps=cooldown_steps, final=final)
        check_final_reached(self)

    def shape(self, step: int, max_steps: int) -> float:
        return 1.0


class Cosine(LRSchedule):
    """Half a cosine from 1 to `final` (Loshchilov and Hutter 2017, arXiv 1608.03983, eq. 5, without restarts)."""

    def shape(self, step: int, max_steps: int) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * self.progress(step, max_steps)))


class Linear(LRSchedule):
    """A line from 1 to `final`: 1 - (1 - final) (s - W) / (N - W).

    A cool-down would follow the same line, so it has no effect.
    """

    def shape(self, step: int, max_steps: int) -> float:
        return 1 - (1 - self.final) * self.progress(step, max_steps)


class InverseSqrt(LRSchedule):
    """1 / sqrt(max(s / decay_after, 1)) (Karras et al. 2024, arXiv 2312.02696, their t_ref), independent of max_steps.

    Args:
        decay_after: optimizer steps at the base rate, including the warm-up; after four times as many the rate is half.

    Raises:
        ValueError: `decay_after` is below 1 or below `warmup_steps`.
    """

    def __init__(self, *, decay_after: int, warmup_steps: int = 0, cooldown_steps: int = 0, final: float = 0.0) -> None:
        super().__init__(warmup_steps=warmup_steps, cooldown_steps=cooldown_steps, final=final)
        if decay_after < max(1, warmup_steps):
            raise ValueError(
                f"lr_schedule.decay_after={decay_after} must be at least 1 and at least "
                f"lr_schedule.warmup_steps={warmup_steps}; otherwise the rate would fall during the warm-up"
            )
        self.decay_after = decay_after
        check_final_reached(self)

    def shape(self, step: int, max_steps: int) -> float:
        return 1 / math.sqrt(max(step / self.decay_after, 1))


def check_final_reached(schedule: LRSchedule) -> None:
    """Raise a ValueError if a final factor is set but never reached."""
    if schedule.final and not schedule.cooldown_steps:
        raise ValueError(
            f"lr_schedule.final={schedule.final} has no effect without a cool-down; "
            "set lr_schedule.cooldown_steps, or leave it at 0"
        )
