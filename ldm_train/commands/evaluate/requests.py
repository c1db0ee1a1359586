"""What an evaluation's settings ask for, and which contradict each other."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NoReturn

import torch

from ldm_train.assembly.drawing import read_prompts
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.settings.shipped import shipped_part

SUBJECTS = ("run_dir", "pictures", "pipeline")


def refuse_contradictions(config: EvaluateSettings) -> None:
    """Say which settings cannot be together, before anything is loaded.

    Raises:
        ValueError: a line for each.
    """
    if problems := list(contradictions(config)):
        raise ValueError("\n".join(problems))


def contradictions(config: EvaluateSettings) -> Iterator[str]:
    given = [name for name in SUBJECTS if getattr(config, name) is not None]
    if len(given) != 1:
        yield f"evaluate needs one of run_dir=…, pictures=… and pipeline=…, and was given {' and '.join(given) or 'none'}"
    if not config.out.endswith(".json"):
        yield f"out={config.out} must end in .json; a Markdown file of the same name is written beside it"
    compares = config.features is not None
    if given == ["pictures"] and config.clip_score is None and not (compares and config.real):
        yield f"pictures={config.pictures} are to be compared with real=DIR by features=…, or with captions by clip_score=…"
    if config.pictures is not None and has_sweep(config):
        yield f"a sweep draws pictures, and pictures={config.pictures} are there already; give run_dir=… or pipeline=…"
    if config.pictures is not None and config.evaluation is not None:
        yield "evaluation=… asks for pictures of its own, and pictures=… are there already; give run_dir=… or pipeline=…"
    if config.evaluation is not None and config.evaluation.target.endswith("Drawings"):
        for name in ("prompts", "samples"):
            if getattr(config, name) is not None:
                yield f"{name}={getattr(config, name)} does not go with evaluation=drawings, which asks for its own pictures"
    if given == ["pipeline"] and config.evaluation is None and not (config.prompts or config.real or config.cache):
        yield f"pipeline={config.pipeline} needs prompts=…, or real=DIR with captions, or cache=DIR, to know what to draw"


def has_sweep(config: EvaluateSettings) -> bool:
    """Return whether further pictures are asked for, at the values of a sweep."""
    return any(values is not None for _, values in config.sweep)


def refuse_nothing(config: EvaluateSettings, *, compares: bool) -> NoReturn:
    """Raise because there is nothing to measure, and say which settings would change that.

    Args:
        compares: whether there are real pictures to compare with.
    """
    if config.features is None and config.clip_score is None:
        reason = "features and clip_score are null; set features=efficientnet_lite0 or clip_score=open_clip"
    elif config.clip_score is None and not compares:
        cache = "" if config.pictures is not None else ", or cache=DIR with held-out pictures"
        reason = f"there are no real pictures to compare with; give real=DIR{cache}, or prompts=… and clip_score=open_clip"
    else:
        reason = "there are no captions; give prompts=…"
    raise ValueError(f"{'the sweep' if has_sweep(config) else 'evaluate'} has nothing to measure: {reason}")


def choose_prompts(config: EvaluateSettings, known: Sequence[str], *, count: int | None) -> list[str]:
    """The prompts that a command gives, else the known ones: so many, from the first on again where there are fewer."""
    prompts = list(known) if config.prompts is None else read_prompts(config.prompts)
    if not prompts:
        return []
    return [prompts[number % len(prompts)] for number in range(len(prompts) if count is None else count)]


def points(config: EvaluateSettings, device: torch.device) -> list[EvaluateSettings]:
    """Return the command's own settings, and those of each combination of the sweep's values."""
    own = config.with_values(device=str(device))
    found = [own]
    names = [name for name in ("guidance", "steps") if getattr(config.sweep, name) is not None]
    for values in product(*(getattr(config.sweep, name) for name in names)) if names else ():
        point = own
        for name, value in zip(names, values, strict=True):
            point = point.with_values(steps=value) if name == "steps" else with_scale(point, value)
        found.append(point)
    return found


def with_scale(config: EvaluateSettings, scale: float) -> EvaluateSettings:
    """Return settings with another scale of guidance; a run's own guidance, or a pipeline's, is filled in before."""
    guidance = config.guidance or shipped_part("guidance", "classifier_free")
    return config.with_values(guidance=guidance.with_values(scale=scale))
