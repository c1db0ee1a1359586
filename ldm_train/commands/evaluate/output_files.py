"""Check the files that an evaluation writes next to `out`: a file is overwritten only if an evaluation wrote it."""

import json
from pathlib import Path

from ldm_train.commands.evaluate.drawn_pictures import DRAWN_PICTURES, locate_pictures
from ldm_train.data.pictures.images import read_png_texts
from ldm_train.util.ownership import check_file, check_folder
from ldm_train.util.safe_json import read_object

KIND = "evaluation"
OVERVIEW = {"ldm_train": json.dumps({"kind": KIND})}  # the PNG text of an overview of pictures
COMMENT = "<!-- ldm-train evaluate -->"  # the first line of Markdown and of a plot


def check_outputs(out: Path, *, draws: bool, sweeps: bool) -> None:
    """Raise if a file that an evaluation will write exists and was not written by an evaluation.

    Args:
        draws: whether pictures will be drawn.
        sweeps: whether a plot of a sweep will be written.

    Raises:
        ValueError: there is such a file; nothing was changed.
    """
    check_file(out, is_result, setting="out")
    check_file(out.with_suffix(".md"), is_commented, setting="out")
    if sweeps:
        check_file(out.with_suffix(".svg"), is_commented, setting="out")
    if draws:
        check_folder(locate_pictures(out), DRAWN_PICTURES, setting="out", given=f"{out}: {locate_pictures(out)}")


def is_result(path: Path) -> bool:
    return read_object(path).get("kind") == KIND


def is_commented(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(COMMENT)) == COMMENT.encode()


def is_overview(path: Path) -> bool:
    return read_png_texts(path).get("ldm_train") == OVERVIEW["ldm_train"]
