"""List what may be chosen for the pictures of a run."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_train.assembly.drawing import build_run_recipe
from ldm_train.assembly.stored_run import TrainedRun
from ldm_train.assembly.word_attention import attends_to_words
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.number import Number
from ldm_train.settings.schema.kinds import MISSING
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.settings.shipped import groups, shipped_part


@dataclass(frozen=True)
class Choices:
    """What may be chosen.

    Attributes:
        samplers, spacings, guidances: options that can be used with the run's schedule and need no further setting.
        guidance: names of the settings of the present guidance, such as `scale`.
        size: (height, width) of the run's pictures, pixels.
        size_unit: what both must be multiples of.
        numbers: the lowest and the highest trained value of each number that the run is conditioned on.
        maps: names of the maps that it is conditioned on.
        takes_mask: whether it was trained to fill masks; a mask can be used with any other run too.
        attention: whether it attends to words.
        classes: the prompts that it accepts; empty if it reads texts.
    """

    samplers: list[str]
    spacings: list[str]
    guidances: list[str]
    guidance: list[str]
    size: tuple[int, int]
    size_unit: int
    numbers: dict[str, tuple[float, float] | None]
    maps: list[str]
    takes_mask: bool
    attention: bool
    classes: Sequence[str]


def list_choices(trained: TrainedRun, settings: SampleSettings) -> Choices:
    """Return what may be chosen for the pictures of a run.

    Args:
        settings: complete.
    """
    conditions, encoder = trained.generation.conditions.each, trained.parts.text_encoder
    assert settings.guidance is not None
    return Choices(
        samplers=list_usable("sampler", trained, settings),
        spacings=list_usable("spacing", trained, settings),
        guidances=list_usable("guidance", trained, settings),
        guidance=[*settings.guidance.arguments],
        size=trained.generation.sides,
        size_unit=trained.parts.divisor,
        numbers={
            one.name: (one.low, one.high) if isinstance(one, Number) else None for one in conditions if one.takes_number
        },
        maps=[one.name for one in conditions if one.takes_map],
        takes_mask=any(one.takes_mask for one in conditions),
        attention=attends_to_words(trained.parts.network, encoder),
        classes=encoder.classes if isinstance(encoder, ClassLabels) else (),
    )


def list_usable(group: str, trained: TrainedRun, settings: SampleSettings) -> list[str]:
    """Return the options of a group that can be used with a run's schedule and need no further setting."""
    found = []
    for option in groups()[group]:
        part = shipped_part(group, option)
        if MISSING in part.as_plain().values():
            continue
        try:
            trained.generation.check([], build_run_recipe(settings.with_values(**{group: part})))
        except ValueError:
            continue
        found.append(option)
    return found
