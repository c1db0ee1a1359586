"""What a run will leave on disk, and the class pictures that it draws before its first step."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.prior import class_prompts, refuse_settings
from ldm_train.assembly.stored_run import build_recipe
from ldm_train.commands.check.estimate import Training
from ldm_train.data.cache.plan import CachePlan
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.cost import RowShapes
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import Power
from ldm_train.types import Conditioning

PIXEL = 3  # bytes of a PNG, at most about


@dataclass(frozen=True)
class RunFiles:
    """The large files of a run directory.

    Args:
        checkpoint, snapshot: bytes of one; `checkpoints` and `snapshots` stay.
        prior: bytes of class pictures and their cache.
        free: where `folder` is.
    """

    checkpoint: int
    checkpoints: int
    snapshot: int
    snapshots: int
    prior: int
    folder: str
    free: int

    @property
    def total(self) -> int:
        return self.checkpoint * self.checkpoints + self.snapshot * self.snapshots + self.prior

    @property
    def at_most(self) -> int:
        """A checkpoint is whole before an older one goes."""
        return self.total + self.checkpoint


@dataclass(frozen=True)
class ClassPictures:
    """Of prior preservation: how many, passes of the network for each, and bytes of all on disk."""

    count: int
    passes: int
    size: int

    def seconds(self, training: Training, *, recomputes: bool) -> float | None:
        """By a training step's time, which is a pass forward and one or two more back, and one again to recompute blocks."""
        tried = training.tried
        if tried is None:
            return None
        each = tried.each or tried.seconds / tried.examples
        return self.count * self.passes * each / (2 + training.trained / training.parameters + recomputes)


def run_files(config: CheckSettings, training: Training, prior: ClassPictures | None) -> RunFiles:
    """At the end of the run."""
    ema: EMA = build(config.ema, "ema")
    lengths, every = sum(isinstance(profile, Power) for profile in ema.profiles), ema.snapshots
    number = 0 if every is None else getattr(torch, every.dtype).itemsize
    wanted = Path.cwd() if config.run_dir is None else Path(config.run_dir).absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    return RunFiles(
        checkpoint=training.checkpoint,
        checkpoints=kept(Keeping(**dict(config.checkpoint)), config.max_steps),
        snapshot=training.trained * number * lengths,
        snapshots=0 if every is None else -(-config.max_steps // every.every),
        prior=0 if prior is None else prior.size,
        folder=str(folder),
        free=shutil.disk_usage(folder).free,
    )


def kept(keeping: Keeping, max_steps: int) -> int:
    """How many checkpoints there are at the end, at most."""
    steps = [*range(keeping.every, max_steps, keeping.every), max_steps]
    lasting = {s for s in steps if keeping.keep_every is not None and s % keeping.keep_every == 0}
    return len(lasting | set(steps[-keeping.keep :])) + (keeping.best is not None)


def class_pictures(config: CheckSettings, parts: Parts, plan: CachePlan, rows: RowShapes) -> ClassPictures | None:
    """None where there are none.

    Raises:
        ValueError: prompts that cannot be read, or what they do not go with.
    """
    prior = config.prior
    if prior.prompts is None:
        return None
    refuse_settings(config)
    captions = len(set(class_prompts(config)))
    shape = (config.image_size, config.image_size)
    each = PIXEL * config.image_size**2 + rows.picture(shape, plan.crop.views)
    return ClassPictures(prior.count, passes(config, parts), prior.count * each + captions * rows.caption)


def passes(config: CheckSettings, parts: Parts) -> int:
    """Of the network, for a class picture: those of a drawing whose network only counts."""
    seen = 0

    def count(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        nonlocal seen
        seen += len(x_t)
        return torch.zeros_like(x_t)

    recipe = build_recipe(config, steps=config.prior.steps, seed=config.prior.seed)
    denoiser, noise = Denoiser(count, parts.schedule, parts.prediction), torch.zeros(1, 1, 1, 1)
    guided = recipe.guidance(denoiser, Conditioning(), denoiser)
    recipe.sampler(guided, noise, Conditioning(), steps=recipe.steps, spacing=recipe.spacing, generator=lambda step: noise)
    return seen
