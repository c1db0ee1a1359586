"""Networks to train: from noisy latents, a timestep and conditioning to an output. No diffusion, no files."""

from typing import TYPE_CHECKING

from ldm_train.networks.unet import UNet
from ldm_train.util.lazy_names import give_lazily

__all__ = ["DiffusersUNet", "UNet"]

if TYPE_CHECKING:
    from ldm_train.networks.diffusers_unet import DiffusersUNet
else:  # diffusers takes seconds
    __getattr__, __dir__ = give_lazily(__name__, {"ldm_train.networks.diffusers_unet": ["DiffusersUNet"]})
