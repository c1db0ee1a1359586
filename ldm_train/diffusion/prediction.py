"""What a network predicts of x_t = alpha x + sigma noise, and how clean picture and noise follow from it.

Every prediction is a rotation of (x, noise) in the plane that x_t spans with it, so each has an exact way back.
"""

from abc import ABC, abstractmethod

from torch import Tensor


class Prediction(ABC):
    """A linear combination of x and noise as the network's target. alpha and sigma broadcast against x."""

    @abstractmethod
    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should say, (B, ...)."""

    @abstractmethod
    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of x that an output stands for, (B, ...)."""

    @abstractmethod
    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of the noise that an output stands for, (B, ...)."""

    @abstractmethod
    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """|error of clean|^2 / |error of output|^2, (B,): what relates the losses of the predictions to one another."""


class Noise(Prediction):
    """The noise itself (Ho et al. 2020, arXiv 2006.11239, eq. 14); clean = (x_t - sigma noise) / alpha, so alpha > 0."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / alpha

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma / alpha).square()


class Velocity(Prediction):
    """v = alpha noise - sigma x (Salimans and Ho 2022, arXiv 2202.00512, section 4); defined at every t."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * noise - sigma * x

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * x_t - sigma * output

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma * x_t + alpha * output

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return sigma.square()


class Clean(Prediction):
    """x itself (arXiv 2202.00512, section 4); noise = (x_t - alpha x) / sigma, so sigma > 0."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - alpha * output) / sigma

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.new_ones(()).expand_as(alpha)
