"""A network with its schedule and prediction: noisy latents to estimates of the clean ones and of the noise.

Training and sampling both go through here; nothing else calls a network, and nothing else knows what a network is shown.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm_train.diffusion.broadcast import on_device, per_example
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.types import Conditioning, Network


@dataclass(frozen=True)
class Estimate:
    """The network's output and what it implies, each like x_t (B, C, H, W), with x_t = alpha clean + sigma noise."""

    output: Tensor
    clean: Tensor
    noise: Tensor

    def beyond(self, other: "Estimate", scale: float) -> "Estimate":
        """other + scale (this - other)."""
        parts = ((self.output, other.output), (self.clean, other.clean), (self.noise, other.noise))
        return Estimate(*(torch.lerp(b, a, scale) for a, b in parts))


class Denoises(Protocol):
    """What a sampler calls: a denoiser, or guidance around one."""

    schedule: NoiseSchedule

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate: ...


class Denoiser:
    """Shows the network x_t and the schedule's word for t.

    The network is shown, and answers, in the precision of its weights; everything else is in that of x_t.

    Where the schedule names its data's deviation d (EDM), all happens in units in which both the data and x_t have one of 1:
    with n^2 = alpha^2 d^2 + sigma^2 the network is shown x_t / n = (alpha d / n) (x / d) + (sigma / n) noise, and predicts
    of these. With velocity prediction that is the preconditioning of Karras et al. 2022 (arXiv 2206.00364, table 1), their F
    being -v.

    Raises:
        ValueError: the prediction says nothing of the picture where the schedule ends.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule, prediction: Prediction) -> None:
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        if self.terminal_amplification() == float("inf"):
            raise ValueError(
                f"prediction {type(prediction).__name__} is undefined on a schedule that ends in pure noise (alpha = 0 at "
                f"t = {schedule.end}, where sampling starts): the noise is known there and says nothing of the picture. "
                "Choose prediction=velocity, flow or clean, or a schedule with zero_terminal_snr=false"
            )

    def terminal_amplification(self) -> float:
        """By how much an error of the output grows in the clean estimate at the schedule's end, where sampling starts."""
        return self.clean_error_per_output_error(torch.tensor([self.schedule.end])).sqrt().item()

    def clean_error_per_output_error(self, t: Tensor) -> Tensor:
        """|error of clean|^2 / |error of output|^2 at t, (B,) float64."""
        alpha, sigma, _ = self._shown(t)
        return self.prediction.clean_error_per_output_error(alpha, sigma) * self._deviation**2

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        """Estimates for noisy latents (B, C, H, W) at t (B,) from the schedule's start to its end."""
        _, _, norm = self._shown(t)
        told = self.schedule.told(t)
        told = on_device(told.float() if told.is_floating_point() else told, x_t.device)
        shown = x_t / per_example(norm, x_t)
        output = self.network(shown.to(precision(self.network, default=x_t.dtype)), told, conditioning)
        return self.estimate(output.to(x_t.dtype), x_t, t)

    def estimate(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """What an output at x_t, (B, C, H, W), and t (B,) implies."""
        alpha, sigma, norm = (per_example(value, x_t) for value in self._shown(t))
        shown = x_t / norm
        clean = self._deviation * self.prediction.to_clean(output, shown, alpha, sigma)
        return Estimate(output, clean, self.prediction.to_noise(output, shown, alpha, sigma))

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the output should be for clean latents and noise (B, C, H, W) at t (B,)."""
        alpha, sigma, _ = (per_example(value, x) for value in self._shown(t))
        return self.prediction.target(x / self._deviation, noise, alpha, sigma)

    @property
    def _deviation(self) -> float:
        return 1.0 if self.schedule.sigma_data is None else self.schedule.sigma_data

    def _shown(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha and sigma of what the network is shown, and x_t's deviation, by which it was divided; each (B,)."""
        alpha, sigma = self.schedule(t)
        if self.schedule.sigma_data is None:
            return alpha, sigma, torch.ones_like(alpha)
        norm = torch.hypot(self._deviation * alpha, sigma)
        return self._deviation * alpha / norm, sigma / norm, norm


def precision(network: Network, *, default: torch.dtype) -> torch.dtype:
    """The type of a network's weights; the default where it has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.dtype for parameter in parameters), default)
