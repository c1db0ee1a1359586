"""Captions that stand in two places of a folder: agreeing ones are one, differing ones are refused or chosen."""

import re
from pathlib import Path

import pytest

from ldm_train.data.sources.folder import Folder
from tests.data.folders import Make, describe, items_of, notes_of, picture


def agree(folder: Path) -> None:
    describe(folder, {"file_name": "a.png", "text": "x"})
    (folder / "a.txt").write_text("x\n")


def differ(folder: Path) -> None:
    describe(folder, {"file_name": "a.png", "text": "x"})
    (folder / "a.txt").write_text("y")


def only_sidecar(folder: Path) -> None:
    describe(folder, {"file_name": "b.png", "text": "x"})
    (folder / "a.txt").write_text("y")


def two_sidecars(folder: Path) -> None:
    (folder / "a.txt").write_text("x")
    (folder / "a.caption").write_text("y")


def test_two_places_that_agree_are_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    agree(tmp_path)
    assert items_of(tmp_path)["a.png"].origin == "metadata.jsonl line 1"
    assert notes_of(tmp_path) == ["captions from metadata.jsonl"]


@pytest.mark.parametrize(
    ("make", "template", "words"),
    [
        (
            differ,
            None,
            "a.txt says 'y', but metadata.jsonl line 1 says 'x'; set source.captions=metadata, sidecar or template",
        ),
        (only_sidecar, None, "a.txt says 'y', but there is none elsewhere (not named in metadata.jsonl)"),
        (two_sidecars, None, "a.caption says 'y', a.txt says 'x'; keep one of the files"),
        (agree, "{file}", "metadata.jsonl line 1 says 'x', but a.png says 'a'; set source.captions=metadata"),
        (lambda folder: (folder / "a.txt").write_text("y"), "{file}", "a.txt says 'y', but a.png says 'a'"),
    ],
)
def test_two_places_that_differ_are_refused(make: Make, template: str | None, words: str, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    make(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)):
        list(Folder(str(tmp_path), template=template))


@pytest.mark.parametrize(("captions", "text"), [("metadata", "x"), ("sidecar", "y"), ("template", "a")])
def test_a_choice_settles_it(captions: str, text: str, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    differ(tmp_path)
    assert items_of(tmp_path, captions=captions, template="{file}")["a.png"].captions == (text,)
    has_effect = captions == "template"
    assert (
        "source.template has no effect" in " ".join(notes_of(tmp_path, captions=captions, template="{file}"))
    ) != has_effect


def test_two_sidecars_that_differ_are_a_problem_of_one_picture_where_sidecars_are_chosen(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    two_sidecars(tmp_path)
    assert "two captions of one picture" in str(items_of(tmp_path, captions="sidecar")["a.png"].problem)


def test_two_metadata_files_in_one_folder_are_refused_and_in_two_folders_are_not(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub/b.png")
    picture(tmp_path / "c.png")
    describe(tmp_path, {"file_name": "a.png", "text": "x"}, {"file_name": "sub/b.png", "text": "y"})
    describe(tmp_path / "sub", {"file_name": "b.png", "text": "z"})
    items = items_of(tmp_path)
    assert items["sub/b.png"].captions == ("y",)
    assert (
        items["sub/metadata.jsonl:1"].problem
        == "sub/metadata.jsonl line 1 names b.png, as metadata.jsonl line 2 does already"
    )
    assert items["c.png"].problem == "not named in metadata.jsonl or 1 other metadata file"
    (tmp_path / "sub/metadata.csv").write_text("file_name,text\nb.png,z\n")
    with pytest.raises(ValueError, match=r"one folder has .*sub/metadata\.csv, sub/metadata\.jsonl; keep one"):
        items_of(tmp_path)
