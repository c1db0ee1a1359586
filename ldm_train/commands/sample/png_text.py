"""What a drawn picture tells of itself, as texts in its PNG file: without clock or machine, so that it comes out again."""

import json
from pathlib import Path

from ldm_train.assembly.stored_run import TrainedRun, fill_from_run
from ldm_train.settings.schema.using import SampleSettings

SETTINGS = ("sampler", "spacing", "guidance", "steps", "seed", "negative_prompt", "picture", "strength", "mask")


def texts(config: SampleSettings, trained: TrainedRun, prompt: str, number: int, **more: object) -> dict[str, str]:
    """By keyword: `parameters`, which web interfaces for Stable Diffusion read, and `ldm_train`, all settings as JSON.

    Args:
        config: what it was drawn by, with the run's own spacing.
        number: which with the seed fixes the noise.
        more: further settings, of an interpolation.
    """
    told = settings(config, trained) | {"prompt": prompt, "number": number} | more
    return {"parameters": parameters(told), "ldm_train": json.dumps(told, ensure_ascii=False)}


def of_all(config: SampleSettings, prompts: list[str]) -> dict[str, str]:
    """The same for a picture of several: the command's settings with its prompts, as JSON."""
    plain = config.as_plain()
    told = {name: value for name, value in plain.items() if name not in ("out", "batch_size", "device", "debug")}
    return {"ldm_train": json.dumps(told | {"prompts": prompts}, ensure_ascii=False)}


def settings(config: SampleSettings, trained: TrainedRun) -> dict[str, object]:
    """All that decides what is drawn but prompt and number, in plain values."""
    plain = fill_from_run(config, trained.config).as_plain()
    size = trained.generation.size
    return {name: plain[name] for name in SETTINGS} | {
        "size": [size, size] if isinstance(size, int) else list(size),
        "run_dir": plain["run_dir"],
        "weights": str(plain["weights"]),
        "step": trained.step,
    }


def parameters(told: dict[str, object]) -> str:
    """The prompt, what is led away from, and a line of settings, in the form and by the names that are common."""
    sampler, spacing, guidance, size = told["sampler"], told["spacing"], told["guidance"], told["size"]
    assert isinstance(sampler, dict)
    assert isinstance(spacing, dict)
    assert isinstance(guidance, dict)
    assert isinstance(size, list)
    line = {
        "Steps": told["steps"],
        "Sampler": class_name(sampler),
        "Schedule type": class_name(spacing),
        "CFG scale": guidance["scale"],
        "Seed": told["seed"],
        "Size": f"{size[1]}x{size[0]}",
        "Model": Path(str(told["run_dir"])).name,
        "Model step": told["step"],
        "Weights": Path(str(told["weights"])).name,
        "Number": told["number"],
    }
    if told["picture"] is not None:
        line["Denoising strength"] = told["strength"]
    lines = [" ".join(str(told["prompt"]).split())]
    if told["negative_prompt"]:
        lines.append(f"Negative prompt: {told['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in line.items())])


def class_name(settings: dict[str, object]) -> str:
    return str(settings["_target_"]).rpartition(".")[2]
