"""The config's source, looked at: what encoding, training without a cache, and `check` begin with."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.progress import MofNCompleteColumn, Progress

from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.scan.survey import ScanMemory, Survey, survey_items
from ldm_train.data.sources.items import format_name
from ldm_train.settings.composition import build


def look(config: DictConfig, *, memory: ScanMemory | None = None, spool: Path | None = None) -> Survey:
    """Read every picture of the source, and tell what was detected; a text encoder of labels is given them.

    Raises:
        ValueError: nothing in the source can be used.
    """
    source = build(config.source, "source")
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("reading the source", total=None)
        found = survey_items(
            source, max_pixels=config.max_pixels, memory=memory, spool=spool, progress=lambda: progress.advance(task)
        )
        progress.update(task, total=len(found.scanned) + len(found.problems))
    for note in source.notes:
        print(note)
    if not found.scanned:
        listed = "\n".join(f"  {format_name(key)}: {problem}" for key, problem in list(found.problems.items())[:10])
        raise ValueError(f"nothing in the source can be used:\n{listed}")
    name_classes(config.text_encoder, sorted({text for seen in found.scanned for text in seen.item.captions}))
    return found


def refuse_settings(config: DictConfig) -> None:
    """Refuse what every picture would stumble over, before the first."""
    background_colour(config.background)


def name_classes(config: DictConfig, captions: list[str]) -> None:
    """Where captions are labels, and the config names no classes: those of the source."""
    if "classes" in config and config.classes is None:
        config.classes = captions
        print(f"{len(captions)} classes: {', '.join(captions[:20])}{', …' if len(captions) > 20 else ''}")


def refuse_shapes(shapes: Sequence[tuple[int, int]], divisor: int) -> None:
    """Refuse pictures whose sides the autoencoder, or the network after it, cannot divide."""
    wrong = [shape for shape in shapes if any(side % divisor for side in shape)]
    if wrong:
        raise ValueError(
            f"image_size and crop make pictures of {wrong[0][0]}x{wrong[0][1]} pixels; their sides must be multiples of "
            f"{divisor} here (of the autoencoder's factor, and in training of the network's)"
        )
