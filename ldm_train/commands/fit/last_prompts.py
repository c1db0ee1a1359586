"""Choose what the last pictures show: captions that were trained, or the user's own prompts."""

import json
from pathlib import Path

from ldm_train.assembly.prompt_options import Prompt
from ldm_train.assembly.prompts import parse_prompts
from ldm_train.commands.fit.choosing import DRAWN
from ldm_train.commands.fit.picture_facts import choose_sample
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.data.scan.survey import Survey
from ldm_train.util.files import atomic_write


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


def write_prompts(given: object, survey: Survey, share: float | None, path: Path) -> list[tuple[str, Scanned | None]]:
    """Write the prompts of the last pictures, and return them, each with the picture that it was trained with.

    Args:
        given: the user's own prompts, or a file of them; None for captions that were trained.
    """
    if given is None:
        trained = choose_trained(survey, share)
        prompts = [Prompt(caption, "a caption") for caption, _ in trained]
        seen: list[Scanned | None] = [one for _, one in trained]
    else:
        prompts = parse_prompts(given)
        seen = [None] * len(prompts)
    atomic_write(path, json.dumps([prompt.as_mapping() for prompt in prompts], indent=1, ensure_ascii=False) + "\n")
    return [(str(prompt), one) for prompt, one in zip(prompts, seen, strict=True)]
