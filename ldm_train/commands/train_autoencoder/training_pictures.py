"""The pictures that an autoencoder is trained on: which of a source's can be used, and which are held out."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import torch

from ldm_train.data.batches.holding_out import choose_held_out
from ldm_train.data.pictures.decoding import MAX_PIXELS
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.data.scan.source_review import group_problems, judge_unread
from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.items import Item, accept_without_caption
from ldm_train.data.sources.source import Source
from ldm_train.util.messages import Caution, note_all, warn


def select_usable(
    items: Iterable[Item], *, most_unusable: float, pixels: PixelFormat | None = None
) -> tuple[list[Item], dict[str, str]]:
    """Return the items with readable picture headers, and their digests by key; print why the others are left out.

    Args:
        most_unusable: share of the pictures from which on unusable ones are an error; 1 accepts everything.
        pixels: the format of values that are read as they are stored; None for 8-bit RGB.

    Raises:
        ValueError: too many pictures, or all, cannot be used.
    """
    all_items = [accept_without_caption(item) for item in items]
    survey = survey_items(all_items, max_pixels=MAX_PIXELS, pixels=pixels)
    problem = unread = None
    if isinstance(items, Source):
        note_all([*items.notes, *map(Caution, items.warnings)])
        problem, unread = judge_unread(
            items.unread, usable=len(survey.scanned), unusable=survey.num_unusable, most=most_unusable
        )
    for line in group_problems(survey.problems):
        print(f"left out {line}")
    if unread:
        warn(unread)
    if problem or not survey.scanned:
        listed = islice(group_problems(survey.problems), 10)
        raise ValueError("\n  ".join([problem or "nothing in the source can be used:", *listed]))
    usable = [item for item in all_items if item.key not in survey.problems]
    return usable, {scanned.item.key: scanned.digest for scanned in survey.scanned}


def hold_out_share(items: Sequence[Item], digests: Mapping[str, str], share: float | None) -> list[Item]:
    """Return the items, of which a share is held out if the source holds out none; their bytes decide which."""
    if share == 0 or any(item.held_out for item in items):
        return list(items)
    chosen = choose_held_out(torch.tensor([int(digests[item.key][:8], 16) for item in items]), share).tolist()
    if not any(chosen):
        warn(
            f"none of {len(items):,} pictures is held out with held_out={'null' if share is None else f'{share:g}'}: "
            "reconstructions are measured on pictures that are trained on; set a higher held_out, or name held-out pictures "
            "in the source"
        )
    return [replace(item, held_out=held_out) for item, held_out in zip(items, chosen, strict=True)]


def describe_pictures(items: Sequence[Item], digests: Mapping[str, str]) -> str:
    """Return a description of the training pictures: their number, and a checksum of their bytes in order."""
    lines = "".join(f"{digests[item.key]} {item.held_out}\n" for item in items)
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    return f"{len(items)} pictures ({sum(item.held_out for item in items)} held out) with the checksum {checksum}"
