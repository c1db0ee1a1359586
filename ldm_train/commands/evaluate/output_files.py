"""The files that an evaluation writes next to `out`, each written over only if an evaluation wrote it."""

import json
from pathlib import Path

from ldm_train.commands.evaluate.drawn_pictures import KEPT, kept
from ldm_train.data.pictures.images import read_png_texts
from ldm_train.util.ownership import check_file, check_folder
from ldm_train.util.safe_json import read_object

KIND = "evaluation"
SHEET = {"ldm_train": json.dumps({"kind": KIND})}  # the text in a sheet of drawings
COMMENT = "<!-- ldm-train evaluate -->"  # the first line of Markdown and of a plot


def check_outputs(out: Path, *, draws: bool, sweeps: bool) -> None:
    """Raise if a file that an evaluation will write is something else.

    Raises:
        ValueError: it is, and nothing was changed.
    """
    check_file(out, is_result, setting="out")
    check_file(out.with_suffix(".md"), is_commented, setting="out")
    if sweeps:
        check_file(out.with_suffix(".svg"), is_commented, setting="out")
    if draws:
        check_folder(kept(out), KEPT, setting="out", given=f"{out}: {kept(out)}")


def is_result(path: Path) -> bool:
    return read_object(path).get("kind") == KIND


def is_commented(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(COMMENT)) == COMMENT.encode()


def is_sheet(path: Path) -> bool:
    return read_png_texts(path).get("ldm_train") == SHEET["ldm_train"]
