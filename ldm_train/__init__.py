"""Train noise predictors on captioned pictures: encode once, corrupt, predict the noise, and run it backwards.

These names are for Python programs and notebooks. Each is imported when it is first used, so `import ldm_train` is fast.
"""

from typing import TYPE_CHECKING

from ldm_train.util.lazy_names import give_lazily

# fmt: off
__all__ = [
    "Cancelled", "ClassifierFreeGuidance", "Conditioning", "ConfigError", "Denoiser", "LatentCache", "Studio", "TrainedRun",
    "compose", "conditioners", "encode", "generate", "iterate_latents", "load_conditioner", "load_run", "networks",
    "open_studio", "picture_grid", "predictions", "run_command", "samplers", "schedules", "train",
]
# fmt: on

if TYPE_CHECKING:
    from ldm_train import conditioners, networks, samplers
    from ldm_train.api.cache_loops import iterate_latents, load_conditioner
    from ldm_train.api.calls import compose, encode, run_command, train
    from ldm_train.api.trained_runs import generate, load_run, open_studio, picture_grid
    from ldm_train.assembly.stored_run import TrainedRun
    from ldm_train.assembly.studio import Cancelled, Studio
    from ldm_train.data.cache.reader import LatentCache
    from ldm_train.diffusion import prediction as predictions
    from ldm_train.diffusion import schedules
    from ldm_train.diffusion.denoiser import Denoiser
    from ldm_train.diffusion.guidance import ClassifierFreeGuidance
    from ldm_train.settings.shipped import ConfigError
    from ldm_train.types import Conditioning
else:
    PLACES = {
        "ldm_train.api.cache_loops": ["iterate_latents", "load_conditioner"],
        "ldm_train.api.calls": ["compose", "encode", "run_command", "train"],
        "ldm_train.api.trained_runs": ["generate", "load_run", "open_studio", "picture_grid"],
        "ldm_train.assembly.stored_run": ["TrainedRun"],
        "ldm_train.assembly.studio": ["Cancelled", "Studio"],
        "ldm_train.data.cache.reader": ["LatentCache"],
        "ldm_train.diffusion.denoiser": ["Denoiser"],
        "ldm_train.diffusion.guidance": ["ClassifierFreeGuidance"],
        "ldm_train.settings.shipped": ["ConfigError"],
        "ldm_train.types": ["Conditioning"],
    }
    MODULES = {
        "conditioners": "ldm_train.conditioners",
        "networks": "ldm_train.networks",
        "predictions": "ldm_train.diffusion.prediction",
        "samplers": "ldm_train.samplers",
        "schedules": "ldm_train.diffusion.schedules",
    }
    __getattr__, __dir__ = give_lazily(__name__, PLACES, MODULES)
