"""What an evaluation's settings ask for, and which contradict each other."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from ldm_train.assembly.drawing import read_prompts

SUBJECTS = ("run_dir", "pictures", "pipeline")


def refuse_contradictions(config: DictConfig) -> None:
    """Say which settings cannot be together, before anything is loaded.

    Raises:
        ValueError: a line for each.
    """
    if problems := list(contradictions(config)):
        raise ValueError("\n".join(problems))


def contradictions(config: DictConfig) -> Iterator[str]:
    given = [name for name in SUBJECTS if config[name] is not None]
    if len(given) != 1:
        yield f"evaluate needs one of run_dir=…, pictures=… and pipeline=…, and was given {' and '.join(given) or 'none'}"
    if not config.out.endswith(".json"):
        yield f"out={config.out} must end in .json; a Markdown file of the same name is written beside it"
    compares = config.get("features") is not None
    if given == ["pictures"] and config.get("clip_score") is None and not (compares and config.real):
        yield f"pictures={config.pictures} are to be compared with real=DIR by features=…, or with captions by clip_score=…"
    if config.pictures is not None and any(values is not None for values in config.sweep.values()):
        yield f"a sweep draws pictures, and pictures={config.pictures} are there already; give run_dir=… or pipeline=…"
    if config.pictures is not None and config.get("evaluation") is not None:
        yield "evaluation=… asks for pictures of its own, and pictures=… are there already; give run_dir=… or pipeline=…"
    if config.get("evaluation") is not None and str(config.evaluation._target_).endswith("Drawings"):
        for name in ("prompts", "samples"):
            if config[name] is not None:
                yield f"{name}={config[name]} does not go with evaluation=drawings, which asks for its own pictures"
    if given == ["pipeline"] and config.get("evaluation") is None and not (config.prompts or config.real or config.cache):
        yield f"pipeline={config.pipeline} needs prompts=…, or real=DIR with captions, or cache=DIR, to know what to draw"


def choose_prompts(config: DictConfig, known: Sequence[str], *, count: int | None) -> list[str]:
    """The prompts that a command gives, else the known ones: so many, from the first on again where there are fewer."""
    prompts = list(known) if config.prompts is None else read_prompts(config.prompts)
    if not prompts:
        return []
    return [prompts[number % len(prompts)] for number in range(len(prompts) if count is None else count)]


def points(config: DictConfig, device: torch.device) -> list[DictConfig]:
    """The command's own config, and one for each combination of the sweep's values."""
    own = config.copy()
    own.device = str(device)
    found = [own]
    names = [name for name in ("guidance", "steps") if config.sweep[name] is not None]
    for values in product(*(config.sweep[name] for name in names)) if names else ():
        point = own.copy()
        for name, value in zip(names, values, strict=True):
            if name == "steps":
                point.steps = value
            else:
                with open_dict(point):
                    point.guidance = OmegaConf.merge(point.get("guidance") or {}, {"scale": value})
        found.append(point)
    return found
