"""The noise schedules: the interface, and the schedules by name."""

from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, from_betas, linear, scaled_linear, sigmoid
from ldm_train.diffusion.schedules.schedule import NoiseSchedule, VariancePreserving

# fmt: off
__all__ = [
    "EDM", "NoiseSchedule", "RectifiedFlow", "VariancePreserving", "cosine", "from_betas", "linear", "scaled_linear",
    "sigmoid",
]
