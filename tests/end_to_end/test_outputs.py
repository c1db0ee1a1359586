"""The files that `report`, `check` and `evaluate` write over: their own, and nobody else's."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.commands.check import command as checking
from ldm_train.commands.evaluate.drawn_pictures import locate_pictures
from ldm_train.commands.evaluate.output_files import check_outputs
from tests.folders import digests


def mine(path: Path) -> Path:
    """A file of a user's of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Image.new("RGB", (4, 4), "red").save(path)
    else:
        path.write_text(json.dumps({"kind": "mine"}) if path.suffix == ".json" else "mine")
    return path


@pytest.mark.parametrize("name", ["photo.png", "page.html", "page.htm", "notes.txt", "run/config.yaml", "folder/"])
def test_report_writes_over_its_own_pages_only(name: str, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    out = tmp_path / name
    if name.endswith("/"):
        out.mkdir()
    else:
        mine(out)
    before = digests(tmp_path)
    answer = ldm_train("report", f"run_dir={trained}", f"out={out}")
    assert answer.code == 1
    assert str(out) in answer.err
    assert digests(tmp_path) == before


@pytest.mark.parametrize("out", ["", "page", "page.pdf"])
def test_report_s_out_is_a_page_s_name(
    out: str, trained: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ldm_train("report", f"run_dir={trained}", f"out='{out}'")
    assert answer.code == 1
    assert "out" in answer.err
    assert not list(tmp_path.iterdir())


def test_report_renews_its_page(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    for _ in range(2):
        answer = ldm_train("report", f"run_dir={trained}", f"out={tmp_path}/new/page.html")
        assert answer.code == 0, answer.err
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["other.txt", "check.json", "check.html"])
def test_check_refuses_a_user_s_folder_before_it_reads_a_picture(
    name: str, pictures: Path, ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine(tmp_path / "out" / name)
    before = digests(tmp_path)
    monkeypatch.setattr(checking, "inspect_source", None)
    answer = ldm_train("check", f"source.path={pictures}", "autoencoder=identity", "image_size=16", f"out={tmp_path}/out")
    assert answer.code == 1
    assert f"{tmp_path}/out" in answer.err
    assert digests(tmp_path) == before


def outputs(folder: Path) -> list[Path]:
    out = folder / "numbers.json"
    return [
        out,
        out.with_suffix(".md"),
        out.with_suffix(".svg"),
        locate_pictures(out) / "photo.png",
        locate_pictures(out) / "drawn.json",
    ]


@pytest.mark.parametrize("number", range(5))
def test_evaluate_refuses_a_user_s_file_before_a_model_is_read(
    number: int, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    path = mine(outputs(tmp_path)[number])
    before = digests(tmp_path)
    words = [f"run_dir={trained}/not there", f"out={tmp_path}/numbers.json", "sweep.steps=[1]", "device=cpu"]
    answer = ldm_train("evaluate", *words)
    assert answer.code == 1
    assert str(path if number < 3 else path.parent) in answer.err
    assert "not there" not in answer.err
    assert digests(tmp_path) == before


def test_evaluate_leaves_alone_what_it_will_not_write(tmp_path: Path) -> None:
    for path in outputs(tmp_path)[2:4]:
        mine(path)
    check_outputs(tmp_path / "numbers.json", draws=False, sweeps=False)
    with pytest.raises(ValueError, match=r"numbers\.svg"):
        check_outputs(tmp_path / "numbers.json", draws=False, sweeps=True)


def test_evaluate_renews_its_results_and_removes_its_own_pictures_only(
    trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "numbers.json"
    words = [f"run_dir={trained}", f"out={out}", "samples=3", "device=cpu"]
    assert ldm_train("evaluate", *words, "steps=1", "sweep.steps=[2]").code == 0
    first = set(locate_pictures(out).glob("*/"))
    assert len(first) == 2
    (locate_pictures(out) / "mine").mkdir()
    (locate_pictures(out) / "mine/000000.png").write_text("mine")
    in_ours = min(first) / "notes.txt"
    in_ours.write_text("mine")
    answer = ldm_train("evaluate", *words, "steps=3", "sweep.steps=[4]")
    assert answer.code == 0, answer.err
    assert (locate_pictures(out) / "mine/000000.png").read_text() == in_ours.read_text() == "mine"
    assert not max(first).exists()
    assert sorted(path.name for path in min(first).iterdir()) == ["notes.txt"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"numbers.json", "numbers.md", "numbers.svg", "numbers.json.pictures"}
