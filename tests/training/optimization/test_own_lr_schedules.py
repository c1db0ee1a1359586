"""An LR schedule of own code is tried over the whole run before its first step."""

import pytest

from ldm_train.training.optimization.lr_schedules import LRSchedule
from ldm_train.training.optimization.optimizers import TRIED, check_factors

LONG = 1000 * TRIED


class Own(LRSchedule):
    """Gives `value`, from step `since` on; 1 before."""

    def __init__(self, value: object, since: int = 0) -> None:
        super().__init__(warmup_steps=0)
        self.value, self.since = value, since

    def shape(self, step: int, max_steps: int) -> float:
        if step >= self.since and isinstance(self.value, Exception):
            raise self.value
        return self.value if step >= self.since else 1.0  # type: ignore[return-value]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), None, "1", KeyError("phase")])
@pytest.mark.parametrize(("max_steps", "since"), [(1, 0), (10, 9), (LONG, LONG // 2), (LONG, TRIED - 1), (LONG, LONG - 1)])
def test_a_factor_that_no_rate_has_is_named_with_its_step(value: object, max_steps: int, since: int) -> None:
    with pytest.raises(ValueError, match=rf"lr_schedule: Own of step {since} of {max_steps} ") as error:
        check_factors(Own(value, since), max_steps)
    assert ("KeyError: 'phase'" if isinstance(value, Exception) else repr(value)) in str(error.value)


@pytest.mark.parametrize("max_steps", [1, 10, LONG])
def test_other_factors_pass(max_steps: int) -> None:
    check_factors(Own(0), max_steps)
    check_factors(Own(2.5), max_steps)
