"""A folder to which pictures are added keeps what it has, and can be drawn into by `sample` again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ldm_train.assembly.picture_folder import PictureFolder, read_listing
from ldm_train.assembly.picture_series import PictureSeries
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from tests.folders import digests

TEXTS = {"ldm_train": "{}"}


def picture(shade: int) -> torch.Tensor:
    return torch.full((3, 4, 4), shade, dtype=torch.uint8)


def image(shade: int) -> torch.Tensor:
    return to_signed(picture(shade))


def add(folder: Path, *shades: int) -> list[str]:
    with PictureSeries(str(folder)) as series:
        return [series.add(image(shade), TEXTS, f"prompt {shade}").name for shade in shades]


def test_numbers_go_on_and_nothing_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert add(out, 1, 2) == ["0000.png", "0001.png"]
    before = digests(out)
    assert add(out, 3) == ["0002.png"]
    after = digests(out)
    assert all(after[name] == before[name] for name in before if name.endswith(".png"))
    assert (out / "prompts.txt").read_text().splitlines() == ["prompt 1", "prompt 2", "prompt 3"]
    (out / "0001.png").unlink()
    assert add(out, 4) == ["0003.png"], "the number of a picture that was removed is not given again"
    (out / "notes.txt").write_text("kept")
    with PictureFolder(compose_as(SampleSettings, ["run_dir=none", "prompts=a", f"out={out}"])) as folder:
        folder.expect(["0000.png"])
        folder.save(picture(9), "0000.png", TEXTS)
        folder.finish(["a"])
    assert sorted(path.name for path in out.iterdir()) == ["0000.png", "notes.txt", "pictures.json", "prompts.txt"]
    assert add(out, 5) == ["0001.png"], "pictures of `sample` are gone on from"


def test_the_attention_is_written_next_to_its_picture(tmp_path: Path) -> None:
    with PictureSeries(str(tmp_path / "out")) as series:
        series.add(image(1), TEXTS, "a", attention=picture(2))
        series.add(image(3), TEXTS, "b")
    assert {"0000.png", "0000-attention.png", "0001.png"} <= read_listing(tmp_path / "out").keys()


@pytest.mark.parametrize("pixels", [PixelFormat(1, 16), PixelFormat(5), PixelFormat(2, 32)])
def test_pictures_that_are_not_rgb_are_written_whole(pixels: PixelFormat, tmp_path: Path) -> None:
    drawn = torch.rand(pixels.channels, 8, 8, generator=torch.Generator().manual_seed(3)) * 2 - 1
    out = tmp_path / "out"
    for number in range(2):
        with PictureSeries(str(out)) as series:
            path = series.add(drawn, TEXTS, "a", pixels=pixels, attention=picture(2))
        assert path.name == f"{number:04d}.{pixels.ending}"
        read = torch.from_numpy(pixels.read(path.read_bytes())).permute(2, 0, 1)
        assert_close(read, drawn, atol=1.01 / (2 ** min(pixels.bits, 16) - 1), rtol=0)
    assert (out / "prompts.txt").read_text().splitlines() == ["a", "a"]


def test_after_a_kill_the_next_picture_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    add(out, 1)
    with monkeypatch.context() as patch:
        patch.setattr("ldm_train.assembly.picture_series.digest_file", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(out, 2)
    assert json.loads((out / "pictures.json").read_text())["files"]["0001.png"] is None
    assert add(out, 3) == ["0002.png"]


def test_what_was_not_drawn_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    add(out, 1, 2)
    shutil.copy(out / "0000.png", out / "0001.png")
    before = digests(out)
    with pytest.raises(ValueError, match=r"0001\.png"):
        add(out, 3)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="photos"):
        add(tmp_path / "photos", 3)
    assert digests(out) == before


def test_two_commands_do_not_add_at_once(tmp_path: Path) -> None:
    with PictureSeries(str(tmp_path / "out")) as first, PictureSeries(str(tmp_path / "out")) as second:
        first.add(picture(1), TEXTS, "a")
        with pytest.raises(ValueError, match="another process"):
            second.add(picture(2), TEXTS, "b")


def test_without_a_picture_nothing_is_made(tmp_path: Path) -> None:
    assert add(tmp_path / "out") == []
    assert not (tmp_path / "out").exists()
