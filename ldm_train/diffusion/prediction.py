"""What a network predicts of x_t = alpha x + sigma noise, and how clean picture and noise follow from it.

Every prediction is one more direction in the plane of x and noise: with x_t it says both, and `target` of both says it
again, so any prediction becomes any other. Velocity and flow divide by what is nowhere small; noise only by alpha, and the
clean picture only by sigma, where they must.
"""

from abc import ABC, abstractmethod

import torch
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
    """v = alpha noise - sigma x (Salimans and Ho 2022, arXiv 2202.00512, section 4); defined at every t.

    Divided by alpha^2 + sigma^2, which is 1 where the variance is preserved, it goes with any schedule.
    """

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * noise - sigma * x

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (alpha * x_t - sigma * output) / (alpha.square() + sigma.square())

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma * x_t + alpha * output) / (alpha.square() + sigma.square())

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma / (alpha.square() + sigma.square())).square()


class Clean(Prediction):
    """x itself (arXiv 2202.00512, section 4); noise = (x_t - alpha x) / sigma, so sigma > 0."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return output

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - alpha * output) / sigma

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(alpha)


class Flow(Prediction):
    """u = noise - x (Liu et al. 2022, arXiv 2209.03003, eq. 1): dx_t / dt of rectified flow; defined at every t."""

    def target(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return noise - x

    def to_clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * output) / (alpha + sigma)

    def to_noise(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t + alpha * output) / (alpha + sigma)

    def clean_error_per_output_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (sigma / (alpha + sigma)).square()
