"""Read what the settings of an evaluation request, and reject settings that contradict each other."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NoReturn

import torch

from ldm_train.assembly.prompts import read_texts
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.settings.shipped import shipped_part

SUBJECTS = ("run_dir", "pictures", "pipeline")


def refuse_evaluate_conflicts(settings: EvaluateSettings) -> None:
    """Raise if settings contradict each other, before anything is loaded.

    Raises:
        ValueError: they do; the message has a line for each problem.
    """
    if problems := list(find_evaluate_conflicts(settings)):
        raise ValueError("\n".join(problems))


def find_evaluate_conflicts(settings: EvaluateSettings) -> Iterator[str]:
    """Yield a message for each problem."""
    given = [name for name in SUBJECTS if getattr(settings, name) is not None]
    if len(given) != 1:
        yield f"give one of run_dir=DIR, pictures=DIR and pipeline=DIR; given: {', '.join(given) or 'none'}"
    if not settings.out.endswith(".json"):
        yield f"out={settings.out} must end in .json; a Markdown file of the same name is written next to it"
    compares = settings.features is not None
    if given == ["pictures"] and settings.clip_score is None and not (compares and settings.real):
        yield (
            f"pictures={settings.pictures} need something to compare with: give real=DIR and features=…, or clip_score=… "
            "for their captions"
        )
    if settings.pictures is not None and has_sweep(settings):
        yield f"a sweep draws pictures, but pictures={settings.pictures} exist already; give run_dir=DIR or pipeline=DIR"
    if settings.pictures is not None and settings.evaluation is not None:
        yield (
            f"evaluation=… draws its own pictures, but pictures={settings.pictures} exist already; give run_dir=DIR or "
            "pipeline=DIR instead"
        )
    if settings.evaluation is not None and settings.evaluation.target.endswith("Drawings"):
        for name in ("prompts", "samples"):
            if getattr(settings, name) is not None:
                yield (
                    f"{name}={getattr(settings, name)} cannot be combined with evaluation=drawings, which has its own "
                    f"prompts; leave out {name}"
                )
    if given == ["pipeline"] and settings.evaluation is None and not (settings.prompts or settings.real or settings.cache):
        yield f"pipeline={settings.pipeline} needs prompts to draw: give prompts=…, real=DIR with captions, or cache=DIR"


def has_sweep(settings: EvaluateSettings) -> bool:
    """Return whether the settings request further pictures, at the values of a sweep."""
    return any(values is not None for _, values in settings.sweep)


def refuse_missing(settings: EvaluateSettings, names: Sequence[str]) -> NoReturn:
    """Raise because the run cannot draw these prompts without conditions, and say what can be measured instead.

    Args:
        names: of the conditions that it was never trained without.

    Raises:
        ValueError: always.
    """
    cause = next((name for name in ("prompts", "evaluation", "real") if getattr(settings, name) is not None), "prompts")
    raise ValueError(
        f"run_dir={settings.run_dir} was never trained without {', '.join(names)}, which only the pictures of its cache "
        f"have: leave out {cause}, and their captions are drawn with it; or draw with `ldm-train sample` and measure that "
        "folder with pictures=DIR; or train with a dropout above 0 of that condition"
    )


def refuse_nothing(settings: EvaluateSettings, *, compares: bool) -> NoReturn:
    """Raise because there is nothing to measure, and say which settings would change that.

    Args:
        compares: whether there are real pictures to compare with.

    Raises:
        ValueError: always.
    """
    if settings.features is None and settings.clip_score is None:
        reason = "features and clip_score are null; set features=efficientnet_lite0 or clip_score=open_clip"
    elif settings.clip_score is None and not compares:
        cache = "" if settings.pictures is not None else ", or cache=DIR with held-out pictures"
        reason = f"there are no real pictures to compare with; give real=DIR{cache}, or prompts=… and clip_score=open_clip"
    else:
        reason = "there are no captions; give prompts=…"
    raise ValueError(f"{'the sweep' if has_sweep(settings) else 'evaluate'} has nothing to measure: {reason}")


def choose_prompts(settings: EvaluateSettings, captions: Sequence[str], *, count: int | None) -> list[str]:
    """Return `count` prompts of the settings, else of the captions, repeated from the first if there are fewer."""
    prompts = list(captions) if settings.prompts is None else read_texts(settings.prompts)
    if not prompts:
        return []
    return [prompts[number % len(prompts)] for number in range(len(prompts) if count is None else count)]


def list_points(settings: EvaluateSettings, device: torch.device) -> list[EvaluateSettings]:
    """Return the settings of the command, followed by those of each combination of the sweep's values."""
    first = settings.with_values(device=str(device))
    points = [first]
    names = [name for name in ("guidance", "steps") if getattr(settings.sweep, name) is not None]
    for values in product(*(getattr(settings.sweep, name) for name in names)) if names else ():
        point = first
        for name, value in zip(names, values, strict=True):
            point = point.with_values(steps=value) if name == "steps" else with_guidance_scale(point, value)
        points.append(point)
    return points


def with_guidance_scale(settings: EvaluateSettings, scale: float) -> EvaluateSettings:
    """Return settings with another guidance scale."""
    guidance = settings.guidance or shipped_part("guidance", "classifier_free")
    return settings.with_values(guidance=guidance.with_values(scale=scale))
