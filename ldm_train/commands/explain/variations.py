"""Pictures from the same starting noise, each with one thing changed: the prompt, guidance, the sampler, the steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.assembly.stored_run import fill_from_run
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.settings.composition import build
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExplainSettings
from ldm_train.settings.shipped import shipped_part

SAMPLERS = ("ddim", "ddpm", "euler", "heun", "dpm_solver")
STEPS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Variation:
    """A row of pictures, uint8 (B, 3, H, W), each with what was changed."""

    title: str
    labels: Sequence[str]
    pictures: Tensor


def draw_variations(
    generation: Generation,
    recipe: SamplingSettings,
    settings: ExplainSettings,
    trained: TrainSettings,
    prompts: Sequence[str],
) -> list[Variation]:
    """Return rows of pictures, all from the noise of picture number 0.

    Args:
        prompts: the picture's own first.
    """
    settings = fill_from_run(settings, trained)
    rows = [_draw_row("prompts", generation, [(f"“{text}”" if text else "no prompt", recipe, text) for text in prompts])]
    rows += [
        _draw_row(title, generation, [(label, other, prompts[0]) for label, other in changed])
        for title, changed in (
            ("guidance scales", _change_guidance(recipe, settings)),
            ("samplers", _change_sampler(generation, recipe, settings)),
            ("numbers of steps", [*_change_steps(generation, recipe)]),
        )
    ]
    return [row for row in rows if len(row.labels) > 1]


def _change_guidance(recipe: SamplingSettings, settings: ExplainSettings) -> list[tuple[str, SamplingSettings]]:
    guidance = settings.guidance
    scale = None if guidance is None else guidance.get("scale")
    if guidance is None or not isinstance(scale, int | float):  # own code
        return []
    scales = sorted({0.0, 1.0, float(scale), 2 * float(scale), 4 * float(scale)})
    return [(f"{one:g}", replace(recipe, guidance=build(guidance.with_values(scale=one), "guidance"))) for one in scales]


def _change_sampler(
    generation: Generation, recipe: SamplingSettings, settings: ExplainSettings
) -> list[tuple[str, SamplingSettings]]:
    own = None if settings.sampler is None else nearest_option("sampler", settings.sampler.as_plain())
    others = [(name, replace(recipe, sampler=build(shipped_part("sampler", name), "sampler"))) for name in SAMPLERS]
    fitting = [(name, other) for name, other in others if name != own and can_draw(generation, other)]
    return [(f"{own or 'its own'} (this run's)", recipe), *fitting]


def _change_steps(generation: Generation, recipe: SamplingSettings) -> Iterator[tuple[str, SamplingSettings]]:
    for steps in sorted({*STEPS, recipe.steps}):
        other = replace(recipe, steps=steps)
        if steps <= 2 * recipe.steps and can_draw(generation, other):
            yield f"{steps}", other


def can_draw(generation: Generation, recipe: SamplingSettings) -> bool:
    """Return whether a recipe fits the run's schedule."""
    try:
        generation.check([], recipe)
    except ValueError:
        return False
    return True


def _draw_row(title: str, generation: Generation, changed: Sequence[tuple[str, SamplingSettings, str]]) -> Variation:
    first = torch.zeros(1, dtype=torch.long)
    images = [
        generation([prompt], recipe, numbers=first) for _, recipe, prompt in track(changed, f"drawing with other {title}")
    ]
    pictures = to_display_bytes(torch.cat(images)).cpu() if images else torch.empty(0)
    return Variation(title, [label for label, _, _ in changed], pictures)
