"""The weight of an example's loss, as a function of its signal-to-noise ratio."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ldm_train.diffusion.prediction import Prediction


class Weighting(ABC):
    """A factor for the squared error of the network's output."""

    @abstractmethod
    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        """Weights (B,) for alpha and sigma (B,)."""


class UniformWeight(Weighting):
    """1: the plain error of the output (arXiv 2006.11239, eq. 14)."""

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        return torch.ones_like(alpha)


class MinSNR(Weighting):
    """min(SNR, gamma) on the error of the clean estimate (Hang et al. 2023, arXiv 2303.09556, eq. 8), for any prediction.

    In terms of the output's error that is min(SNR, gamma) / SNR for noise, and min(SNR, gamma) / (SNR + 1) for velocity.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"gamma={gamma} must be above 0; the paper uses 5")
        self.gamma = gamma

    def __call__(self, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
        snr = (alpha / sigma).square()
        return snr.clamp_max(self.gamma) * prediction.clean_error_per_output_error(alpha, sigma)
