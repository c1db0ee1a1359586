"""What an evaluation can draw with: a trained run, or anything else that this protocol fits."""

from importlib.metadata import version
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.assembly.stored_run import TrainedRun, build_recipe, open_run
from ldm_train.commands.evaluate.drawn_pictures import Opener, Painter
from ldm_train.generation import Generation
from ldm_train.settings.schema.options import CommandSettings, Part
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder
from ldm_train.weights.fingerprint import fingerprint_module

Told = dict[str, object]


class Model(Protocol):
    """What draws the pictures of an evaluation.

    Attributes:
        opener: makes another process's painter of a config.
        identity: what decides its pictures beside a recipe, in plain values.
    """

    opener: Opener
    identity: Told
    device: torch.device
    autoencoder: Autoencoder | None

    def paint(self, config: EvaluateSettings) -> Painter:
        """What draws by a config's guidance, steps and seed.

        Raises:
            ValueError: these cannot be drawn by.
        """

    def recipe(self, config: EvaluateSettings) -> Told:
        """All that a config says of how pictures are drawn, in plain values."""

    def told(self, config: EvaluateSettings) -> Told:
        """What the result says of the model, and of how its pictures are drawn."""


def plain(config: CommandSettings, *names: str) -> Told:
    """Return some settings as plain values."""
    container = config.as_plain()
    return {name: container.get(name) for name in names}


def class_name(part: Part | None) -> str:
    return "" if part is None else part.target.rpartition(".")[2]


class RunModel:
    """A trained run by the weights that a command asks for; its config is filled in from the run."""

    def __init__(self, config: EvaluateSettings) -> None:
        self.trained: TrainedRun = open_run(config)
        self.opener: Opener = run_painter
        self.device = self.trained.generation.device
        self.autoencoder: Autoencoder | None = self.trained.parts.autoencoder
        weak = self.trained.generation.weak
        self.identity: Told = {
            "model": fingerprints(self.trained.generation),
            "weak": None if weak is None else fingerprints(weak),
            **plain(self.trained.config, "schedule", "prediction"),
            "size": self.trained.generation.size,
            "version": version("ldm-train"),
        }

    def paint(self, config: EvaluateSettings) -> Painter:
        return painter_of(self.trained, config)

    def recipe(self, config: EvaluateSettings) -> Told:
        return plain(config, "sampler", "spacing", "guidance", "steps", "seed")

    def told(self, config: EvaluateSettings) -> Told:
        return {
            "step": self.trained.step,
            "weights": str(config.weights),
            "sampler": class_name(config.sampler),
            "steps": config.steps,
            "spacing": class_name(config.spacing),
            "guidance": {} if config.guidance is None else config.guidance.arguments | config.guidance.kept,
            "seed": config.seed,
        }


def fingerprints(generation: Generation) -> list[str]:
    """Of all that has weights."""
    parts = (generation.network, generation.conditioner, generation.autoencoder)
    return [fingerprint_module(part) for part in parts if isinstance(part, torch.nn.Module)]


def run_painter(config: EvaluateSettings) -> Painter:
    return painter_of(open_run(config), config)


def painter_of(trained: TrainedRun, config: EvaluateSettings) -> Painter:
    recipe = build_recipe(config, steps=config.steps, seed=config.seed)
    trained.generation.check([], recipe)

    def paint(prompts: list[str], numbers: Tensor) -> Tensor:
        images = trained.generation(prompts, recipe, numbers=numbers)
        return trained.generation.require_finite(images, prompts, numbers.tolist(), seed=recipe.seed)

    return paint
