"""A command writes where nothing of a user's can be lost, and nowhere else."""

import json
from pathlib import Path

import pytest

from ldm_train.util.files import temporary_path
from ldm_train.util.ownership import CACHE, EXPORT, PICTURES, RUN, FolderKind, carries_mark, check_file, check_folder

KINDS = [RUN, CACHE, EXPORT, PICTURES]


def make_mark(folder: Path, kind: FolderKind) -> None:
    folder.mkdir(exist_ok=True)
    (folder / kind.mark).write_text(json.dumps({key: [] for key in kind.keys}))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.mark)
def test_missing_empty_and_marked_folders_are_written_to(tmp_path: Path, kind: FolderKind) -> None:
    check_folder(tmp_path / "missing", kind, setting="out")
    check_folder(tmp_path, kind, setting="out")
    (tmp_path / ".lock").touch()
    temporary_path(tmp_path / "a").touch()
    check_folder(tmp_path, kind, setting="out")
    make_mark(tmp_path, kind)
    (tmp_path / "user.txt").touch()
    check_folder(tmp_path, kind, setting="out")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.mark)
@pytest.mark.parametrize("mark", ["", "{", "[]", "{}", '{"files": 1}', "[" * 100_000, '"text"', "\udcff"])
def test_other_folders_are_refused_by_name(tmp_path: Path, kind: FolderKind, mark: str) -> None:
    if mark == '{"files": 1}' and kind is EXPORT:
        mark = '{"fields": 1}'
    (tmp_path / kind.mark).write_bytes(mark.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match="run_dir=") as caught:
        check_folder(tmp_path, kind, setting="run_dir")
    assert str(tmp_path) in str(caught.value)
    assert kind.mark in str(caught.value)


def test_a_folder_of_another_kind_a_file_a_broken_link_and_an_unset_variable_are_refused(tmp_path: Path) -> None:
    make_mark(tmp_path / "run", RUN)
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("run", "file", "broken"):
        assert not carries_mark(tmp_path / name, CACHE)
        with pytest.raises(ValueError, match=name):
            check_folder(tmp_path / name, CACHE, setting="cache")
    with pytest.raises(ValueError, match="cache"):
        check_folder(Path(""), CACHE, setting="cache", given="")


def test_only_a_file_that_the_command_wrote_is_written_over(tmp_path: Path) -> None:
    def starts_with_mark(path: Path) -> bool:
        return path.read_text().startswith("ours")

    (tmp_path / "ours").write_text("ours, older")
    (tmp_path / "photo.png").write_bytes(b"\xff\xfe")
    check_file(tmp_path / "missing", starts_with_mark, setting="out")
    check_file(tmp_path / "ours", starts_with_mark, setting="out")
    for path in (tmp_path / "photo.png", tmp_path, Path("")):
        with pytest.raises(ValueError, match="out"):
            check_file(path, starts_with_mark, setting="out")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.mark)
def test_what_the_system_puts_into_a_folder_does_not_count(tmp_path: Path, kind: FolderKind) -> None:
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".directory", "._a.png", ".nfs000000000012f4ab00000001"):
        (tmp_path / name).touch()
    for name in ("lost+found", ".snapshot", "@eaDir", "$RECYCLE.BIN", ".Trash-1000"):
        (tmp_path / name).mkdir()
    check_folder(tmp_path, kind, setting="out")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".localized").mkdir()  # a folder of this name is a user's
    with pytest.raises(ValueError, match=r"holds \.git, \.localized and is not"):
        check_folder(tmp_path, kind, setting="out")


def test_a_home_folder_that_the_shell_did_not_replace_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for path in (Path("~"), Path("~/a")):
        with pytest.raises(ValueError, match=f"run_dir={tmp_path / 'home' / path.relative_to('~')}"):
            check_folder(path, RUN, setting="run_dir")
        with pytest.raises(ValueError, match=f"out={tmp_path / 'home' / path.relative_to('~')}"):
            check_file(path, Path.is_file, setting="out")
    check_folder(Path("~a"), RUN, setting="run_dir")
