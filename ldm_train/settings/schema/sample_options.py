"""Settings of `ldm-train sample` that belong together: the axes of a plot, and what enlarges pictures."""

from typing import Literal

from ldm_train.settings.schema.kinds import Count, FilePath, Finite, Section, Text, WholeNumber, setting
from ldm_train.settings.schema.options import CommandSettings


class AxisSettings(Section):
    """What varies along an axis of an X/Y plot: one of these. Every cell has the same noise unless seed varies."""

    guidance: list[Finite] | None = setting(None, "[1,1.5,2], of guidance.scale")
    steps: list[Count] | None = setting(None, "[10,20]")
    sampler: list[Text] | None = setting(None, "[ddim,heun]")
    checkpoint: list[FilePath] | None = setting(None, "[ema,raw,RUN_DIR,FILE.safetensors]")
    prompt: Literal[True] | None = setting(None, "true: the prompts")
    seed: list[WholeNumber] | None = setting(None, "[0,1,2]")


class EnlargingSettings(CommandSettings):
    """What enlarges pictures."""

    upscaler: FilePath | None = setting(
        None, "a run with the condition low_resolution, or an upscaler's folder in diffusers' layout: enlarges what is drawn"
    )
    noise_level: WholeNumber | None = setting(
        None,
        "of a run that enlarges pictures: noise on the small one, 0: none; more noise lets it invent more; null: the run's",
    )
    tile: Count | None = setting(
        None,
        "side in pixels of overlapping tiles in which a larger picture is drawn; null: the whole at once, or of a run that "
        "enlarges pictures its image_size",
    )
