"""The ordinary commands of which a fit consists, from the values that were chosen."""

import shlex
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from ldm_train.commands.fit.choosing import BASE_LR, Values
from ldm_train.settings.composition import compose
from ldm_train.settings.config_file import shortest_words, text
from ldm_train.settings.run_options import read_run_config
from ldm_train.settings.schema.options import CommandSettings, Part
from ldm_train.settings.schema.using import FitSettings
from ldm_train.settings.shipped import groups, shipped
from ldm_train.util.safe_json import Json, read_object
from ldm_train.weights.fingerprint import SHIPPED

ENCODED = ("image_size", "crop", "background", "autoencoder", "text_encoder")  # settings of `encode`
PASSED_ON = ("max_pixels", "max_unusable", "dtype", "scale_check")  # of a fit's own settings
OF_BASE = ("network", "schedule", "prediction", "autoencoder", "text_encoder")  # groups
PUBLISHED: Values = {  # a Stable Diffusion
    "lr_schedule": "constant",
    "image_size": 512,
    "batch_size": 8,
    "micro_batch_size": "auto",
    "optimizer.lr": 1e-5,
    "guidance.scale": 7.5,
    "network.gradient_checkpointing": True,
}


def list_words(values: Mapping[str, Json]) -> list[str]:
    """Return values as words of a command line."""
    return [f"{name}={value if isinstance(value, str) else text(value)}" for name, value in values.items()]


def describe_part(group: str, part: Part | Mapping[str, object]) -> Values:
    """Return a group's option, and the settings that differ from it."""
    plain = part.as_plain() if isinstance(part, Part) else part
    words = [shlex.split(word)[0] for word in shortest_words(group, plain)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def list_shipped() -> list[str]:
    """Return the options of autoencoders whose weights are in the package."""
    return [
        name for name in groups()["autoencoder"] if (SHIPPED / str(shipped(f"autoencoder/{name}").get("weights"))).is_dir()
    ]


def read_base(base: str) -> Values:
    """Return what fine-tuning takes from a base: a run's parts and side, or those of a Stable Diffusion."""
    config = read_run_config(base)
    values: Values = {}
    for group in OF_BASE:
        if isinstance(node := config.get(group), dict):
            values |= describe_part(group, node)
    if not values:
        return {**describe_published(base), **PUBLISHED}
    side = config.get("image_size")
    assert isinstance(side, int | None)
    return {**values, "network.weights": base, **({"image_size": side} if side else {}), "optimizer.lr": BASE_LR}


def describe_published(base: str) -> Values:
    """Return the parts of a Stable Diffusion: 2.x if its network takes that text encoder's width, else 1.x.

    Raises:
        ValueError: its network draws from more than captions.
    """
    found = {name: read_part_config(Path(base), *name) for name in (("unet", "config"), ("scheduler", "scheduler_config"))}
    refuse_conditioned(base, found["unet", "config"])
    width, prediction = found["unet", "config"].get("cross_attention_dim"), found["scheduler", "scheduler_config"]
    number, encoder = ("2", "clip_vit_h_14") if width == 1024 else ("1", "clip_vit_l_14")
    values: Values = {"network": f"stable_diffusion_{number}", "network.weights": base}
    values |= {"prediction": "velocity" if prediction.get("prediction_type") == "v_prediction" else "noise"}
    values |= {"autoencoder": "pretrained", "autoencoder.weights": base, "text_encoder": encoder}
    return values | ({"text_encoder.weights": base} if (Path(base) / "text_encoder").is_dir() else {})


def refuse_conditioned(base: str, unet: Mapping[str, Json]) -> None:
    """Raise if a network has more input channels than noisy latents.

    Raises:
        ValueError: it has; it says how such a network is trained further.
    """
    from ldm_train.assembly.pipeline_layouts import find_layout_of_channels  # imports torch, and a fit answers at once

    inputs, outputs = (unet.get(name, 4) for name in ("in_channels", "out_channels"))
    if isinstance(inputs, int) and isinstance(outputs, int) and inputs > outputs:
        layout = find_layout_of_channels(inputs - outputs)
        mend = "" if layout is None else f"; `encode` and `train` with conditions=[{layout.option}] train it further"
        raise ValueError(
            f"base={base} draws from more than captions (its network has {inputs} input channels, {outputs} of them for "
            f"noisy latents), and a fit has captions only: choose a base that draws from them{mend}"
        )


def read_part_config(base: Path, part: str, name: str) -> dict[str, Json]:
    """Return the config of a part of a pipeline; nothing if there is none to be read."""
    try:
        return read_object(base / part / f"{name}.json")
    except (OSError, ValueError):
        return {}


def name_source(settings: FitSettings) -> list[str]:
    """Return the words that name the source, and how it is read."""
    defaults = type(settings).model_fields
    changed: Values = {n: v for n in PASSED_ON if (v := getattr(settings, n)) != defaults[n].default}
    return list_words({**describe_part("source", settings.source), **changed})


def name_run(settings: FitSettings) -> Values:
    """Return the settings of every command that trains."""
    values: Values = {"seed": settings.seed}
    return values if settings.threads is None else values | {"threads": settings.threads}


def check_words(settings: FitSettings, values: Values, out: Path) -> list[str]:
    more = {**name_run(settings), "strict": settings.strict}
    return ["check", *name_source(settings), *list_words({**values, **more}), f"out={out}"]


def encode_words(settings: FitSettings, values: Values, cache: Path) -> list[str]:
    encoded = {n: value for n, value in values.items() if is_encoded(n)}
    return ["encode", *name_source(settings), *list_words({"text_encoder": "small", **encoded}), f"cache={cache}"]


def adapt_words(settings: FitSettings, values: Values, steps: int, run_dir: Path) -> list[str]:
    """Return the command that trains the chosen autoencoder further."""
    name = shipped(f"autoencoder/{values['autoencoder']}").get("weights")
    chosen: Values = {"autoencoder.weights": str(name), "image_size": values["image_size"], "max_steps": steps}
    chosen |= name_run(settings) | ({"held_out": values["held_out"]} if "held_out" in values else {})
    return ["train_autoencoder", *name_source(settings), *list_words(chosen), f"run_dir={run_dir}"]


def train_config(settings: FitSettings, values: Values, cache: Path, run_dir: Path) -> CommandSettings:
    """Return the settings of the training."""
    trained = {n: value for n, value in values.items() if not is_encoded(n) or n == "image_size"}
    words = list_words({**trained, **name_run(settings)})
    return compose("train", [f"cache={cache}", f"run_dir={run_dir}", *words])


def train_words(config: Path, *, most_seconds: float, restart: bool = False) -> list[str]:
    days, rest = divmod(round(most_seconds), 86400)
    longest = f"{f'{days}-' * (days > 0)}{str(timedelta(seconds=rest)).zfill(8)}"
    return ["train", f"config={config}", f"max_time={longest}", *(["resume=restart"] if restart else [])]


def sample_words(run_dir: Path, prompts: Path, out: Path) -> list[str]:
    return ["sample", f"run_dir={run_dir}", f"prompts={prompts}", "labels=true", f"out={out}"]


def evaluate_words(run_dir: Path) -> list[str]:
    return ["evaluate", f"run_dir={run_dir}", f"out={run_dir / 'metrics.json'}"]


def report_words(run_dir: Path, out: Path) -> list[str]:
    return ["report", f"run_dir={run_dir}", f"out={out}"]


def is_encoded(name: str) -> bool:
    """Return whether a setting is one of `encode`."""
    return name.lstrip("+").partition(".")[0] in ENCODED
