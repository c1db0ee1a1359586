"""A network with its schedule and prediction: from noisy latents to estimates of the clean latents and of the noise.

Training and sampling both call the network through here and nowhere else: only this file knows what its inputs are.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ldm_train.diffusion.broadcast import broadcast_like, move_to_device
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.types import Conditioning, Network
from ldm_train.util.kept_values import keep


@dataclass(frozen=True)
class Estimate:
    """The network's output, and the clean latents and noise that it implies, each like x_t (B, C, H, W).

    x_t = alpha clean + sigma noise.
    """

    output: Tensor
    clean: Tensor
    noise: Tensor

    def extrapolate_from(self, other: "Estimate", scale: float) -> "Estimate":
        """Return other + scale (this - other)."""
        parts = ((self.output, other.output), (self.clean, other.clean), (self.noise, other.noise))
        return Estimate(*(torch.lerp(b, a, scale) for a, b in parts))


class AnyDenoiser(Protocol):
    """What a sampler calls: a denoiser, or guidance around one."""

    schedule: NoiseSchedule

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate: ...


class Denoiser:
    """Call the network on x_t and the schedule's `network_time` of t.

    The network receives and returns the dtype of its weights; everything else is in the dtype of x_t.

    If the schedule has a `sigma_data` d (EDM), network and prediction see data and x_t scaled to unit variance: with n^2 =
    alpha^2 d^2 + sigma^2, the network's input is x_t / n = (alpha d / n) (x / d) + (sigma / n) noise. With the velocity
    prediction that is the preconditioning of Karras et al. 2022 (arXiv 2206.00364, table 1), and their F is -v.

    Raises:
        ValueError: the prediction is undefined at the schedule's end, where sampling starts.
    """

    def __init__(self, network: Network, schedule: NoiseSchedule, prediction: Prediction) -> None:
        self.network = network
        self.schedule = schedule
        self.prediction = prediction
        if self.terminal_amplification() == float("inf"):
            name = type(prediction).__name__.lower()
            raise ValueError(
                f"prediction={name} is undefined on a schedule that ends in pure noise (alpha = 0 at t = {schedule.end}): "
                "sampling starts there, and knowing the noise says nothing about the picture. Choose prediction=velocity, "
                "flow or clean, or a schedule with zero_terminal_snr=false"
            )

    def terminal_amplification(self) -> float:
        """Return |error of the clean estimate| / |error of the output| at the schedule's end, where sampling starts."""
        end = torch.tensor([self.schedule.end], dtype=torch.float64)
        return self.clean_error_per_output_error(end).sqrt().item()

    def clean_error_per_output_error(self, t: Tensor) -> Tensor:
        """Return |error of the clean estimate|^2 / |error of the output|^2 at t, (B,) float64."""
        alpha, sigma, _ = self._input_coefficients(t)
        return self.prediction.clean_error_per_output_error(alpha, sigma) * self._sigma_data**2

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        """Return the estimates for noisy latents (B, C, H, W) at t (B,), from the schedule's `start` to its `end`."""
        _, _, norm = self._input_coefficients(t)
        network_time = move_to_device(self.schedule.network_time(t).float(), x_t.device)
        dtype = weights_dtype(self.network, default=x_t.dtype)
        network_input = (x_t / broadcast_like(norm, x_t)).to(dtype)
        conditioning = keep(self, (conditioning, dtype), lambda: conditioning.cast(dtype))
        output = self.network(network_input, network_time, conditioning)
        return self.estimate(output.to(x_t.dtype), x_t, t)

    def estimate(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """Return what an output at x_t, both (B, C, H, W), and t (B,) implies."""
        alpha, sigma, norm = (broadcast_like(value, x_t) for value in self._input_coefficients(t))
        network_input = x_t / norm
        clean = self._sigma_data * self.prediction.to_clean(output, network_input, alpha, sigma)
        return Estimate(output, clean, self.prediction.to_noise(output, network_input, alpha, sigma))

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the output should be for clean latents and noise, both (B, C, H, W), at t (B,)."""
        alpha, sigma, _ = (broadcast_like(value, x) for value in self._input_coefficients(t))
        return self.prediction.target(x / self._sigma_data, noise, alpha, sigma)

    @property
    def _sigma_data(self) -> float:
        return 1.0 if self.schedule.sigma_data is None else self.schedule.sigma_data

    def _input_coefficients(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return alpha and sigma of the network's input, and the n by which x_t is divided to get it, each (B,)."""
        alpha, sigma = self.schedule(t)
        if self.schedule.sigma_data is None:
            return alpha, sigma, torch.ones_like(alpha)
        norm = torch.hypot(self._sigma_data * alpha, sigma)
        return self._sigma_data * alpha / norm, sigma / norm, norm


def weights_dtype(network: Network, *, default: torch.dtype) -> torch.dtype:
    """Return the dtype of a network's weights, or the default if it has none."""
    parameters = network.parameters() if isinstance(network, nn.Module) else iter(())
    return next((parameter.dtype for parameter in parameters), default)
