"""What `sample` may overwrite: what it drew itself and nobody changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from ldm_train.assembly.picture_folder import PictureFolder
from ldm_train.assembly.png_text import collect_metadata
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from ldm_train.util.ownership import PICTURES
from tests.folders import digests

TEXTS = {"ldm_train": "{}"}


def config(out: Path, **more: str | None) -> SampleSettings:
    return compose_as(SampleSettings, ["run_dir=none", "prompts=[a]", f"out={out}"]).with_values(**more)


def drawing(out: Path, count: int, shade: int = 0, *, until: int | None = None) -> None:
    """Draw so many pictures and a grid as `sample` does; `until` ends it early, as a kill would."""
    with PictureFolder(config(out)) as folder:
        names = [*(f"{number:04d}.png" for number in range(count)), "grid.png"]
        folder.expect(names)
        for name in names[:until]:
            folder.save(torch.full((3, 4, 4), shade, dtype=torch.uint8), name, TEXTS)
        if until is None:
            folder.finish([f"prompt {number}" for number in range(count)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_six_pictures_then_two_leave_two(tmp_path: Path) -> None:
    drawing(tmp_path / "out", 6)
    drawing(tmp_path / "out", 2, 9)
    drawing(tmp_path / "fresh", 2, 9)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")
    assert names(tmp_path / "out") == ["0000.png", "0001.png", "grid.png", "pictures.json", "prompts.txt"]
    assert len(open_gallery("pictures", str(tmp_path / "out")).files) == 2


@pytest.mark.parametrize("until", [0, 1, 3])
@pytest.mark.parametrize("before", [None, 6, 2])
def test_after_a_kill_the_same_command_ends_as_ever(until: int, before: int | None, tmp_path: Path) -> None:
    if before is not None:
        drawing(tmp_path / "out", before)
    drawing(tmp_path / "out", 4, 9, until=until)
    drawing(tmp_path / "out", 4, 9)
    drawing(tmp_path / "fresh", 4, 9)
    assert digests(tmp_path / "out") == digests(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["0000.png", "0007.png", "grid.png", "plot-0001.png", "prompts.txt"])
def test_a_user_s_file_is_never_overwritten(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawing(out, 2)
    if name.endswith("png"):
        Image.new("RGB", (4, 4), "red").save(out / name)
    else:
        (out / name).write_text("mine")
    before = digests(out)
    with pytest.raises(ValueError, match=name):
        drawing(out, 2, 9)
    assert digests(out) == before


def test_a_user_s_other_files_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawing(out, 2)
    (out / "notes.txt").write_text("mine")
    (out / "best").mkdir()
    shutil.copy(out / "0000.png", out / "best/0000.png")
    drawing(out, 1, 9)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "best/0000.png").is_file()
    assert len(open_gallery("pictures", str(out)).files) == 1


def test_a_user_s_picture_at_a_killed_command_s_name_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawing(out, 2, until=1)
    Image.new("RGB", (4, 4), "red").save(out / "0001.png")
    with pytest.raises(ValueError, match=r"0001\.png"):
        drawing(out, 2)


@pytest.mark.parametrize("mark", [None, '{"files": {}}', "[]", "no JSON"])
def test_a_user_s_folder_is_refused(mark: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (4, 4), "red").save(out / "holiday.png")
    if mark is not None:
        (out / PICTURES.mark).write_text(mark)
    before = digests(tmp_path)
    with pytest.raises(ValueError, match=f"out={out}"):
        PictureFolder(config(out))
    assert digests(tmp_path) == before


def test_a_listing_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawing(out, 1)
    (tmp_path / "0001.png").write_text("mine")
    listing = json.loads((out / PICTURES.mark).read_text())
    listing["files"] |= {"../0001.png": None, str(tmp_path / "0001.png"): None}
    (out / PICTURES.mark).write_text(json.dumps(listing))
    drawing(out, 1, 9)
    assert (tmp_path / "0001.png").read_text() == "mine"


@pytest.mark.parametrize("setting", ["picture", "mask", "prompts"])
def test_an_input_in_the_folder_is_refused(setting: str, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    out = tmp_path / "out"
    drawing(out, 1)
    before = digests(tmp_path)
    name = "prompts.txt" if setting == "prompts" else "0000.png"
    words = {"prompts": "prompts=[a]", "picture": f"picture={out}/0000.png", setting: f"{setting}={out}/{name}"}
    answer = ldm_train("sample", f"run_dir={trained}", f"out={out}", "steps=1", "device=cpu", *words.values())
    assert answer.code == 1
    assert f"={out}" in answer.err
    assert digests(tmp_path) == before


def test_two_commands_do_not_draw_into_one_folder(tmp_path: Path) -> None:
    with PictureFolder(config(tmp_path / "out")) as first:
        first.expect(["grid.png"])
        first.save(torch.zeros(3, 4, 4, dtype=torch.uint8), "grid.png", TEXTS)
        with pytest.raises(ValueError, match="out="):
            drawing(tmp_path / "out", 1)
        first.finish([])
    assert names(tmp_path / "out") == ["grid.png", "pictures.json", "prompts.txt"]


@pytest.mark.parametrize("word", ["picture={}", "mask={}", "map.depth={}"])
def test_an_input_in_the_folder_that_is_drawn_into_is_refused(word: str, tmp_path: Path) -> None:
    words = ["run_dir=none", "prompts=[a]", f"out={tmp_path}", word.format(tmp_path / "0000.png")]
    with pytest.raises(ValueError, match=word.partition("=")[0]):
        PictureFolder(compose_as(SampleSettings, words))


def test_a_pictures_texts_have_all_that_decides_it() -> None:
    run = SimpleNamespace(generation=SimpleNamespace(size=8), step=3)
    given = {"control_scale": 0.5, "adapters": ["a.safetensors"], "embeddings": ["b.safetensors"], "tile": 16}
    how = ["sampler=ddim", "spacing=trailing", "guidance=classifier_free", "guidance.scale=1", "steps=2"]
    plain = compose_as(SampleSettings, ["run_dir=none", "prompts=[a]", "out=o", *how])
    full = collect_metadata(plain.with_values(**given), run)  # type: ignore[arg-type]
    assert {name: full[name] for name in given} == given
    assert not given.keys() & collect_metadata(plain, run).keys()  # type: ignore[arg-type]
