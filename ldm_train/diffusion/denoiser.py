"""A network with its schedule and prediction: noisy latents to estimates of the clean ones and of the noise.

Training and sampling both go through here; nothing else calls a network.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.diffusion.broadcast import per_example
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.types import Conditioning, Network


@dataclass(frozen=True)
class Estimate:
    """The network's output and what it implies, each like x_t (B, C, H, W), with x_t = alpha clean + sigma noise."""

    output: Tensor
    clean: Tensor
    noise: Tensor


class Denoises(Protocol):
    """What a sampler calls: a denoiser, or guidance around one."""

    schedule: NoiseSchedule

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate: ...


class Denoiser:
    """The network is told t - 1, from 0 to T - 1, as published models count."""

    def __init__(self, network: Network, schedule: NoiseSchedule, prediction: Prediction) -> None:
        self.network = network
        self.schedule = schedule
        self.prediction = prediction

    def terminal_amplification(self) -> float:
        """By how much an error of the output grows in the clean estimate at t = T, where sampling starts."""
        alpha, sigma = self.schedule(torch.tensor([self.schedule.num_steps]))
        return self.prediction.clean_error_per_output_error(alpha, sigma).sqrt().item()

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Estimate:
        """Estimates for noisy latents (B, C, H, W) at t (B,) from 1 to T."""
        return self.estimate(self.network(x_t, t - 1, conditioning), x_t, t)

    def estimate(self, output: Tensor, x_t: Tensor, t: Tensor) -> Estimate:
        """What an output at x_t, (B, C, H, W), and t (B,) implies."""
        alpha, sigma = (per_example(value, x_t) for value in self.schedule(t))
        clean = self.prediction.to_clean(output, x_t, alpha, sigma)
        return Estimate(output, clean, self.prediction.to_noise(output, x_t, alpha, sigma))
