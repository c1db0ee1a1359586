"""Interface of optimizers that average the weights themselves; the average takes the place of the run's EMA."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class WeightAveraging(ABC):
    """An optimizer that keeps what an average of its weights is computed from.

    The parameters always hold the weights at which gradients are computed, so that nothing needs to be switched before and
    after a validation, a picture or a checkpoint, and a continued run has the same bits.
    """

    @abstractmethod
    def write_averages(self, weights: Sequence[nn.Parameter], averages: list[Tensor]) -> None:
        """Write the average of each of these parameters into the tensor at the same place of `averages`."""
