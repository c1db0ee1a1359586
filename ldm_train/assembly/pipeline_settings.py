"""Read a pipeline's folder in diffusers' layout as the settings of a run that draws as the pipeline does."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldm_train.assembly.pipeline_layouts import UPSCALE, UPSCALER_SCALE, PipelineLayout, find_layout_of_channels
from ldm_train.assembly.published_scheduler import PREDICTIONS, read_scheduler
from ldm_train.run_dir.record import CONFIG
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.safe_json import Json, read_object
from ldm_train.weights.layouts.unet_architecture import UNetSettings, describe_unet, infer_unet_settings, read_unet_config
from ldm_train.weights.part_folders import read_part_config
from ldm_train.weights.published_parts import ACCEPTED_CLASSES, find_unet

INDEX = "model_index.json"
SHAPE = ("channels", "blocks", "attention", "middle_attention", "only_cross_attention", "expansion", "scale_shift")
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
DEFAULT_PADDING = 49407  # of transformers' tokenizer, the end token
SPACINGS = ("leading", "trailing", "linspace")
GUIDANCE = 7.5  # the default of Stable Diffusion's pipelines
UPSCALER_GUIDANCE, UPSCALER_LEVEL, MAX_LEVEL = 9.0, 20, 350  # the defaults of the one that enlarges pictures
Values = dict[str, Json]


def is_pipeline(path: Path) -> bool:
    """Return whether a folder is a pipeline in diffusers' layout, and no run."""
    return (path / INDEX).is_file() and not (path / CONFIG).is_file()


def read_pipeline(path: str) -> TrainSettings:
    """Return the settings of a run with the parts of a pipeline.

    Raises:
        ValueError: a part is missing, or is none that a run can have.
    """
    folder = Path(path)
    try:
        values = {
            **describe_network(folder),
            **describe_scheduler(folder),
            **describe_autoencoder(folder),
            **describe_text_encoder(folder),
        }
    except ValueError as error:
        raise ValueError(f"run_dir={path} is a pipeline that cannot be drawn with here: {error}") from error
    run: Values = {"cache": None, "run_dir": path, "features": None, "guidance.scale": GUIDANCE}
    return compose_as(TrainSettings, [], {**run, **values})


def read_levels(folder: Path) -> int:
    """Return the number of levels of a pipeline's autoencoder.

    Raises:
        ValueError: its config is missing, or does not say.
    """
    levels = read_part_config(folder / "vae", ACCEPTED_CLASSES["vae"]).get("block_out_channels")
    if not isinstance(levels, list):
        raise ValueError("the config of its vae does not say how many levels it has (block_out_channels)")
    return len(levels)


def describe_network(folder: Path) -> Values:
    """Return the network, and the condition that fills its input channels.

    Raises:
        ValueError: a `UNet` cannot be it, or no condition fills its input.
    """
    found = find_unet(folder)
    there = infer_unet_settings(found.shapes)
    added = there.get("map_channels", 0)
    layout = find_layout_of_channels(added)
    if added and layout is None:
        raise ValueError(
            f"no condition fills its network's input, {describe_unet(there, found.shapes)} with {added} more; "
            "load its U-Net with network.weights=… and a condition of your own"
        )
    there |= read_unet_config(found.config or {})
    shape: Values = {f"network.{name}": there[name] for name in SHAPE if name in there}  # type: ignore[literal-required]
    chosen: Values = {"network": "stable_diffusion_1", "network.weights": str(folder), **describe_heads(there)}
    return {**chosen, **shape, **({} if layout is None else describe_condition(folder, layout))}


def describe_condition(folder: Path, layout: PipelineLayout) -> Values:
    """Return the condition of a pipeline, and what else goes with it.

    Raises:
        ValueError: the noise on small pictures has a schedule that the condition cannot have, or its config is damaged.
    """
    if layout is not UPSCALE:
        return {"conditions": [layout.option]}
    noise, levels = read_object(folder / "low_res_scheduler" / "scheduler_config.json"), read_levels(folder)
    kind, steps = noise.get("beta_schedule", "linear"), noise.get("num_train_timesteps", 1000)
    if kind != "scaled_linear" or steps != 1000 or noise.get("trained_betas"):
        raise ValueError(
            f"its low_res_scheduler has beta_schedule={kind} and num_train_timesteps={steps}; accepted are scaled_linear "
            "and 1000"
        )
    settings: Values = {
        "factor": 2 ** (levels - 1),
        "width": None,
        "max_noise_level": read_object(folder / INDEX).get("max_noise_level", MAX_LEVEL),
        "noise_level": UPSCALER_LEVEL,
        **{name: noise.get(name, default) for name, default in (("beta_start", 1e-4), ("beta_end", 0.02))},
    }
    more: Values = {"guidance.scale": UPSCALER_GUIDANCE, "autoencoder.scale": UPSCALER_SCALE}
    return {"conditions": [{layout.option: settings}], **more}


def describe_heads(there: UNetSettings) -> Values:
    """Return the setting of a network's attention heads: the same number at each level, or the same size.

    Raises:
        ValueError: they have neither.
    """
    heads, channels = [one for one in there["heads"] if one], there["channels"]
    sizes = {width // count for width, count in zip(channels, there["heads"], strict=True) if count}
    if len({*heads}) == 1:
        return {"network.heads": heads[0]}
    if len(sizes) == 1:
        return {"network.heads": None, "network.head_size": sizes.pop()}
    raise ValueError(f"its network has {there['heads']} attention heads at its levels, which differ in number and size")


def describe_scheduler(folder: Path) -> Values:
    """Return the noise schedule, what the network predicts, and the spacing of the sampler's steps.

    Raises:
        ValueError: there is no scheduler, or one of another kind.
    """
    scheduler = read_scheduler(folder / "unet")
    if scheduler is None:
        raise ValueError(f"{folder} has no scheduler/scheduler_config.json")
    kind, spacing = scheduler.get("prediction_type", "epsilon"), scheduler.get("timestep_spacing", "leading")
    if kind not in PREDICTIONS or spacing not in SPACINGS:
        raise ValueError(
            f"its scheduler has prediction_type={kind} and timestep_spacing={spacing}; accepted are "
            f"{', '.join(PREDICTIONS)} and {', '.join(SPACINGS)}"
        )
    offset: Values = {"spacing.offset": 1} if spacing == "leading" else {}  # as its pipelines set it, whatever the file has
    return {"prediction": PREDICTIONS[kind], "spacing": spacing, **offset, **describe_noise(scheduler)}


def describe_noise(scheduler: Mapping[str, Any]) -> Values:
    """Return the noise schedule of a scheduler.

    Raises:
        ValueError: it has one of an unknown name.
    """
    zero: Values = {"schedule.zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr", False))}
    if betas := scheduler.get("trained_betas"):
        return {"schedule": "betas", "schedule.betas": list(betas), **zero}
    kind = str(scheduler.get("beta_schedule", "linear"))
    if kind not in SCHEDULES:
        raise ValueError(f"its scheduler has beta_schedule={kind}; accepted: {', '.join(SCHEDULES)}")
    ends: Values = {name: scheduler.get(name, default) for name, default in (("beta_start", 1e-4), ("beta_end", 0.02))}
    betas = {} if kind == "squaredcos_cap_v2" else {f"schedule.{name}": value for name, value in ends.items()}
    steps = scheduler.get("num_train_timesteps", 1000)
    return {"schedule": SCHEDULES[kind], "schedule.num_steps": steps, **betas, **zero}


def describe_autoencoder(folder: Path) -> Values:
    """Return the autoencoder, and the side of pictures for which the network was made.

    Raises:
        ValueError: a config is missing or damaged.
    """
    side, levels = read_part_config(folder / "unet", ACCEPTED_CLASSES["unet"]).get("sample_size"), read_levels(folder)
    if not isinstance(side, int):
        raise ValueError("the config of its unet does not say for which size of pictures it is (sample_size)")
    return {
        "autoencoder": "pretrained",
        "autoencoder.weights": str(folder),
        "image_size": side * 2 ** (levels - 1),
    }


def describe_text_encoder(folder: Path) -> Values:
    """Return the text encoder, and the token that captions are padded with.

    Raises:
        ValueError: open_clip has none of its sizes.
    """
    from ldm_train.conditioners.clip_tower import find_text_model, read_pad_token  # open_clip takes seconds to import

    config, pad_token = read_part_config(folder / "text_encoder", ACCEPTED_CLASSES["text_encoder"]), read_pad_token(folder)
    model, layer = find_text_model(config)
    return {
        "text_encoder": "clip_vit_l_14",
        "text_encoder.model": model,
        "text_encoder.weights": str(folder),
        "text_encoder.pad_token": DEFAULT_PADDING if pad_token is None else pad_token,
        "text_encoder.layer": layer,
    }
