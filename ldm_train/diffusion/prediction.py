"""What a network predicts, and how to recover x and noise from it.

A prediction is a second linear combination of the same two unknowns:

    x_t    = alpha * x + sigma * noise        (the noisy latents)
    target =     a * x +     b * noise        (a and b depend on the prediction)

so x and noise solve a 2x2 system. Its determinant, alpha * b - sigma * a, is 0 where the prediction is undefined: for noise
at alpha = 0, for clean at sigma = 0, for velocity and flow nowhere.
"""

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["Clean", "Flow", "Noise", "Prediction", "Velocity"]

Coefficients = tuple[Tensor | float, Tensor | float]


class Prediction(ABC):
    """A linear combination of x and noise as the network's target. alpha and sigma broadcast against x (B, ...)."""

    @abstractmethod
    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        """Return (a, b) of target = a x + b noise."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network should output, (B, ...)."""
        a, b = self.coefficients(alpha, sigma)
        return a * x + b * noise

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of x that an output at x_t implies, (B, ...)."""
        _, b = self.coefficients(alpha, sigma)
        return (b * x_t - sigma * output) / self.determinant(alpha, sigma)

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the estimate of the noise that an output at x_t implies, (B, ...)."""
        a, _ = self.coefficients(alpha, sigma)
        return (alpha * output - a * x_t) / self.determinant(alpha, sigma)

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return |error of the clean estimate|^2 / |error of the output|^2, which relates the predictions' losses."""
        return (sigma / self.determinant(alpha, sigma)).square()

    def determinant(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return alpha b - sigma a, which is 0 where the prediction is undefined."""
        a, b = self.coefficients(alpha, sigma)
        return alpha * b - sigma * a


class Noise(Prediction):
    """The noise (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 0.0, 1.0

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output  # alpha * output / alpha would round, and is undefined at alpha = 0


class Velocity(Prediction):
    """v = alpha noise - sigma x (Salimans and Ho 2022, arXiv 2202.00512, section 4).

    The determinant alpha^2 + sigma^2 is 1 on variance-preserving schedules, and dividing by it makes v right on any other.
    """

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return -sigma, alpha


class Clean(Prediction):
    """x itself (Salimans and Ho 2022, arXiv 2202.00512, section 4)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return 1.0, 0.0

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output  # sigma * output / sigma would round, and is undefined at sigma = 0


class Flow(Prediction):
    """u = noise - x, dx_t / dt of rectified flow (Liu et al. 2022, arXiv 2209.03003, eq. 1)."""

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> Coefficients:
        return -1.0, 1.0
