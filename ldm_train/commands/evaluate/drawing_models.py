"""The models that an evaluation can draw with: a trained run, or anything that implements the protocol `Model`."""

from importlib.metadata import version
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.assembly.cut_texts import warn_of_cut_prompts
from ldm_train.assembly.stored_run import TrainedRun, build_recipe, open_run
from ldm_train.commands.evaluate.drawn_pictures import Opener, Painter
from ldm_train.generation import Generation
from ldm_train.settings.schema.options import CommandSettings, Part
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder, Given
from ldm_train.weights.fingerprint import fingerprint_module

Details = dict[str, object]


class Model(Protocol):
    """Draw the pictures of an evaluation.

    Attributes:
        opener: builds a painter from settings, in another process.
        identity: plain values that, together with the recipe, decide the pictures: weights, versions, sizes.
        autoencoder: the model's own, or None if it is unknown.
        needed: names of the conditions that it cannot draw without.
    """

    opener: Opener
    identity: Details
    device: torch.device
    autoencoder: Autoencoder | None
    needed: list[str]

    def paint(self, settings: EvaluateSettings) -> Painter:
        """Return a painter that draws with the guidance, steps and seed of the settings.

        Raises:
            ValueError: the model cannot draw with these settings.
        """

    def recipe(self, settings: EvaluateSettings) -> Details:
        """Return every setting that decides how pictures are drawn, as plain values."""

    def describe(self, settings: EvaluateSettings) -> Details:
        """Return what the result states about the model and how its pictures are drawn."""

    def warn_of_cuts(self, prompts: list[str]) -> list[str]:
        """Return warnings of prompts that are longer than the model's text encoder reads."""


def select_plain(settings: CommandSettings, *names: str) -> Details:
    """Return the settings of these names as plain values."""
    container = settings.as_plain()
    return {name: container.get(name) for name in names}


def get_class_name(part: Part | None) -> str:
    return "" if part is None else part.target.rpartition(".")[2]


class RunModel:
    """A trained run, with the weights that the command's settings select."""

    def __init__(self, settings: EvaluateSettings) -> None:
        self.trained: TrainedRun = open_run(settings)
        self.opener: Opener = open_run_painter
        self.device = self.trained.generation.device
        self.autoencoder: Autoencoder | None = self.trained.parts.autoencoder
        self.needed = [one.name for one in self.trained.parts.conditions.needed]
        weak = self.trained.generation.weak
        self.identity: Details = {
            "model": fingerprint_parts(self.trained.generation),
            "weak": None if weak is None else fingerprint_parts(weak),
            **select_plain(self.trained.config, "schedule", "prediction"),
            "size": self.trained.generation.size,
            "version": version("ldm-train"),
        }

    def paint(self, settings: EvaluateSettings) -> Painter:
        return build_run_painter(self.trained, settings)

    def recipe(self, settings: EvaluateSettings) -> Details:
        return select_plain(settings, "sampler", "spacing", "guidance", "steps", "seed")

    def describe(self, settings: EvaluateSettings) -> Details:
        return {
            "step": self.trained.step,
            "weights": str(settings.weights),
            "sampler": get_class_name(settings.sampler),
            "steps": settings.steps,
            "spacing": get_class_name(settings.spacing),
            "guidance": {} if settings.guidance is None else settings.guidance.arguments | settings.guidance.kept,
            "seed": settings.seed,
        }

    def warn_of_cuts(self, prompts: list[str]) -> list[str]:
        return warn_of_cut_prompts(self.trained.parts.text_encoder, prompts)


def fingerprint_parts(generation: Generation) -> list[str]:
    """Return the fingerprints of all parts that have weights."""
    parts = (generation.network, generation.conditioner, generation.autoencoder)
    return [fingerprint_module(part) for part in parts if isinstance(part, torch.nn.Module)]


def open_run_painter(settings: EvaluateSettings) -> Painter:
    return build_run_painter(open_run(settings), settings)


def build_run_painter(trained: TrainedRun, settings: EvaluateSettings) -> Painter:
    assert settings.steps is not None
    recipe = build_recipe(settings, steps=settings.steps, seed=settings.seed)
    trained.generation.check([], recipe)

    def paint(prompts: list[str], numbers: Tensor, given: dict[str, Given]) -> Tensor:
        images = trained.generation(prompts, recipe, numbers=numbers, given=given)
        return trained.generation.require_finite(images, prompts, numbers.tolist(), seed=recipe.seed)

    return paint
