"""Build the PNG texts of a drawn picture; without time or machine, so that the same picture gives the same file."""

import json
from pathlib import Path

from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.settings.schema.using import SampleSettings

SETTINGS = (
    *("sampler", "spacing", "guidance", "steps", "seed", "negative_prompt"),
    *("picture", "strength", "mask", "paste_original", "mask_edge"),
)

OPTIONAL = ("upscaler", "noise_level", "tile", "adapters", "embeddings")  # only if they are set
UNSEEN = ("out", "batch_size", "device", "debug", "attention")  # settings that no picture depends on


def build_png_texts(
    settings: SampleSettings, trained: TrainedRun, prompt: str, number: int, **more: object
) -> dict[str, str]:
    """Return `parameters`, which web UIs for Stable Diffusion read, and `ldm_train`, all settings as JSON.

    Args:
        settings: the settings that the picture was drawn with, including what they leave to the run.
        number: the noise number; the seed and the number decide the noise.
        more: further metadata, such as that of an interpolation.
    """
    metadata = collect_metadata(settings, trained) | {"prompt": prompt, "number": number} | more
    return {"parameters": format_parameters(metadata), "ldm_train": json.dumps(metadata, ensure_ascii=False)}


def build_overview_texts(settings: SampleSettings, prompts: list[str]) -> dict[str, str]:
    """Return the texts of a file that shows several pictures: the settings of the command and its prompts, as JSON."""
    plain = settings.as_plain()
    metadata = {name: value for name, value in plain.items() if name not in UNSEEN}
    return {"ldm_train": json.dumps(metadata | {"prompts": prompts}, ensure_ascii=False)}


def collect_metadata(settings: SampleSettings, trained: TrainedRun) -> dict[str, object]:
    """Return plain values of everything that decides a picture, without prompt and number."""
    plain = settings.as_plain()
    size = trained.generation.size
    optional = {name: plain[name] for name in OPTIONAL if plain[name] is not None}
    if plain["control_scale"] != 1:
        optional["control_scale"] = plain["control_scale"]
    return (
        {name: plain[name] for name in SETTINGS}
        | optional
        | {
            "size": [size, size] if isinstance(size, int) else list(size),
            "run_dir": plain["run_dir"],
            "weights": str(plain["weights"]),
            "step": trained.step,
            "conditions": {**plain["number"], **plain["map"]},
        }
    )


def format_parameters(metadata: dict[str, object]) -> str:
    """Return the prompt, the negative prompt and a line of settings, in the form that web UIs use."""
    sampler, spacing, guidance, size = (metadata[name] for name in ("sampler", "spacing", "guidance", "size"))
    assert isinstance(sampler, dict)
    assert isinstance(spacing, dict)
    assert isinstance(guidance, dict)
    assert isinstance(size, list)
    line = {
        "Steps": metadata["steps"],
        "Sampler": get_target_name(sampler),
        "Schedule type": get_target_name(spacing),
        "CFG scale": guidance["scale"],
        "Seed": metadata["seed"],
        "Size": f"{size[1]}x{size[0]}",
        "Model": Path(str(metadata["run_dir"])).name,
        "Model step": metadata["step"],
        "Weights": Path(str(metadata["weights"])).name,
        "Number": metadata["number"],
    }
    if metadata["picture"] is not None:
        line["Denoising strength"] = metadata["strength"]
    lines = [" ".join(str(metadata["prompt"]).split())]
    if metadata["negative_prompt"]:
        lines.append(f"Negative prompt: {metadata['negative_prompt']}")
    return "\n".join([*lines, ", ".join(f"{name}: {value}" for name, value in line.items())])


def get_target_name(part: dict[str, object]) -> str:
    """Return the class name of a part's plain settings."""
    return str(part["_target_"]).rpartition(".")[2]
