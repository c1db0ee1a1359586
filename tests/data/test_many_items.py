"""Time and memory of a survey and a plan grow as the number of items does, and not as its square."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.table import Table
from tests.data.folders import captioned, picture

FEW, MANY = 5_000, 50_000
STEEPEST = 2.5  # times as long for each item

SURVEY = """
import sys, time
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.table import Table

def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before, start = most(), time.process_time()
found = survey_items((Folder if sys.argv[1] == "folder" else Table)(sys.argv[2]), max_pixels=1000)
plan = CachePlan(found, CentreCrop(image_size=16), pictures=Provenance({}), captions=Provenance({}), bad={})
for part in (*plan.texts_on_disk().values(), plan.batches((), pictures=16)):
    for _ in part:
        pass
print(len(found.scanned), len(found.problems), time.process_time() - start, 1024 * (most() - before))
"""


def link_pictures(folder: Path, count: int) -> list[str]:
    """Make so many pictures, most of which are links to others, since a file may have 65,000 names."""
    names = [f"{number}.png" for number in range(count)]
    for number, name in enumerate(names):
        if number % 10_000 == 0:
            first = picture(folder / name)
        else:
            os.link(first, folder / name)
    return names


def write_rows(path: Path, names: list[str]) -> Path:
    rows = (json.dumps({"file_name": name, "text": f"caption {number}"}) for number, name in enumerate(names))
    path.write_text("\n".join(rows))
    return path


def make_folder(folder: Path, count: int) -> Path:
    return write_rows(folder / "metadata.jsonl", link_pictures(folder, count)).parent


def make_unnamed(folder: Path, count: int) -> Path:
    """Pictures that no row names, and rows that name no picture."""
    link_pictures(folder, count)
    picture(folder / "good.png")
    return write_rows(folder / "metadata.jsonl", [f"x/{number}.png" for number in range(count)] + ["good.png"]).parent


def make_many_tables(folder: Path, count: int) -> Path:
    for number in range(count // 10):
        write_rows(picture(folder / f"{number}" / "a.png").with_name("metadata.jsonl"), ["a.png"])
    return folder


def make_one_picture(folder: Path, count: int) -> Path:
    """A table of many captions of one picture."""
    picture(folder / "a.png")
    return write_rows(folder / "t.jsonl", ["a.png"] * count)


KINDS: dict[str, tuple[str, Callable[[Path, int], Path]]] = {
    "a folder": ("folder", make_folder),
    "rows that name nothing": ("folder", make_unnamed),
    "a table in each folder": ("folder", make_many_tables),
    "one picture": ("table", make_one_picture),
}


def survey(kind: str, path: Path) -> tuple[int, float, int]:
    """Return how many items there are, the seconds of work, and the bytes of memory that they take."""
    words = [sys.executable, "-c", SURVEY, kind, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    good, bad, seconds, memory = done.stdout.split()
    return int(good) + int(bad), float(seconds), int(memory)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_work_grows_as_the_number_of_items(name: str, tmp_path: Path) -> None:
    kind, make = KINDS[name]
    taken = []
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        taken.append(survey(kind, make(folder, count)))
    (_, few_seconds, few_bytes), (_, many_seconds, many_bytes) = taken
    assert many_seconds < STEEPEST * MANY / FEW * few_seconds + 1
    assert many_bytes < STEEPEST * MANY / FEW * few_bytes + 2**25


@pytest.mark.slow
def test_folders_in_folders_are_read_or_named(tmp_path: Path) -> None:
    """Also deeper than a path may be long."""
    captioned(tmp_path / "a.png")
    top = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("b", dir_fd=top)
        below = os.open("b", os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    os.close(top)
    try:
        items, seconds, memory = survey("folder", tmp_path)
        assert items >= 1
        assert seconds < 20
        assert memory < 2**27
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "b")], check=True)  # which Python's rmtree is too deep for


def test_a_table_joins_the_captions_of_a_picture_in_order(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = [{"file_name": "a.png", "text": text} for text in ("b", ["a", "b"], "c", "a")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (item,) = Table(str(tmp_path / "t.jsonl"))
    assert item.captions == ("b", "a", "c")


def test_pictures_that_no_row_names_say_which_table_is_broken(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("")
    problems = [item.problem or "" for item in Folder(str(tmp_path))]
    assert any("not named in metadata.jsonl; metadata.jsonl has no row" in problem for problem in problems)
