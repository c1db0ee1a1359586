"""Draw pictures on the way from one prompt to another, and from one noise to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm_train.assembly.drawing import StartPicture, build_run_recipe, read_start, set_size
from ldm_train.assembly.given_conditions import read_given
from ldm_train.assembly.png_text import build_png_texts
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run
from ldm_train.data.pictures.images import to_bytes
from ldm_train.samplers.base import StepCallback
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.types import Given


@dataclass(frozen=True)
class StripPicture:
    """A picture on the way: its name, uint8 (3, H, W), its values (C, H, W) in [-1, 1], and the texts of its PNG file."""

    name: str
    image: Tensor
    values: Tensor
    png_texts: dict[str, str]


@dataclass(frozen=True)
class Interpolated:
    """Pictures on the way from one prompt and seed to another, the command line that draws them, and messages."""

    pictures: list[StripPicture]
    command: str
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strip:
    """What all pictures of a strip share.

    Args:
        settings: complete.
        start: what drawing starts from.
        given: what the pictures are conditioned on besides the prompts.
    """

    settings: SampleSettings
    trained: TrainedRun
    start: StartPicture
    given: Mapping[str, Given]


def prepare_strip(settings: SampleSettings, trained: TrainedRun, prompts: Sequence[str]) -> Strip:
    """Return what the pictures between prompts share, after trying it.

    Raises:
        ValueError: they cannot be drawn so.
    """
    settings, trained = fill_from_run(settings, trained.config), set_size(trained, settings)
    trained.generation.check([*prompts], build_run_recipe(settings))
    return Strip(settings, trained, read_start(settings, trained.generation), read_given(settings, trained.generation))


def draw_between(
    strip: Strip,
    pair: tuple[str, str],
    seeds: tuple[int, int],
    shares: Tensor,
    *,
    callback: StepCallback | None = None,
) -> Sequence[StripPicture]:
    """Draw the pictures at shares (B,) of the way from one prompt and seed to the other, together.

    Args:
        callback: called after each step of the sampler.

    Raises:
        ValueError: a picture is not finite.
    """
    settings, generation, number = strip.settings, strip.trained.generation, strip.settings.first_number
    images = strip.start.paste(
        generation.interpolate(
            pair,
            build_run_recipe(settings),
            shares,
            seeds=seeds,
            number=number,
            blend=settings.blend,
            picture=strip.start.initial,
            callback=callback,
            given=strip.given,
        )
    )
    names = [f"{pair[0]} - {share:.0%} - {pair[1]}" for share in shares.tolist()]
    generation.require_finite(images, names, [number] * len(names), seed=seeds[0])
    ends = {"from": pair[0], "to": pair[1]}
    more = [ends | {"share": share, "seeds": list(seeds), "blend": settings.blend} for share in shares.tolist()]
    return [
        StripPicture(name, shown, values, build_png_texts(settings, strip.trained, name, number, interpolation=metadata))
        for name, shown, values, metadata in zip(names, to_bytes(images).cpu(), images.float().cpu(), more, strict=True)
    ]
