"""Train noise predictors on captioned pictures: encode once, corrupt, predict the noise, and run it backwards.

These names are for Python programs and notebooks. Each is imported when it is first used, so `import ldm_train` is fast.
"""

from typing import TYPE_CHECKING

from ldm_train.util.lazy_names import give_lazily

if TYPE_CHECKING:
    from ldm_train import conditioners as conditioners
    from ldm_train import networks as networks
    from ldm_train import samplers as samplers
    from ldm_train.api.cache_loops import iterate_latents as iterate_latents
    from ldm_train.api.cache_loops import load_conditioner as load_conditioner
    from ldm_train.api.calls import compose as compose
    from ldm_train.api.calls import encode as encode
    from ldm_train.api.calls import run_command as run_command
    from ldm_train.api.calls import train as train
    from ldm_train.api.trained_runs import generate as generate
    from ldm_train.api.trained_runs import load_run as load_run
    from ldm_train.api.trained_runs import picture_grid as picture_grid
    from ldm_train.assembly.stored_run import TrainedRun as TrainedRun
    from ldm_train.data.cache.reader import LatentCache as LatentCache
    from ldm_train.diffusion import prediction as predictions  # noqa: F401
    from ldm_train.diffusion import schedules as schedules
    from ldm_train.diffusion.denoiser import Denoiser as Denoiser
    from ldm_train.diffusion.guidance import ClassifierFreeGuidance as ClassifierFreeGuidance
    from ldm_train.settings.shipped import ConfigError as ConfigError
    from ldm_train.types import Conditioning as Conditioning


PLACES = {
    **dict.fromkeys(("compose", "encode", "run_command", "train"), "ldm_train.api.calls"),
    **dict.fromkeys(("generate", "load_run", "picture_grid"), "ldm_train.api.trained_runs"),
    **dict.fromkeys(("iterate_latents", "load_conditioner"), "ldm_train.api.cache_loops"),
    "TrainedRun": "ldm_train.assembly.stored_run",
    "LatentCache": "ldm_train.data.cache.reader",
    "Denoiser": "ldm_train.diffusion.denoiser",
    "ClassifierFreeGuidance": "ldm_train.diffusion.guidance",
    "ConfigError": "ldm_train.settings.shipped",
    "Conditioning": "ldm_train.types",
}
MODULES = {
    "conditioners": "ldm_train.conditioners",
    "networks": "ldm_train.networks",
    "predictions": "ldm_train.diffusion.prediction",
    "samplers": "ldm_train.samplers",
    "schedules": "ldm_train.diffusion.schedules",
}
__all__ = [*PLACES, *MODULES]
__getattr__, __dir__ = give_lazily(__name__, PLACES, MODULES)
