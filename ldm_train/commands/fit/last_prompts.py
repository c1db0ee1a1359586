"""Choose what the last pictures show: captions that were trained, or the user's own prompts."""

from collections.abc import Sequence
from pathlib import Path

from ldm_train.commands.fit.choosing import DRAWN
from ldm_train.commands.fit.picture_facts import choose_sample
from ldm_train.data.scan.survey import Scanned, Survey
from ldm_train.util.files import atomic_write
from ldm_train.util.inputs import MAX_PROMPTS, read_user_text


def choose_trained(survey: Survey, share: float | None) -> list[tuple[str, Scanned]]:
    """Return different captions of trained pictures, each with its picture.

    Args:
        share: of the pictures that training holds out; None if the source names them.
    """
    trained = [
        seen
        for seen in survey.scanned
        if seen.item.captions and not (seen.item.held_out if share is None else is_held_out(seen.digest, share))
    ]
    found: dict[str, Scanned] = {}
    for seen in choose_sample(trained, len(trained)):
        found.setdefault(" ".join(seen.item.captions[0].split()), seen)
    return [(caption, seen) for caption, seen in found.items() if caption][:DRAWN]


def is_held_out(digest: str, share: float) -> bool:
    """Return whether training holds out a picture, as `data/batches/holding_out.py` decides it, which needs torch."""
    return int(digest[:8], 16) / 2**32 < share


def write_prompts(
    given: Sequence[str] | str | None, survey: Survey, share: float | None, path: Path
) -> list[tuple[str, Scanned | None]]:
    """Write the prompts of the last pictures, one a line, and return them, each with the picture that it was trained with.

    Args:
        given: the user's own prompts, or a file of them; None for captions that were trained.
    """
    if given is None:
        prompts: list[tuple[str, Scanned | None]] = [*choose_trained(survey, share)]
    else:
        texts = [given] if isinstance(given, str) else list(given)
        if isinstance(given, str) and Path(given).is_file():
            texts = read_user_text(Path(given), limit=MAX_PROMPTS).splitlines()
        prompts = [(" ".join(text.split()), None) for text in texts if text.strip()]
    atomic_write(path, "".join(f"{text}\n" for text, _ in prompts))
    return prompts
