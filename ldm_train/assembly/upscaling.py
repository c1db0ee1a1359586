"""Enlarge drawn images with another run, as `ldm-train sample upscaler=RUN` does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ldm_train.assembly.drawing import set_tile
from ldm_train.assembly.enlarging import enlarge_size, find_low_resolution, give_small, pad_small
from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.conditioners.low_resolution import LowResolution, check_level
from ldm_train.data.pictures.images import to_bytes, to_signed
from ldm_train.settings.schema.using import SampleSettings

# What is set for the run that draws, and not for the one that enlarges.
OF_RUN = ("upscaler", "sampler", "spacing", "guidance", "steps", "size", "picture", "mask", "adapters", "embeddings")


@dataclass(frozen=True)
class Upscaler:
    """A run that enlarges images.

    Args:
        noise_level: of the noise on the small images; None for the run's own.
        seed: of all noise.
    """

    trained: TrainedRun
    condition: LowResolution
    noise_level: int | None
    seed: int

    def __call__(self, images: Tensor, prompts: Sequence[str], numbers: Sequence[int]) -> Tensor:
        """Return images (B, 3, factor H, factor W) in [-1, 1] of images (B, 3, H, W), taken as their PNG files have them.

        Raises:
            ValueError: a prompt that the run cannot read, or an image that is not finite.
        """
        condition, generation = self.condition, self.trained.generation
        height, width = images.shape[2:]
        large = enlarge_size((height, width), generation, condition)
        generation = replace(generation, size=(large[0], large[1]))
        small = pad_small(to_signed(to_bytes(images.cpu())), (large[0] // condition.factor, large[1] // condition.factor))
        given = {condition.name: give_small(small, condition, numbers, noise_level=self.noise_level, seed=self.seed)}
        recipe = replace(self.trained.recipe, seed=self.seed)
        drawn = generation([*prompts], recipe, numbers=torch.tensor(numbers), given=given)
        drawn = drawn[:, :, : height * condition.factor, : width * condition.factor]
        return generation.require_finite(drawn, prompts, numbers, seed=self.seed)

    def check(self, prompts: Sequence[str]) -> None:
        """Raise what drawing these prompts would raise."""
        self.trained.generation.check([*prompts], self.trained.recipe)


def open_upscaler(settings: SampleSettings, open_it: Callable[[SampleSettings], TrainedRun] = open_run) -> Upscaler | None:
    """Open the run that enlarges what settings draw; None if they name none.

    Args:
        open_it: opens the run of settings.

    Raises:
        ValueError: it cannot be read, or does not enlarge pictures.
    """
    if settings.upscaler is None:
        return None
    own = dict.fromkeys(OF_RUN) | {"run_dir": settings.upscaler, "weights": "ema", "number": {}, "map": {}}
    trained = open_it(settings.with_values(**own, negative_prompt="", strength=1.0, control_scale=1.0))
    return make_upscaler(trained, noise_level=settings.noise_level, tile=settings.tile, seed=settings.seed)


def make_upscaler(trained: TrainedRun, *, noise_level: int | None, tile: int | None, seed: int) -> Upscaler:
    """Return what enlarges images with a run.

    Raises:
        ValueError: it does not enlarge pictures, needs more than a small one, or cannot draw with such noise or tiles.
    """
    condition = find_low_resolution(trained.generation.conditions)
    if condition is None:
        raise ValueError(
            f"upscaler={trained.config.run_dir} is not conditioned on a small picture; train one with "
            "conditions=[low_resolution]"
        )
    if others := [one for one in trained.generation.conditions.needed if one is not condition]:
        words = " ".join(str(one.word) for one in others)
        raise ValueError(
            f"upscaler={trained.config.run_dir} was never trained without {', '.join(one.name for one in others)}, which an "
            f"upscaler is not given; enlarge the drawn pictures by `ldm-train sample run_dir={trained.config.run_dir} "
            f"picture=FILE {words}`"
        )
    if noise_level is not None:
        check_level(noise_level, condition.max_noise_level, "noise_level of this upscaler")
    generation = set_tile(trained.generation, tile, trained.config)
    return Upscaler(replace(trained, generation=generation), condition, noise_level, seed)
