"""The noise schedules by name: tables of betas, rectified flow, EDM.

The settings that any table has (zero_terminal_snr, shift, discrete) are explained and applied in `adjust_table`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_train.diffusion.schedules.schedule import NoiseSchedule, VariancePreserving


def from_betas(
    betas: Sequence[float] | Tensor, *, zero_terminal_snr: bool = False, shift: float = 1.0, discrete: bool = True
) -> VariancePreserving:
    """Return the schedule alpha_t^2 = prod_{s <= t} (1 - beta_s) for betas (T,) (arXiv 2006.11239, eq. 4).

    Raises:
        ValueError: a beta is no number in (0, 1].
    """
    if not isinstance(betas, Tensor) and not all(isinstance(beta, int | float) for beta in betas):
        raise ValueError(f"schedule.betas={list(betas)} must be numbers")
    table = torch.as_tensor(list(betas) if not isinstance(betas, Tensor) else betas, dtype=torch.float64)
    if table.ndim != 1 or not ((table > 0) & (table <= 1)).all():
        raise ValueError(f"schedule.betas must be numbers above 0 and at most 1; got {table.tolist()}")
    return adjust_table(torch.cumprod(1 - table, 0), zero_terminal_snr=zero_terminal_snr, shift=shift, discrete=discrete)


def linear(
    *,
    num_steps: int = 1000,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    zero_terminal_snr: bool = False,
    shift: float = 1.0,
    discrete: bool = True,
) -> VariancePreserving:
    """Return DDPM's schedule: betas rise linearly (Ho et al. 2020, arXiv 2006.11239, section 4)."""
    _require_betas(beta_start, beta_end)
    betas = torch.linspace(beta_start, beta_end, num_steps, dtype=torch.float64)
    return from_betas(betas, zero_terminal_snr=zero_terminal_snr, shift=shift, discrete=discrete)


def scaled_linear(
    *,
    num_steps: int = 1000,
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    zero_terminal_snr: bool = False,
    shift: float = 1.0,
    discrete: bool = True,
) -> VariancePreserving:
    """Return Stable Diffusion's schedule: square roots of betas rise linearly (Rombach et al. 2022, arXiv 2112.10752)."""
    _require_betas(beta_start, beta_end)
    betas = torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num_steps, dtype=torch.float64).square()
    return from_betas(betas, zero_terminal_snr=zero_terminal_snr, shift=shift, discrete=discrete)


def cosine(
    *,
    num_steps: int = 1000,
    offset: float = 0.008,
    max_beta: float = 0.999,
    zero_terminal_snr: bool = False,
    shift: float = 1.0,
    discrete: bool = True,
) -> VariancePreserving:
    """Return alpha_t = cos((t/T + offset) / (1 + offset) pi/2), with betas clipped (arXiv 2102.09672, eq. 17)."""
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    table = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    betas = (1 - table[1:] / table[:-1]).clamp_max(max_beta)
    return from_betas(betas, zero_terminal_snr=zero_terminal_snr, shift=shift, discrete=discrete)


def sigmoid(
    *,
    num_steps: int = 1000,
    first: float = -3.0,
    last: float = 3.0,
    temperature: float = 1.0,
    minimum: float = 1e-9,
    zero_terminal_snr: bool = False,
    shift: float = 1.0,
    discrete: bool = True,
) -> VariancePreserving:
    """Return alpha_t^2 that falls as a sigmoid from 1 to `minimum` (Jabri et al. 2022, arXiv 2212.11972).

    Args:
        first, last: the interval of the sigmoid that is used.
        temperature: the smaller, the steeper the middle.
    """
    _require_positive("schedule.temperature", temperature)
    t = torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps
    ends = torch.tensor([first, last], dtype=torch.float64).div(temperature).sigmoid()
    falling = ends[1] - ((t * (last - first) + first) / temperature).sigmoid()
    table = (falling / (ends[1] - ends[0])).clamp_min(minimum)
    return adjust_table(table, zero_terminal_snr=zero_terminal_snr, shift=shift, discrete=discrete)


def adjust_table(alphas_squared: Tensor, *, zero_terminal_snr: bool, shift: float, discrete: bool) -> VariancePreserving:
    """Apply the settings that every table has to alpha_t^2 (T,), and return the schedule.

    Args:
        zero_terminal_snr: rescale alpha so that alpha_T = 0, and sampling starts from the pure noise that was trained on
            (Lin et al. 2024, arXiv 2305.08891, algorithm 1).
        shift: factor of sigma / alpha: the side of the pictures over the side for which the schedule was made (Hoogeboom et
            al. 2023, arXiv 2301.11093, eq. 4). In larger pictures, neighbouring pixels average the noise away.
        discrete: train only at whole t.
    """
    _require_positive("schedule.shift", shift)
    if zero_terminal_snr:
        alphas = alphas_squared.sqrt()
        alphas_squared = ((alphas - alphas[-1]) * alphas[0] / (alphas[0] - alphas[-1])).square()
    return VariancePreserving(alphas_squared / (alphas_squared + shift**2 * (1 - alphas_squared)), discrete)


@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """alpha = 1 - t, sigma = t (Liu et al. 2022, arXiv 2209.03003, eq. 1), for t from 0 to 1.

    Args:
        shift: factor of sigma / alpha: sigma = shift t / (1 + (shift - 1) t) (Esser et al. 2024, arXiv 2403.03206, eq. 23).
    """

    shift: float = 1.0
    start = 1e-3
    end = 1.0

    def __post_init__(self) -> None:
        _require_positive("schedule.shift", self.shift)

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.double()
        total = 1 + (self.shift - 1) * t
        return (1 - t) / total, self.shift * t / total

    def t_at_ratio(self, ratio: Tensor) -> Tensor:
        return 1 / (1 + self.shift / ratio.double())

    def network_time(self, t: Tensor) -> Tensor:
        """Return 1000 sigma."""
        return 1000 * self(t)[1]


@dataclass(frozen=True)
class EDM(NoiseSchedule):
    """alpha = 1, sigma = t (Karras et al. 2022, arXiv 2206.00364, table 1, last column), for t from 0 to sigma_max.

    "Evenly spaced" t are evenly spaced in ln(sigma).

    Args:
        sigma_min, sigma_max: the range of noise levels in training; sampling ends with a step from sigma_min to 0.
        sigma_data: standard deviation of the data; 1 for model latents.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 1.0

    def __post_init__(self) -> None:
        _require_positive("schedule.sigma_min", self.sigma_min)
        _require_positive("schedule.sigma_data", self.sigma_data)
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"schedule.sigma_max={self.sigma_max} must be above schedule.sigma_min={self.sigma_min}")

    @property
    def start(self) -> float:  # type: ignore[override]
        return self.sigma_min

    @property
    def end(self) -> float:  # type: ignore[override]
        return self.sigma_max

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t, dtype=torch.float64), t.double()

    def t_at_ratio(self, ratio: Tensor) -> Tensor:
        return ratio.double()

    def t_at_share(self, share: float) -> float:
        return self.sigma_max * (self.sigma_max / self.sigma_min) ** (share - 1)

    def quantile(self, u: Tensor) -> Tensor:
        return (self.sigma_max * ((u - 1) * math.log(self.sigma_max / self.sigma_min)).exp()).clamp_min(self.sigma_min)

    def network_time(self, t: Tensor) -> Tensor:
        """Return 250 ln(sigma), a thousand times the paper's c_noise."""
        return 250 * t.log()


def _require_betas(beta_start: float, beta_end: float) -> None:
    for name, value in (("beta_start", beta_start), ("beta_end", beta_end)):
        if not 0 < value <= 1:
            raise ValueError(f"schedule.{name}={value} must be above 0 and at most 1")


def _require_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name}={value:g} must be above 0")
