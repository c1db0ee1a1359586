"""Recognise pictures that a trainer left in a folder: masks next to the pictures, and samples drawn during training."""

import os
import posixpath
from collections.abc import Sequence

from ldm_train.data.sources.items import compose_accents, format_name

MASK_ENDINGS = ("-masklabel", "-condlabel")  # OneTrainer's, for the picture of the name before it
MASK_FOLDERS = {"mask", "masks"}  # kohya's and SimpleTuner's, with the pictures' names
SAMPLE_FOLDERS = {"sample", "samples"}


def find_leftovers(pictures: Sequence[str]) -> frozenset[str]:
    """Return the paths that are likely masks or samples; none if this would be all of them."""
    stems = {_read_stem(key) for key in pictures if not _folders(key) & MASK_FOLDERS}
    leftovers = frozenset(key for key in pictures if _is_mask(key, stems) or _folders(key) & SAMPLE_FOLDERS)
    return leftovers if len(leftovers) < len(pictures) else frozenset()


def describe_leftovers(keys: Sequence[str]) -> str:
    """Return a message about leftovers without a caption."""
    names = ", ".join(format_name(key) for key in keys[:3]) + (", …" if len(keys) > 3 else "")
    return (
        f"left out: {len(keys):,} masks or samples of a trainer without a caption, probably not training pictures ({names})"
    )


def _is_mask(key: str, stems: set[str]) -> bool:
    stem = _read_stem(key)
    if _folders(key) & MASK_FOLDERS:
        return stem in stems
    return stem.endswith(MASK_ENDINGS) and stem.rpartition("-")[0] in stems


def _folders(key: str) -> set[str]:
    return {*posixpath.dirname(key.lower()).split("/")}


def _read_stem(key: str) -> str:
    return os.path.splitext(posixpath.basename(compose_accents(key)))[0]
