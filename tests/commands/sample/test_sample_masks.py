"""Pictures to start from and their masks, as files of any kind: what is kept, what is drawn anew, what is refused."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.assembly.drawing import read_signed, read_start
from ldm_train.assembly.mask import KeptPixels, read_mask, reduce_mask, soften_edge
from ldm_train.conditioners.condition import Conditions
from ldm_train.data.pictures.images import read_image, to_bytes
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings
from tests.data.test_masks import BY_BRIGHTNESS, BY_TRANSPARENCY, HALF, WHITE, encoded, exif, layers

SQUARE = {"picture": (16, 16), "size": (16, 16)}


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize("kind", [*BY_BRIGHTNESS, *BY_TRANSPARENCY])
def test_every_kind_of_mask_says_the_same(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "mask", {**BY_BRIGHTNESS, **BY_TRANSPARENCY}[kind])
    mask = reduce_mask(read_mask(path, **SQUARE), (16, 16), path=path)  # type: ignore[arg-type]
    assert torch.equal(mask[0, 0], torch.from_numpy(HALF > 0))
    assert (path in capsys.readouterr().out) == (kind in BY_TRANSPARENCY)


@pytest.mark.parametrize(("level", "word"), [(0, "black"), (255, "white")])
def test_a_mask_of_one_level_is_warned_of(level: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write(tmp_path / "mask.png", encoded(Image.new("L", (16, 16), level)))
    mask = reduce_mask(read_mask(path, **SQUARE), (4, 4), path=path)  # type: ignore[arg-type]
    assert mask.float().mean() == level / 255
    reported = capsys.readouterr().out
    assert path in reported
    assert word in reported


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
        assert read_mask(path, picture=picture, size=(16, 16)).shape == (1, 1, 16, 16)
    else:
        with pytest.raises(ValueError, match=f"{mask[1]}x{mask[0]}.*{picture[1]}x{picture[0]}"):
            read_mask(path, picture=picture, size=(16, 16))


def test_a_wide_mask_is_cut_as_its_picture_is(tmp_path: Path) -> None:
    wide = np.zeros((16, 32), dtype=np.uint8)
    wide[:, 16:] = 255
    path = write(tmp_path / "mask.png", encoded(Image.fromarray(wide)))
    mask = reduce_mask(read_mask(path, picture=(32, 64), size=(16, 16)), (16, 16), path=path)
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
    assert np.array_equal(after[:, :8], before[:, :8])
    assert np.abs(after - before)[:, 8:].max() > 10


def test_a_transparent_start_is_reported(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    start = write(tmp_path / "start.png", encoded(layers(HALF, HALF, HALF, HALF, mode="RGBA"), exif=exif(1)))
    words = ("prompts=[x]", "steps=2", "device=cpu", f"picture={start}", f"out={tmp_path / 'out'}")
    answer = ldm_train("sample", f"run_dir={trained}", *words)
    assert answer.code == 0, answer.err
    assert f"picture={start} is transparent" in answer.out


@pytest.mark.parametrize("width", [0, 1, 2, 5, 8])
def test_an_edge_is_as_wide_as_it_is_set(width: int) -> None:
    """It rises evenly, half on either side, and only there."""
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., 30:] = 1
    soft = soften_edge(mask, width)
    assert soft.shape == mask.shape
    reach = width // 2
    assert (soft[..., : 30 - reach] == 0).all()
    assert (soft[..., 30 + reach :] == 1).all()
    between = soft[0, 0, 0, 30 - reach : 30 + reach]
    assert torch.allclose(between, torch.arange(1, 2 * reach + 1) / (2 * reach + 1), atol=1e-6)
    assert (soft == soft[..., :1, :]).all()


@pytest.mark.parametrize("width", [0, 8])
def test_outside_the_mask_the_original_is_exact_and_inside_what_was_drawn(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.rand(1, 3, 32, 48, generator=generator) * 2 - 1
    images = torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 8:24, 12:36] = 1
    pasted = KeptPixels(original, soften_edge(mask, width))(images)
    near = torch.nn.functional.max_pool2d(mask, 9, stride=1, padding=4) > 0
    far_inside = torch.nn.functional.max_pool2d(1 - mask, 9, stride=1, padding=4) == 0
    assert torch.equal(pasted.where(~near, 0), original.expand_as(pasted).where(~near, 0))
    assert torch.equal(pasted.where(far_inside, 0), images.where(far_inside, 0))
    low, high = torch.minimum(images, original), torch.maximum(images, original)
    assert ((pasted >= low - 1e-6) & (pasted <= high + 1e-6)).all()


@pytest.mark.parametrize(("words", "exact"), [((), True), (("mask_edge=0",), True), (("paste_original=false",), False)])
def test_sample_keeps_the_original_through_an_autoencoder(words: tuple[str, ...], exact: bool, tmp_path: Path) -> None:
    """A lossy autoencoder of factor 4; size and picture differ, so that the picture is cut and resized first."""
    noise = np.random.default_rng(0).integers(60, 180, (48, 60, 3))
    start = write(tmp_path / "start.png", encoded(Image.fromarray(noise.astype(np.uint8))))
    mask_pixels = np.zeros((48, 60), dtype=np.uint8)
    mask_pixels[:, 40:] = 255
    mask = write(tmp_path / "mask.png", encoded(Image.fromarray(mask_pixels)))
    settings = compose_as(
        SampleSettings, ["run_dir=x", "prompts=[x]", "out=x", f"picture={start}", f"mask={mask}", "size=[32,32]", *words]
    )
    generation = LossyGeneration()
    begun = read_start(settings, generation)  # type: ignore[arg-type]
    assert begun.initial is not None
    assert begun.initial.mask is not None
    assert begun.initial.mask.shape == (1, 1, 8, 8)
    images = begun.paste(torch.ones(2, 3, 32, 32))
    original = read_image(Path(start), 32)
    kept = (to_bytes(images) == original).all(1)
    left = (40 - 6) * 32 // 48  # where the mask begins in the square that is cut
    assert kept[..., : left - 6].all() == exact
    assert not kept[..., left + 6 :].any()


class LossyGeneration:
    """As much of a generation as reading a start needs: an autoencoder that keeps one colour of 4 x 4 pixels."""

    size = (32, 32)
    sides = (32, 32)
    autoencoder = SimpleNamespace(factor=4)
    conditions = Conditions()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, 4)


@pytest.mark.parametrize(("edge", "accepted"), [(32, True), (33, False), (1_000_000_000, False)])
def test_an_edge_is_no_wider_than_the_picture(edge: int, accepted: bool, tmp_path: Path) -> None:
    start = write(tmp_path / "start.png", encoded(Image.new("RGB", (32, 32), "red")))
    mask = write(tmp_path / "mask.png", encoded(Image.fromarray(np.tri(32, dtype=np.uint8) * 255)))
    words = [f"picture={start}", f"mask={mask}", "size=[32,32]", f"mask_edge={edge}"]
    settings = compose_as(SampleSettings, ["run_dir=x", "prompts=[x]", "out=x", *words])
    if accepted:
        assert read_start(settings, LossyGeneration()).kept is not None  # type: ignore[arg-type]
        return
    with pytest.raises(ValueError, match=f"mask_edge={edge} .* 32"):
        read_start(settings, LossyGeneration())  # type: ignore[arg-type]
