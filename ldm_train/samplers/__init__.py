"""The reverse process: from noise to a sample, with any schedule and prediction. One small file per method."""

from ldm_train.samplers.base import InitialPicture, Sampler, Step, TimePoint
from ldm_train.samplers.ddim import DDIM
from ldm_train.samplers.ddpm import DDPM
from ldm_train.samplers.dpm_solver import DPMSolver
from ldm_train.samplers.euler import Euler
from ldm_train.samplers.euler_ancestral import EulerAncestral
from ldm_train.samplers.heun import Heun
from ldm_train.samplers.spacings import Karras, Leading, Linspace, Listed, Spacing, Trailing
from ldm_train.samplers.unipc import UniPC

# fmt: off
__all__ = [
    "DDIM", "DDPM", "DPMSolver", "Euler", "EulerAncestral", "Heun", "InitialPicture", "Karras", "Leading", "Linspace",
    "Listed", "Sampler", "Spacing", "Step", "TimePoint", "Trailing", "UniPC",
]
