"""Draw all the noise of a training step, which depends on (seed, stream, position) only, wherever it is drawn."""

from torch import Tensor

from ldm_train import draws
from ldm_train.diffusion.perturbations import NO_PERTURBATIONS, Perturbations
from ldm_train.types import Moments
from ldm_train.util.step_noise import StepNoise


def draw_step_noise(
    positions: Tensor, moments: Moments, *, seed: int, stream: str = "", perturbations: Perturbations = NO_PERTURBATIONS
) -> StepNoise:
    """Return the noise for latents with these moments at positions (B,), on the CPU.

    Args:
        stream: prefix of the streams of draws.
    """
    shape, posterior = moments.mean.shape[1:], None
    if moments.log_variance is not None:
        posterior = draws.normal(seed, stream + "posterior", positions, shape)
    noise = draws.normal(seed, stream + "noise", positions, shape)
    noise, input_noise = perturbations(noise, positions, seed=seed)
    return StepNoise(noise, posterior=posterior, input_noise=None if input_noise is noise else input_noise)
