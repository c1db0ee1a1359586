"""Runs that fill holes: what a cache stores for them, what a step draws of it, and pictures with masks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from torch.testing import assert_close

from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.random_masks import draw_mask
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
