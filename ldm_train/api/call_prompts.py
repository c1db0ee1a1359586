"""Read the prompts of a call of `generate`, and plan how each is drawn."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ldm_train.assembly.drawing import naming_prompt, resize_generation
from ldm_train.assembly.prompt_options import Prompt, read_mapping_prompt
from ldm_train.assembly.prompts import EXAMPLE
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.diffusion.guidance import Guidance
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.samplers.base import Sampler

Value = TypeVar("Value")


def read_prompt_list(prompts: Sequence[object]) -> list[Prompt]:
    """Return the prompts of a call: texts as they are, and mappings with options.

    Raises:
        ValueError: there is none, or one is neither.
    """
    if not isinstance(prompts, Iterable) or not (items := list(prompts)):
        raise ValueError(f"prompts={prompts!r:.100} must be a text, a mapping, or a list with at least one of them")
    found = []
    for number, item in enumerate(items, start=1):
        where = f"prompts, prompt {number}"
        if isinstance(item, Mapping) and "prompt" in item:
            found.append(read_mapping_prompt({str(key): value for key, value in item.items()}, where))
        elif isinstance(item, str):
            found.append(Prompt(item, where))
        else:
            raise ValueError(f"{where}: {item!r:.100} must be a text, or a mapping such as {EXAMPLE}")
    return found


def plan_prompt(
    run: TrainedRun, prompt: Prompt, common: Prompt, sampler: Sampler | None
) -> tuple[Generation, SamplingSettings]:
    """Return what draws a prompt, and how, with its own options, then those of the call, then those of the run."""
    scale = common.guidance if prompt.guidance is None else prompt.guidance
    recipe = replace(
        run.recipe,
        seed=first_given(prompt.seed, common.seed, run.recipe.seed),
        steps=first_given(prompt.steps, common.steps, run.recipe.steps),
        sampler=first_given(sampler, run.recipe.sampler),
        guidance=run.recipe.guidance if scale is None else rescale(run.recipe.guidance, scale),
        negative_prompt=first_given(prompt.negative, common.negative, run.recipe.negative_prompt),
    )
    height, width = run.generation.sides
    size = [prompt.height or height, prompt.width or width] if prompt.height or prompt.width else None
    with naming_prompt(prompt):
        return resize_generation(run.generation, size), recipe


def first_given(*values: Value | None) -> Value:
    """Return the first value that is not None."""
    return next(value for value in values if value is not None)


def rescale(guidance: Guidance, scale: float) -> Guidance:
    """Return a guidance with another scale, an argument that every one has."""
    return partial(guidance, scale=scale)  # type: ignore[call-arg]
