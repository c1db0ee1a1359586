"""Survey a source: the first step of encoding, of training without a cache, and of `check`."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress

from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.pictures.crops import format_size
from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.data.scan.inspection import Decoder
from ldm_train.data.scan.scanned_pictures import ScannedCaptions
from ldm_train.data.scan.source_review import group_problems, judge_labels, judge_unread, review_captions
from ldm_train.data.scan.survey import ScanMemory, Survey, survey_items
from ldm_train.settings.composition import build
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import SourceSettings
from ldm_train.util.messages import note, warn

UNCONDITIONAL = "ldm_train.conditioners.unconditional.Unconditional"


def survey_source(
    config: SourceSettings,
    *,
    captioned: bool = True,
    memory: ScanMemory | None = None,
    spool: Path | None = None,
    specs: Sequence[MapSpec] = (),
) -> Survey:
    """Read every picture of the source, and print what was detected, with examples of captions.

    Args:
        captioned: whether pictures need a caption.
        memory, spool: as in `survey_items`.
        specs: the maps that every picture must have.

    Raises:
        ValueError: nothing in the source can be used, or too little.
    """
    assert config.source is not None
    pixels = read_pixel_format(config.pixels)
    source = build(config.source, "source")
    source.needs_captions = captioned
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("reading the source", total=None)
        found = survey_items(
            source,
            max_pixels=config.max_pixels,
            maps=[spec.name for spec in specs],
            memory=memory,
            spool=spool,
            pixels=pixels,
            progress=lambda: progress.advance(task),
        )
        progress.update(task, total=len(found.scanned) + len(found.problems))
    decoder = Decoder("white", config.max_pixels, pixels=pixels)
    captions, item_of = ScannedCaptions(found.scanned), found.scanned.item
    examples, odd = review_captions(captions, item_of, lambda item: item.picture is None or decoder(item).problem is None)
    usable = len(found.scanned)
    problem, unread = judge_unread(source.unread, usable=usable, unusable=found.num_unusable, most=config.max_unusable)
    for line in [*source.notes, *describe_unused_maps(source.maps, specs), *examples]:
        note(line)
    for line in [*source.warnings, *odd, *([unread] if unread else [])]:
        warn(line)
    if not found.scanned and not found.problems:
        assert config.source is not None
        raise ValueError(f"the source yields no picture (source._target_={config.source.target})")
    if not found.scanned:
        listed = "\n".join(f"  {line}" for line in islice(group_problems(found.problems), 10))
        raise ValueError(f"nothing in the source can be used:\n{listed}")
    if labels := judge_labels(captions, item_of):
        raise ValueError(labels)
    if problem:
        raise ValueError("\n  ".join([problem, *islice(group_problems(found.problems), 10)]))
    return found


def reads_captions(text_encoder: Part | None) -> bool:
    """Return whether a text encoder reads captions."""
    return text_encoder is None or text_encoder.target != UNCONDITIONAL


def describe_unused_maps(maps: Iterable[str], specs: Sequence[MapSpec]) -> list[str]:
    """Return a note about each map of the source that is not read, since no condition needs it."""
    needed = {spec.name for spec in specs}
    return [
        f"source.maps: {name} is not read; conditions=[{{map:{{name:{name}}}}}] conditions on it"
        for name in maps
        if name not in needed
    ]


def check_background(config: SourceSettings) -> None:
    """Raise if the background is no colour, before the first picture is decoded."""
    background_colour(config.background)


def list_labels(found: Survey) -> list[str]:
    """Return all captions of a source, each once."""
    texts = found.scanned.texts
    return sorted({texts[place] for place in range(1, len(texts))})


def name_classes(text_encoder: Part, list_classes: Callable[[], Sequence[str]]) -> Part:
    """Return a text encoder of labels with the labels of the source as its classes, if it names none itself."""
    if "classes" not in text_encoder.arguments or text_encoder.get("classes") is not None:
        return text_encoder
    labels = list_classes()
    note(f"{len(labels)} classes: {', '.join(labels[:20])}{', …' if len(labels) > 20 else ''}")
    return text_encoder.with_values(classes=list(labels))


def refuse_shapes(shapes: Sequence[tuple[int, int]], divisor: int) -> None:
    """Raise if the sides of pictures are not multiples of what the autoencoder and the network need."""
    wrong = [shape for shape in shapes if any(side % divisor for side in shape)]
    if wrong:
        raise ValueError(
            f"image_size and crop make pictures of {format_size(wrong[0])} pixels; their sides must be multiples of "
            f"{divisor} here (of the autoencoder's factor, and in training of the network's)"
        )
