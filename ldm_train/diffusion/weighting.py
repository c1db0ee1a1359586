"""The weight of an example's loss as a function of its signal-to-noise ratio (SNR)."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Weighting(ABC):
    """A rule from squared errors of the network's output to losses.

    `clean_error` is |error of the clean estimate|^2 / |error of the output|^2: with it, a weight on the error of the clean
    estimate is right for every prediction.
    """

    @abstractmethod
    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        """Return the weights (B,) of the output's squared errors, for `snr` and `clean_error` (B,)."""

    def loss(self, error: Tensor, snr: Tensor, clean_error: Tensor) -> Tensor:
        """Return the losses (B,) of squared errors of the output (B,)."""
        return self.weights(snr, clean_error).to(error) * error


class UniformWeight(Weighting):
    """1: the loss is the squared error of the output (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return torch.ones_like(snr)


class MinSNR(Weighting):
    """min(SNR, gamma) on the error of the clean estimate (Hang et al. 2023, arXiv 2303.09556, eq. 8), for any prediction.

    On the output's error that is min(SNR, gamma) / SNR for the noise prediction, and min(SNR, gamma) / (SNR + 1) for
    velocity, which goes to 0 towards pure noise.
    """

    def __init__(self, *, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"weighting.gamma={gamma:g} must be above 0; the paper uses 5")
        self.gamma = gamma

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return snr.clamp_max(self.gamma) * clean_error


class SoftMinSNR(Weighting):
    """SNR gamma / (SNR + gamma) on the error of the clean estimate (Crowson et al. 2024, arXiv 2401.11605).

    It is `MinSNR` without the bend.

    Args:
        gamma: what the weight comes to where there is no noise.
    """

    def __init__(self, *, gamma: float = 4.0) -> None:
        if gamma <= 0:
            raise ValueError(f"weighting.gamma={gamma:g} must be above 0; the paper uses 4")
        self.gamma = gamma

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return snr * self.gamma / (snr + self.gamma) * clean_error


class Debiased(Weighting):
    """sqrt(SNR) on the error of the clean estimate (Yu et al. 2023, arXiv 2310.08442).

    On the error of the noise prediction that is 1 / sqrt(SNR), of which more goes to the noisy levels.
    """

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return snr.sqrt() * clean_error


class EDMWeight(Weighting):
    """(sigma^2 + s^2) / (sigma s)^2 = SNR + 1 / s^2 on the error of the clean estimate (arXiv 2206.00364, table 1).

    With EDM's schedule and the velocity prediction this equals 1 on the error of the output.

    Args:
        sigma_data: s, the standard deviation of the data; 1 for model latents.
    """

    def __init__(self, *, sigma_data: float = 1.0) -> None:
        if sigma_data <= 0:
            raise ValueError(f"weighting.sigma_data={sigma_data:g} must be above 0; model latents have 1")
        self.sigma_data = sigma_data

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return (snr + self.sigma_data**-2) * clean_error


class LearnedLogVariance(nn.Module, Weighting):
    """error exp(-u) + u with a trained u(SNR) (Karras et al. 2024, arXiv 2312.02696, eq. 21), whose optimum is ln(error).

    This normalises every noise level by its current error. u is a cosine series in the log-SNR from -20 to 20 that starts
    at 0; as a module, it is trained together with the network.

    Args:
        terms: number of coefficients of the series.
        base: weighting of the error before the normalisation; uniform unless given.
    """

    LIMIT = 20.0

    def __init__(self, *, terms: int = 32, base: Weighting | None = None) -> None:
        super().__init__()
        if terms < 1:
            raise ValueError(f"weighting.terms={terms} must be at least 1")
        if base is not None and not isinstance(base, Weighting):
            raise ValueError(f"weighting.base={base} is not a weighting; set null, or settings with a weighting's _target_")
        self.base = base or UniformWeight()
        self.coefficients = nn.Parameter(torch.zeros(terms))

    def log_variance(self, snr: Tensor) -> Tensor:
        """Return u (B,) for signal-to-noise ratios (B,)."""
        place = (snr.log().clamp(-self.LIMIT, self.LIMIT) / self.LIMIT + 1) / 2
        harmonics = torch.arange(len(self.coefficients), device=snr.device)
        return torch.cos(math.pi * place[:, None] * harmonics).to(self.coefficients) @ self.coefficients

    def weights(self, snr: Tensor, clean_error: Tensor) -> Tensor:
        return self.base.weights(snr, clean_error) * (-self.log_variance(snr)).exp().to(snr)

    def loss(self, error: Tensor, snr: Tensor, clean_error: Tensor) -> Tensor:
        return super().loss(error, snr, clean_error) + self.log_variance(snr).to(error)
