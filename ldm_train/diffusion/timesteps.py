"""Which t to train on: integers from 1 to T, keyed by the example's position in the run."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ldm_train import draws


class Timesteps(ABC):
    """Timesteps of a batch, uniform over 1 ... T unless a subclass says otherwise."""

    @abstractmethod
    def quantiles(self, positions: Tensor, *, seed: int, batch_size: int) -> Tensor:
        """Numbers in [0, 1), (B,), for positions (B,) of a run whose global batch is `batch_size`."""

    def __call__(self, positions: Tensor, *, num_steps: int, seed: int, batch_size: int) -> Tensor:
        """t, (B,) int64 from 1 to `num_steps`, on the positions' device."""
        quantiles = self.quantiles(positions, seed=seed, batch_size=batch_size)
        return (1 + (quantiles * num_steps).long().clamp_max(num_steps - 1)).to(positions.device)


class Uniform(Timesteps):
    """Each example its own draw (arXiv 2006.11239, algorithm 1)."""

    def quantiles(self, positions: Tensor, *, seed: int, batch_size: int) -> Tensor:
        return draws.uniform(seed, "timestep", positions).double()


class Stratified(Timesteps):
    """One draw per global batch, shifted by k / batch_size for its k-th example, so that a batch covers 1 ... T evenly.

    Kingma et al. 2021 (arXiv 2107.00630, appendix I.1): the same expectation, less variance. Which example gets which
    stratum is shuffled by the order of the run.
    """

    def quantiles(self, positions: Tensor, *, seed: int, batch_size: int) -> Tensor:
        steps, slots = positions // batch_size, positions % batch_size
        offsets = {step: draws.uniform(seed, "timestep", torch.tensor([step]))[0].item() for step in steps.unique().tolist()}
        start = torch.tensor([offsets[step] for step in steps.tolist()], dtype=torch.float64)
        return (start + slots.cpu().double() / batch_size) % 1
