"""Runs that fill holes: what a cache stores for them, what a step draws of it, and pictures with masks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.testing import assert_close

import ldm_train as library
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import to_bytes
from ldm_train.data.pictures.random_masks import draw_mask
from ldm_train.training.callbacks.picture_grids import GAP, LABEL_MARGIN
from ldm_train.types import Given

CONDITIONS = "conditions=[{inpaint:{masks:3}}]"
QUICK = ["pictures.steps=2", "pictures.every=100", "validation.every=100"]


@pytest.fixture(scope="module")
def holed(pictures: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as they are, in float32, with three masks each."""
    folder = tmp_path_factory.mktemp("holed") / "cache"
    answer = encode(pictures, folder, "dtype=float32", CONDITIONS)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def inpainting(holed: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("holed") / "run"
    answer = train(holed, run_dir, CONDITIONS, *QUICK)
    assert answer.code == 0, answer.err
    return run_dir


def test_pictures_of_a_run_show_what_is_left_between_the_true_and_the_drawn_one(inpainting: Path) -> None:
    [path] = (inpainting / "samples").glob("pairs-*.png")
    grid = np.array(Image.open(path).convert("RGB")).astype(int)[:, LABEL_MARGIN:]
    true, left = (grid[GAP + row * (16 + GAP) :][:16, GAP : GAP + 16] for row in range(2))
    hole = (abs(left - 128) <= 1).all(-1)
    assert hole.any()
    assert ((true == left).all(-1) | hole).all()


@pytest.fixture
def half(pictures: Path, tmp_path: Path) -> list[str]:
    """Words for a picture of which the lower half is drawn anew."""
    mask = Image.new("L", (16, 16))
    ImageDraw.Draw(mask).rectangle((0, 8, 15, 15), fill=255)
    mask.save(tmp_path / "mask.png")
    return [f"picture={pictures / 'circle-red.png'}", f"mask={tmp_path / 'mask.png'}", "mask_edge=0"]


@pytest.fixture
def kept(pictures: Path) -> bytes:
    """The pixels of its upper half."""
    return Image.open(pictures / "circle-red.png").convert("RGB").crop((0, 0, 16, 8)).tobytes()


def test_a_cache_stores_masks_with_the_pictures_that_they_leave(holed: Path) -> None:
    cache = LatentCache(holed)
    examples, first = torch.arange(len(cache)), torch.zeros(len(cache), dtype=torch.int64)
    stored, images = cache.maps("inpaint", examples, first), cache.moments(examples, first).mean
    assert stored.shape == (len(cache), 3 * 4, 16, 16)
    for example, masked in enumerate(stored.unflatten(1, (3, 4))):
        for number, (mask, left) in enumerate(zip(masked[:, :1], masked[:, 1:], strict=True)):
            drawn = torch.from_numpy(draw_mask(f"{cache.entries[example].picture}/0", number, (16, 16)))
            assert torch.equal(mask[0] > 0, drawn)
            assert_close(left, images[example] * ~drawn)


def test_a_step_draws_one_of_the_masks_by_its_position(holed: Path) -> None:
    cache = LatentCache(holed)
    data = CachedLatents(cache, batch_size=4, conditions=[Inpaint(masks=3, latent_channels=3)])
    positions = torch.arange(120)
    whole = data.fetch(positions).conditions["inpaint"].values
    assert whole.shape == (120, 4, 16, 16)
    parts = [data.fetch(part).conditions["inpaint"].values for part in positions.split(7)]
    assert torch.equal(torch.cat(parts), whole)
    examples = data.order(positions)
    of_one = whole[examples == examples[0], 0]
    assert len(of_one.unique(dim=0)) > 1


def test_a_network_gets_the_mask_and_the_latents_at_their_scale() -> None:
    condition = Inpaint(latent_channels=3, to_model=lambda raw: 2 * raw)
    given = Given(torch.rand(2, 4, 5, 5), torch.tensor([True, False]))
    maps = condition(given.values, given.kept).maps
    assert torch.equal(maps[0, :1], given.values[0, :1])
    assert torch.equal(maps[0, 1:], 2 * given.values[0, 1:])
    assert not maps[1].any()


@pytest.mark.parametrize("masks", [0, -1, 1.5, True, 10**9])
def test_a_number_of_masks_that_is_none_is_refused(masks: int) -> None:
    with pytest.raises(ValueError, match="masks"):
        Inpaint(masks=masks)


@pytest.mark.slow
def test_a_cache_without_masks_is_refused_by_a_run_that_needs_them(
    cache: Path, holed: Path, train: Callable, tmp_path: Path
) -> None:
    for folder, words in ((cache, [CONDITIONS]), (holed, ["conditions=[{inpaint:{masks:4}}]"])):
        answer = train(folder, tmp_path / "run", *words, *QUICK)
        assert answer.code != 0
        assert "inpaint" in answer.err


@pytest.mark.slow
def test_a_hole_is_filled_and_the_rest_stays(inpainting: Path, pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    mask, original = Image.new("L", (16, 16)), Image.open(pictures / "circle-red.png").convert("RGB")
    ImageDraw.Draw(mask).rectangle((4, 4, 9, 9), fill=255)
    mask.save(tmp_path / "mask.png")
    words = ["prompts=[a black circle]", "steps=2", f"picture={pictures / 'circle-red.png'}", "mask_edge=0"]
    drawn = {}
    for name, more in (("one", ["seed=0"]), ("other", ["seed=1"]), ("strength", ["strength=0.5"])):
        out = tmp_path / name
        answer = ldm_train("sample", f"run_dir={inpainting}", f"mask={tmp_path / 'mask.png'}", f"out={out}", *words, *more)
        assert answer.code == 0, answer.err
        drawn[name] = Image.open(out / "0000.png").convert("RGB")
    inside = {name: picture.crop((4, 4, 10, 10)).tobytes() for name, picture in drawn.items()}
    assert len({*inside.values()}) == 3
    for picture in drawn.values():
        picture.paste(original.crop((4, 4, 10, 10)), (4, 4))
        assert picture.tobytes() == original.tobytes()


@pytest.mark.slow
def test_a_run_that_fills_holes_asks_for_one(inpainting: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("sample", f"run_dir={inpainting}", "prompts=[a]", "steps=1", f"out={tmp_path / 'out'}")
    assert answer.code != 0
    assert "picture=FILE mask=FILE" in answer.err


@pytest.mark.slow
def test_an_evaluation_fills_the_first_hole_of_each_picture(inpainting: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["steps=2", "features=null", f"out={tmp_path / 'out.json'}"]
    answer = ldm_train("evaluate", f"run_dir={inpainting}", *words)
    assert answer.code == 0, answer.err


@pytest.mark.slow
def test_prompts_without_a_hole_are_refused_before_anything_is_drawn(
    inpainting: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    answer = ldm_train("evaluate", f"run_dir={inpainting}", "prompts=[a]", "steps=2", f"out={out}")
    assert answer.code == 1
    for word in ("inpaint", "prompts", "pictures=DIR", "dropout"):
        assert word in answer.err
    assert not out.with_name("out.json.pictures").exists()


@pytest.mark.slow
def test_a_strip_fills_one_hole_from_prompt_to_prompt(
    inpainting: Path, half: list[str], kept: bytes, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [*half, "prompts=[a black circle,a black square]", "interpolate=3", "steps=2", f"out={tmp_path}/out"]
    answer = ldm_train("sample", f"run_dir={inpainting}", *words)
    assert answer.code == 0, answer.err
    drawn = [Image.open(tmp_path / f"out/000{number}.png").convert("RGB") for number in range(3)]
    assert [picture.crop((0, 0, 16, 8)).tobytes() for picture in drawn] == [kept] * 3
    assert len({picture.tobytes() for picture in drawn}) == 3


@pytest.mark.slow
def test_a_plot_is_drawn_where_a_hole_is_given_for_every_checkpoint_that_needs_one(
    inpainting: Path, trained: Path, half: list[str], ldm_train: Callable, tmp_path: Path
) -> None:
    for name, run_dir in (("a", trained), ("b", inpainting)):
        shutil.copytree(run_dir, tmp_path / name)
    words = [f"x.checkpoint=[{tmp_path}/a,{tmp_path}/b]", "prompts=[a black circle]", "steps=1", f"out={tmp_path}/out"]
    refused = ldm_train("sample", f"run_dir={trained}", *words)
    assert refused.code == 1
    assert "picture=FILE mask=FILE" in refused.err
    assert not (tmp_path / "out/0000.png").exists()
    answer = ldm_train("sample", f"run_dir={trained}", *words, *half)
    assert answer.code == 0, answer.err
    assert (tmp_path / "out/0001.png").exists()


@pytest.mark.slow
def test_python_draws_into_a_hole_what_the_command_draws(
    inpainting: Path, half: list[str], ldm_train: Callable, tmp_path: Path
) -> None:
    words = [*half[:2], "prompts=[a black circle]", "steps=2", "strength=0.5", f"out={tmp_path}/out"]
    assert ldm_train("sample", f"run_dir={inpainting}", *words).code == 0
    picture, mask = (word.partition("=")[2] for word in half[:2])
    run = library.load_run(inpainting, steps=2)
    drawn = library.generate(run, "a black circle", picture=picture, mask=Path(mask), strength=0.5)
    expected = Image.open(tmp_path / "out/0000.png").convert("RGB")
    assert torch.equal(to_bytes(drawn)[0], torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    for name, value in (("picture", picture), ("mask", mask), ("strength", 0.5), ("batch_size", 2)):
        with pytest.raises(library.ConfigError, match=f"{name} has no effect"):
            library.load_run(inpainting, {name: value})


@pytest.mark.slow
def test_a_run_on_the_fly_is_that_of_the_cache(
    inpainting: Path, pictures: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    made = ["image_size=16", "autoencoder=identity", "text_encoder=small", "dtype=float32"]
    text = ["text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
    live = ["cache=null", "source=folder", f"source.path={pictures}", *made, *text, CONDITIONS]
    answer = ldm_train("train", f"run_dir={tmp_path}/run", *live, *train_words, *QUICK)
    assert answer.code == 0, answer.err
    losses = [(path / "metrics.jsonl").read_text() for path in (tmp_path / "run", inpainting)]
    assert losses[0] == losses[1]
