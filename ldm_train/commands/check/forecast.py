"""Estimate the files that a run will keep on disk, and the class pictures that it draws before its first step."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.assembly.parts import Parts
from ldm_train.assembly.prior import class_prompts, refuse_prior_settings
from ldm_train.assembly.stored_run import build_recipe
from ldm_train.commands.check.estimate import StepEstimate
from ldm_train.data.cache.plan import CachePlan
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.cost import RowShapes
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import Power
from ldm_train.types import Conditioning

PIXEL = 3  # bytes per pixel of a PNG, about the maximum


@dataclass(frozen=True)
class RunFiles:
    """The large files of a run directory at the end of the run.

    Args:
        checkpoint, snapshot: bytes of one file.
        checkpoints, snapshots: how many are kept.
        prior: bytes of class pictures and their cache.
        folder: the run directory, or the nearest existing folder above it.
        free: bytes free there.
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
        """Return the most bytes at any time: a new checkpoint is complete before an older one is removed."""
        return self.total + self.checkpoint


@dataclass(frozen=True)
class ClassPictures:
    """The class pictures of prior preservation: their number, network passes for each, and bytes of all on disk."""

    count: int
    passes: int
    size: int

    def seconds(self, training: StepEstimate, *, recomputes: bool) -> float | None:
        """Return the seconds to draw all, from the time of a training step, or None if no step was measured.

        A step is a forward pass, a backward pass of one or two times its cost (by the share of trained parameters), and one
        more forward pass if gradient checkpointing recomputes the blocks.
        """
        tried = training.tried
        if tried is None:
            return None
        each = tried.each or tried.seconds / tried.examples
        return self.count * self.passes * each / (2 + training.trained / training.parameters + recomputes)


def estimate_run_files(settings: CheckSettings, training: StepEstimate, prior: ClassPictures | None) -> RunFiles:
    """Return the files that the run keeps at its end."""
    ema: EMA = build(settings.ema, "ema")
    lengths, every = sum(isinstance(profile, Power) for profile in ema.profiles), ema.snapshots
    number = 0 if every is None else getattr(torch, every.dtype).itemsize
    wanted = Path.cwd() if settings.run_dir is None else Path(settings.run_dir).absolute()
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    return RunFiles(
        checkpoint=training.checkpoint,
        checkpoints=count_checkpoints(Keeping(**dict(settings.checkpoint)), settings.max_steps),
        snapshot=training.trained * number * lengths,
        snapshots=0 if every is None else -(-settings.max_steps // every.every),
        prior=0 if prior is None else prior.size,
        folder=str(folder),
        free=shutil.disk_usage(folder).free,
    )


def count_checkpoints(keeping: Keeping, max_steps: int) -> int:
    """Return how many checkpoints there are at the end, at most."""
    steps = [*range(keeping.every, max_steps, keeping.every), max_steps]
    lasting = {s for s in steps if keeping.keep_every is not None and s % keeping.keep_every == 0}
    return len(lasting | set(steps[-keeping.keep :])) + (keeping.best is not None)


def estimate_class_pictures(settings: CheckSettings, parts: Parts, plan: CachePlan, rows: RowShapes) -> ClassPictures | None:
    """Return the cost of the class pictures, or None if the run has none.

    Raises:
        ValueError: the prompts cannot be read, or prior preservation cannot be combined with other settings.
    """
    prior = settings.prior
    if prior.prompts is None:
        return None
    refuse_prior_settings(settings)
    captions = len(set(class_prompts(settings)))
    shape = (settings.image_size, settings.image_size)
    each = PIXEL * settings.image_size**2 + rows.picture(shape, plan.crop.views)
    return ClassPictures(prior.count, count_passes(settings, parts), prior.count * each + captions * rows.caption)


def count_passes(settings: CheckSettings, parts: Parts) -> int:
    """Return the network passes for one class picture, by sampling with a network that only counts its calls."""
    calls = 0

    def count(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        nonlocal calls
        calls += len(x_t)
        return torch.zeros_like(x_t)

    recipe = build_recipe(settings, steps=settings.prior.steps, seed=settings.prior.seed)
    denoiser, noise = Denoiser(count, parts.schedule, parts.prediction), torch.zeros(1, 1, 1, 1)
    guided = recipe.guidance(denoiser, Conditioning(), denoiser)
    recipe.sampler(guided, noise, Conditioning(), steps=recipe.steps, spacing=recipe.spacing, generator=lambda step: noise)
    return calls
