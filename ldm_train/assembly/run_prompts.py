"""How a run draws prompts that have settings of their own."""

from collections.abc import Sequence

from ldm_train.assembly.drawing import naming_prompt
from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.stored_run import build_recipe
from ldm_train.generation import SamplingSettings
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.callbacks.drawing_plan import AlikePrompts


def plan_alike(config: TrainSettings, prompts: Sequence[Prompt], scales: Sequence[float]) -> list[AlikePrompts]:
    """Return prompts in groups with the same settings; none if no prompt has settings of its own.

    The noise number of a prompt with its own seed is 0, as that of the first picture of `sample`; of others, their place.
    """
    groups: dict[tuple[tuple[str, str | int | float], ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt.options.items()), []).append(place)
    if [*groups] in ([], [()]):
        return []
    found = []
    for places in groups.values():
        first = prompts[places[0]]
        with naming_prompt(first):
            recipes = build_prompt_recipes(config, first, scales)
        numbers = [place if first.seed is None else 0 for place in places]
        found.append(AlikePrompts(places, numbers, recipes, choose_sides(config, first)))
    return found


def build_prompt_recipes(config: TrainSettings, prompt: Prompt, scales: Sequence[float]) -> list[SamplingSettings]:
    """Return how to draw a prompt with its own settings, at each guidance scale of the run's pictures.

    Raises:
        ValueError: there are several scales, and the prompt has one itself.
    """
    if prompt.guidance is not None and len(scales) > 1:
        raise ValueError(
            f"guidance {prompt.guidance:g} contradicts pictures.guidance={list(scales)}, at which every prompt is drawn; "
            "leave one out"
        )
    pictures = config.pictures
    return [
        build_recipe(
            config.with_values(
                guidance=config.guidance.with_values(scale=scale if prompt.guidance is None else prompt.guidance)
            ),
            steps=prompt.steps or pictures.steps,
            seed=pictures.seed if prompt.seed is None else prompt.seed,
            negative_prompt=prompt.negative or "",
        )
        for scale in scales
    ]


def choose_sides(config: TrainSettings, prompt: Prompt) -> tuple[int, int] | None:
    """Return the height and width that a prompt has itself; None for those of the run."""
    if prompt.height is None and prompt.width is None:
        return None
    assert config.image_size is not None
    return prompt.height or config.image_size, prompt.width or config.image_size
