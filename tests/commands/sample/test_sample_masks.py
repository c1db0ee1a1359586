"""Pictures to start from and their masks, as files of any kind: what is kept, what is drawn anew, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.assembly.drawing import read_signed
from ldm_train.assembly.mask import read_mask
from tests.data.test_masks import BY_BRIGHTNESS, BY_TRANSPARENCY, HALF, WHITE, encoded, exif, layers

SQUARE = {"picture": (16, 16), "size": (16, 16), "latents": (16, 16)}


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("kind", [*BY_BRIGHTNESS, *BY_TRANSPARENCY])
def test_every_kind_of_mask_says_the_same(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "mask", {**BY_BRIGHTNESS, **BY_TRANSPARENCY}[kind])
    mask = read_mask(path, **SQUARE)  # type: ignore[arg-type]
    assert torch.equal(mask[0, 0], torch.from_numpy(HALF > 0))
    assert (path in capsys.readouterr().out) == (kind in BY_TRANSPARENCY)


@pytest.mark.parametrize(("level", "word"), [(0, "black"), (255, "white")])
def test_a_mask_of_one_level_is_warned_of(level: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "mask.png", encoded(Image.new("L", (16, 16), level)))
    mask = read_mask(path, **SQUARE)  # type: ignore[arg-type]
    assert mask.float().mean() == level / 255
    told = capsys.readouterr().out
    assert path in told
    assert word in told


@pytest.mark.parametrize(
    ("mask", "picture", "fits"),
    [
        ((16, 16), (64, 64), True),
        ((33, 50), (100, 150), True),
        ((64, 64), (100, 150), True),  # of what is drawn
        ((150, 100), (100, 150), False),
        ((64, 96), (64, 64), False),
    ],
)
def test_a_mask_has_the_shape_of_the_picture_or_of_what_is_drawn(
    mask: tuple[int, int], picture: tuple[int, int], fits: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "mask.png", encoded(Image.new("L", mask[::-1], 255)))
    if fits:
        assert read_mask(path, picture=picture, size=(16, 16), latents=(4, 4)).shape == (1, 1, 4, 4)
    else:
        with pytest.raises(ValueError, match=f"{mask[0]}x{mask[1]}.*{picture[0]}x{picture[1]}"):
            read_mask(path, picture=picture, size=(16, 16), latents=(4, 4))


def test_a_wide_mask_is_cut_as_its_picture_is(tmp_path: Path) -> None:
    wide = np.zeros((16, 32), dtype=np.uint8)
    wide[:, 16:] = 255
    path = write(tmp_path / "mask.png", encoded(Image.fromarray(wide)))
    mask = read_mask(path, picture=(32, 64), size=(16, 16), latents=(16, 16))
    assert torch.equal(mask[0, 0], torch.from_numpy(HALF > 0))


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(layers(HALF, HALF, HALF, HALF.T, mode="RGBA"))])
def test_what_is_no_mask_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "mask.png", content)
    with pytest.raises(ValueError, match=f"^mask={path}"):
        read_mask(path, **SQUARE)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BY_BRIGHTNESS)
def test_the_picture_itself_may_be_of_any_kind(kind: str, tmp_path: Path) -> None:
    content = BY_BRIGHTNESS[kind]
    image = read_signed(write(tmp_path / "picture", content), 16)
    expected = torch.from_numpy(HALF).float() / 127.5 - 1
    if kind == "half transparent everywhere":
        expected = expected / 2 + 0.5  # on white
    assert (image - expected).abs().max() < 0.02


def test_a_painted_layer_keeps_what_it_leaves(trained: Path, pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    """Put on white, as the picture is, everything of it would be drawn anew."""
    mask = write(tmp_path / "mask.png", encoded(layers(WHITE, HALF, mode="LA")))
    start = pictures / "circle-red.png"
    words = ("prompts=[x]", "steps=2", "device=cpu", f"picture={start}", f"mask={mask}", f"out={tmp_path / 'out'}")
    answer = ldm_train("sample", f"run_dir={trained}", *words)
    assert answer.code == 0, answer.err
    assert mask in answer.out
    before, after = (np.asarray(Image.open(path)).astype(int) for path in (start, tmp_path / "out" / "0000.png"))
    assert np.abs(after - before)[:, :8].max() <= 1
    assert np.abs(after - before)[:, 8:].max() > 10


def test_a_transparent_start_is_told(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    start = write(tmp_path / "start.png", encoded(layers(HALF, HALF, HALF, HALF, mode="RGBA"), exif=exif(1)))
    words = ("prompts=[x]", "steps=2", "device=cpu", f"picture={start}", f"out={tmp_path / 'out'}")
    answer = ldm_train("sample", f"run_dir={trained}", *words)
    assert answer.code == 0, answer.err
    assert f"picture={start} is transparent" in answer.out
