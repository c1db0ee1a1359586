"""Files that commands are given by name, and the pictures of their folders: pipes and devices are refused, by name."""

import os
from pathlib import Path

import pytest
from PIL import Image
from torch.testing import assert_close

from ldm_train.assembly.drawing import read_signed
from ldm_train.assembly.prompts import read_prompts
from ldm_train.commands.evaluate.drawn_pictures import read_picture_batches
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.commands.report.run_pictures import Budget
from ldm_train.commands.train_autoencoder.command import select_usable
from ldm_train.data.batches.picture_batches import PictureBatches
from ldm_train.data.sources.folder import Folder
from tests.data.folders import captioned, picture


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A link to a pipe that nobody writes to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "pictures").mkdir()
    link = tmp_path / "pictures" / "x.png"
    link.symlink_to(tmp_path / "pipe")
    return link


def test_a_picture_to_start_from_is_a_regular_file(pipe: Path) -> None:
    for path in (str(pipe), "/dev/zero", "/proc/self"):
        with pytest.raises(ValueError, match=f"{path} cannot be read as a picture.*regular"):
            read_signed(path, 8)


def test_pictures_to_measure_are_regular_files(pipe: Path) -> None:
    picture(pipe.with_name("a.png"))
    gallery = open_gallery("real", str(pipe.parent))
    assert gallery.captions == []
    with pytest.raises(ValueError, match=f"{pipe} cannot be measured.*named pipe"):
        list(read_picture_batches(gallery.files, 1))


def test_prompts_are_a_regular_file(pipe: Path, tmp_path: Path) -> None:
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path} .*(pipe|folder|device)"):
            read_prompts(str(path))
    (tmp_path / "prompts.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"prompts\.txt is not UTF-8"):
        read_prompts(str(tmp_path / "prompts.txt"))
    os.truncate(tmp_path / "prompts.txt", 30 * 2**30)
    with pytest.raises(ValueError, match=r"prompts\.txt cannot be read: it has 32,212,254,720 bytes"):
        read_prompts(str(tmp_path / "prompts.txt"))


def test_a_prompt_may_be_longer_than_a_path() -> None:
    assert [prompt.text for prompt in read_prompts("word " * 5000)] == ["word " * 5000]
    assert [prompt.text for prompt in read_prompts(["a", "b"])] == ["a", "b"]


def test_syntax_of_web_uis_in_prompts_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["a (red:1.2) cat", "a dog"]
    assert [prompt.text for prompt in read_prompts(prompts, setting="pictures.prompts")] == prompts
    out = capsys.readouterr().out
    assert "pictures.prompts has '(red:1.2)', in 1 of 2 prompts" in out
    read_prompts(prompts[1:])
    assert capsys.readouterr().out == ""


def test_an_autoencoder_trains_without_what_cannot_be_read(pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioned(pipe.with_name("a.png"))
    pipe.with_suffix(".txt").write_text("x")
    assert [item.key for item in select_usable(Folder(str(pipe.parent)), most_unusable=1)[0]] == ["a.png"]
    assert "x.png" in capsys.readouterr().out


def test_a_picture_that_is_damaged_further_in_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in encoding on the fly: its header can be read, and its pixels cannot."""
    for name in ("a.png", "b.png", "c.png"):
        captioned(tmp_path / name)
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: content.index(b"IDAT") + 8])
    Image.new("RGB", (4, 4), "red").save(tmp_path / "c.png")
    items, _ = select_usable(Folder(str(tmp_path)), most_unusable=1)
    data = PictureBatches(items, size=4, batch_size=3)
    for _ in range(2):
        images = data.images(items)
        assert images.shape == (3, 3, 4, 4)
        assert_close(images[1], images[2], rtol=0, atol=0)
    assert capsys.readouterr().out.count("b.png") == 1
    (tmp_path / "a.png").unlink()
    (tmp_path / "c.png").unlink()
    with pytest.raises(ValueError, match="no picture decodes"):
        data.images(items)


def test_a_report_shows_no_pipe(pipe: Path) -> None:
    found = Budget().read(pipe, "a picture")
    assert found is not None
    assert found.embedded is None
