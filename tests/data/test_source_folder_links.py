"""Links and permissions in a folder of captioned pictures: followed, or reported, never walked in circles."""

import os
from pathlib import Path

import pytest

from tests.data.folders import captioned, items_of


def test_links_are_followed_and_what_lies_in_the_folder_is_read_there(tmp_path: Path) -> None:
    captioned(tmp_path / "elsewhere/a.png")
    captioned(tmp_path / "root/z/b.png")
    (tmp_path / "root/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a_to_z").symlink_to(tmp_path / "root/z")
    items = items_of(tmp_path / "root")
    assert {key for key, item in items.items() if item.problem is None} == {"link/a.png", "z/b.png"}
    assert items["a_to_z"].problem == "leads back to the folder z, which is not read again from here"


@pytest.mark.parametrize("target", [".", "..", "../..", "deep", "/"])
def test_walking_in_circles_is_reported(target: str, tmp_path: Path) -> None:
    captioned(tmp_path / "in/a.png")
    (tmp_path / "in/deep").mkdir()
    (tmp_path / "in/deep/loop").symlink_to(Path(target) if target == "/" else tmp_path / "in/deep" / target)
    items = items_of(tmp_path / "in")
    if target == "deep":  # a link to itself
        assert items["deep/loop"].problem == "a broken link"
    else:
        assert "leads back to" in str(items["deep/loop"].problem)
    assert items["a.png"].captions == ("x",)
    assert set(items) == {"a.png", "deep/loop"}


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    for one, other in (("one", "two"), ("two", "one")):
        captioned(tmp_path / one / "a.png")
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    assert set(items_of(tmp_path)) == {"one/a.png", "one/link", "two/a.png", "two/link"}


@pytest.mark.parametrize("target", ["gone.png", "a.png"])
def test_a_broken_link_to_a_picture_is_an_item_that_cannot_be_read(target: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / target)
    (tmp_path / "a.txt").write_text("x")
    (item,) = items_of(tmp_path).values()
    assert item.problem is None
    assert item.picture is not None
    with pytest.raises(OSError, match=r"a\.png|gone\.png"):
        item.picture.read()


def test_a_link_to_a_folder_that_is_gone_is_reported(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    (tmp_path / "cats").symlink_to(tmp_path / "unmounted")
    assert items_of(tmp_path)["cats"].problem == "a broken link"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    captioned(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    assert items_of(tmp_path)["b.png"].problem == "neither a file nor a folder"


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioned(tmp_path / "a.png")
    captioned(tmp_path / "closed/b.png")
    scan = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = items_of(tmp_path)
    assert set(items) == {"a.png", "closed"}
    assert items["closed"].problem == "the folder cannot be read: Permission denied"


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not hold for root")
@pytest.mark.parametrize(("name", "key"), [("closed", "closed"), ("a.txt", "a.png")])
def test_permissions_are_reported(name: str, key: str, tmp_path: Path) -> None:
    captioned(tmp_path / "b.png")
    captioned(tmp_path / "a.png")
    captioned(tmp_path / "closed/b.png")
    (tmp_path / name).chmod(0)
    try:
        assert "cannot be read: Permission denied" in str(items_of(tmp_path)[key].problem)
    finally:
        (tmp_path / name).chmod(0o700)


def test_a_caption_that_cannot_be_opened_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captioned(tmp_path / "a.png")

    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    assert items_of(tmp_path)["a.png"].problem == "no caption: a.txt cannot be read: Permission denied"
