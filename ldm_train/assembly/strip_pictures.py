"""Draw pictures on the way from one prompt to another, and from one noise to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm_train.assembly.drawing import StartPicture, build_run_recipe
from ldm_train.assembly.png_text import build_png_texts
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.data.pictures.images import to_bytes
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.types import Given


@dataclass(frozen=True)
class StripPicture:
    """A picture on the way: its name, uint8 (3, H, W), and the texts of its PNG file."""

    name: str
    image: Tensor
    png_texts: dict[str, str]


def draw_between(
    settings: SampleSettings,
    trained: TrainedRun,
    pair: tuple[str, str],
    seeds: tuple[int, int],
    shares: Tensor,
    *,
    start: StartPicture,
    given: Mapping[str, Given],
) -> Sequence[StripPicture]:
    """Draw the pictures at shares (B,) of the way from one prompt and seed to the other, together.

    Args:
        settings: complete.
        start: what drawing starts from.
        given: what the pictures are conditioned on besides the prompts.

    Raises:
        ValueError: a picture is not finite.
    """
    generation, number = trained.generation, settings.first_number
    images = start.paste(
        generation.interpolate(
            pair,
            build_run_recipe(settings),
            shares,
            seeds=seeds,
            number=number,
            blend=settings.blend,
            picture=start.initial,
            given=given,
        )
    )
    names = [f"{pair[0]} - {share:.0%} - {pair[1]}" for share in shares.tolist()]
    generation.require_finite(images, names, [number] * len(names), seed=seeds[0])
    ends = {"from": pair[0], "to": pair[1]}
    more = [ends | {"share": share, "seeds": list(seeds), "blend": settings.blend} for share in shares.tolist()]
    return [
        StripPicture(name, image, build_png_texts(settings, trained, name, number, interpolation=metadata))
        for name, image, metadata in zip(names, to_bytes(images).cpu(), more, strict=True)
    ]
