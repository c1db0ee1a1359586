"""Build what watches a run while it trains: validation, pictures, and metrics of sets of pictures."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pytorch_lightning import Callback

from ldm_train.assembly.cut_texts import warn_of_cut_prompts
from ldm_train.assembly.drawing import naming_prompt, resize_generation
from ldm_train.assembly.own_objects import build_callbacks, build_own_metrics
from ldm_train.assembly.parts import Parts, choose_device
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.prompts import list_texts, parse_prompts, read_prompts, read_texts
from ldm_train.assembly.run_prompts import build_prompt_recipes, choose_sides, plan_alike
from ldm_train.assembly.stored_run import build_recipe, build_weak
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.holding_out import spread_evenly
from ldm_train.generation import Generation
from ldm_train.metrics.evaluation import Evaluation
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.without_effect import measures
from ldm_train.training.callbacks.drawing_plan import Drawing, DrawnExample
from ldm_train.training.callbacks.samples import Samples
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.ema.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.compared import choose_comparisons
from ldm_train.training.validation.metrics_callback import Measuring, MetricsCallback
from ldm_train.training.validation.real_features import FeatureStore
from ldm_train.training.validation.validation_callback import ValidationCallback


@dataclass(frozen=True)
class Watching:
    """What is drawn and measured while a run trains; everything is tried before the first step.

    Args:
        weak: a weaker model that guides, where there is one.
        measuring: None where no sets of pictures are measured.
        warnings: of prompts that are cut.
        own: callbacks of own code.
    """

    parts: Parts
    drawing: Drawing
    measuring: Measuring | None
    weak: Generation | None
    warnings: list[str]
    own: list[Callback]

    @classmethod
    def of(cls, config: TrainSettings, parts: Parts, data: CachedLatents) -> "Watching":
        """Build it from a run's settings.

        Raises:
            ValueError: pictures that cannot be drawn so, or a network that measures whose weights are not to be had.
        """
        weak = build_weak(config, parts, choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto"))
        drawing, measuring, warnings = (
            plan_drawing(config, data),
            build_measuring(config),
            warn_of_own_prompts(config, parts),
        )
        watching = cls(parts, drawing, measuring, weak, warnings, build_callbacks(config))
        generation = parts.generation(parts.network, parts.text_encoder, torch.device("cpu"), weak)
        for recipe in watching.drawing.recipes.values():
            generation.check(watching.drawing.captions, recipe)
        check_prompts(config, generation)
        if watching.measuring is not None:
            generation.check([], watching.measuring.recipe)
        return watching

    def captions(self, data: CachedLatents) -> list[str]:
        """Return all captions that pictures are ever drawn of."""
        sets = []
        if self.measuring is not None:
            sets = choose_comparisons(data, self.measuring.count, factor=self.parts.autoencoder.factor)
        return [*self.drawing.captions, *(caption for compared in sets for caption in compared.captions)]

    def callbacks(self, config: TrainSettings, ema: EMA, *, content: str, spent: TimeSpent) -> list[Callback]:
        """Return the callbacks, in the order in which they run.

        Args:
            content: one name for all that is trained on.
            spent: to which the time that they take is added.
        """

        def generation(trained: NoisePredictorTraining) -> Generation:
            return self.parts.generation(
                trained.network, trained.text_encoder, trained.device, self.weak, trained.conditions
            )

        found: list[Callback] = [
            ValidationCallback(ema, **dict(config.validation), spent=spent),
            Samples(Path(config.run_dir), ema, generation, self.drawing, every=config.pictures.every, spent=spent),
        ]
        if self.measuring is not None and config.metrics.every is not None:
            kept = None if config.cache is None else FeatureStore.next_to(config.cache, content)
            found.append(
                MetricsCallback(ema, generation, self.measuring, every=config.metrics.every, kept=kept, spent=spent)
            )
        return [*found, *self.own]


def plan_drawing(config: TrainSettings, data: CachedLatents) -> Drawing:
    """Return the pictures to draw while training: of the given prompts, else of trained and held-out captions."""
    pictures = config.pictures
    scales = guidance_scales(config)
    settings = [config.with_values(guidance=config.guidance.with_values(scale=scale)) for scale in scales]
    recipes = {
        scale: build_recipe(one, steps=pictures.steps, seed=pictures.seed)
        for scale, one in zip(scales, settings, strict=True)
    }
    examples = choose_examples(data, pictures.count)
    own = own_prompts(config)
    if own is None:
        return Drawing([example.caption for example in examples], recipes, examples)
    texts, names = [prompt.text for prompt in own], [str(prompt) for prompt in own]
    return Drawing(texts, recipes, examples, plan_alike(config, own, scales), names)


def check_prompts(config: TrainSettings, generation: Generation) -> None:
    """Raise what drawing the run's own prompts with their settings would raise.

    Raises:
        ValueError: it names the prompt.
    """
    for prompt in own_prompts(config) or []:
        with naming_prompt(prompt):
            sized = resize_generation(generation, choose_sides(config, prompt))
            for recipe in build_prompt_recipes(config, prompt, guidance_scales(config)) if prompt.options else []:
                sized.check([prompt.text], recipe)


def choose_examples(data: CachedLatents, count: int) -> list[DrawnExample]:
    """Return `count` examples, evenly spread: trained ones, then as many held-out ones, or fewer if there are fewer."""
    held_out = data.available(spread_evenly(data.held_out, count - count // 2))
    trained = data.available(spread_evenly(data.trained, count - len(held_out)))
    return [
        DrawnExample(number, data.latents.first_caption(number), held_out=is_held_out)
        for numbers, is_held_out in ((trained, False), (held_out, True))
        for number in numbers.tolist()
    ]


def own_prompts(config: TrainSettings) -> list[Prompt] | None:
    """Return the prompts that a config itself asks a run to draw, none for an empty list; None leaves them to the data.

    Raises:
        ValueError: as `parse_prompts`.
    """
    prompts = config.pictures.prompts
    if prompts is None or (not prompts):
        return None if prompts is None else []
    return parse_prompts(prompts, setting="pictures.prompts")


def warn_of_own_prompts(config: TrainSettings, parts: Parts) -> list[str]:
    """Return warnings of prompts in a run's settings that its text encoder cuts, and print a note about their syntax."""
    texts: dict[str, list[str]] = {}
    if config.pictures.prompts:
        texts["pictures.prompts"] = list_texts(read_prompts(config.pictures.prompts, setting="pictures.prompts"))
    if config.prior.prompts:
        texts["prior.prompts"] = read_texts(config.prior.prompts, setting="prior.prompts")
    return [line for name, one in texts.items() for line in warn_of_cut_prompts(parts.text_encoder, one, setting=name)]


def guidance_scales(config: TrainSettings) -> list[float]:
    """Return the guidance scales at which pictures are drawn while training.

    Raises:
        ValueError: no list of numbers, or one twice.
    """
    scales = config.pictures.guidance
    if scales is None and config.guidance.get("scale") is None:
        raise ValueError(
            f"guidance.scale has no value, and pictures are drawn at one; set guidance.scale=… "
            f"({config.guidance.target} must take scale)"
        )
    if scales is None:
        return [float(config.guidance.get("scale"))]
    numbers = [float(scale) for scale in scales]
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"pictures.guidance={scales} must be a list of different guidance scales, such as [1,2,4], or null")
    return numbers


def build_measuring(config: TrainSettings) -> Measuring | None:
    """Return the frozen networks that measure pictures, and how pictures are drawn for them; None if nothing is measured.

    Raises:
        ValueError: the weights of a network are not to be had.
    """
    if not measures(config):
        return None
    measured = {"features": config.features, "clip_score": config.clip_score}
    features, pair = (None if part is None else build(part, name) for name, part in measured.items())
    recipe = build_recipe(config, steps=config.metrics.steps, seed=config.metrics.seed)
    evaluation: Evaluation = build(config.evaluation, "evaluation")
    metrics = [*evaluation.metrics, *build_own_metrics(config)]
    return Measuring(features, pair, recipe, config.metrics.count, metrics)
