"""What a run draws: rows by guidance scale, pairs, shares of ranks, the picture that grows, a text encoder that is freed."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.utils import make_grid

from ldm_train.assembly.watching import choose_examples
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.training.callbacks.growth import MAX_ROWS, add_growth_row, choose_growth_rows, read_growth_rows
from ldm_train.training.callbacks.picture_grids import (
    GAP,
    LABEL_MARGIN,
    fit_on_white,
    make_grid_picture,
    make_rows_picture,
    stack_labelled,
)

SETTINGS = {"prompts": ["a", "b"], "size": [16, 16]}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def plain(value: int, *, count: int = 2, side: int = 16) -> Tensor:
    """Pictures of one grey."""
    return torch.full((count, 3, side, side), value, dtype=torch.uint8)


# Side by side


def test_a_true_picture_stands_above_its_own() -> None:
    above, below = (
        torch.arange(start, start + 5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4) for start in (0, 10)
    )
    picture = make_rows_picture([above, below], columns=3)
    values = picture[0, 3::6, 3::6]
    assert values.tolist() == [[0, 1, 2], [10, 11, 12], [3, 4, 255], [13, 14, 255]]


@pytest.mark.parametrize(
    ("shape", "inner"), [((8, 16), (16, 32)), ((16, 8), (32, 16)), ((64, 64), (32, 32)), ((32, 32), (32, 32))]
)
def test_a_picture_of_another_shape_is_shown_whole_on_white(shape: tuple[int, int], inner: tuple[int, int]) -> None:
    found = fit_on_white(torch.zeros(3, *shape, dtype=torch.uint8), (32, 32))
    assert found.shape == (3, 32, 32)
    assert (found == 0).sum() == 3 * inner[0] * inner[1]
    assert ((found == 0) | (found == 255)).all()


def test_trained_and_held_out_pictures_are_labelled() -> None:
    trained, held_out = plain(10)[0], torch.cat([plain(20)[0]] * 2, dim=2)
    picture = stack_labelled({"trained": trained, "held out": held_out})
    assert picture.shape == (3, 16 + 16, LABEL_MARGIN + 32)
    for top, value, width in ((0, 10, 16), (16, 20, 32)):
        row = picture[:, top : top + 16]
        assert (row[:, :, LABEL_MARGIN : LABEL_MARGIN + width] == value).all()
        assert (row[:, :, LABEL_MARGIN + width :] == 255).all()
        assert (row[:, :, :LABEL_MARGIN] < 100).any(), "a label"


@pytest.mark.parametrize(("count", "trained", "held_out"), [(8, 5, 3), (4, 2, 2), (3, 1, 2), (1, 0, 1)])
def test_half_of_the_captions_are_trained_and_half_held_out(count: int, trained: int, held_out: int, cache: Path) -> None:
    """Three pictures are held out; where they are too few, there are more trained ones."""
    data = CachedLatents(LatentCache(cache), batch_size=4)
    examples = choose_examples(data, count)
    assert [example.held_out for example in examples] == [False] * trained + [True] * held_out
    outside = set(data.held_out.tolist())
    assert len({example.number for example in examples}) == count
    for example in examples:
        assert (example.number in outside) is example.held_out
        assert example.caption == data.latents.first_caption(example.number)


def test_a_run_labels_the_prompts_that_are_captions_of_examples(run_with: Callable[..., Path], trained: Path) -> None:
    own = run_with("pictures.prompts=[a black circle on a red background,anything]")
    for run_dir, kinds in ((trained, ["trained", "held out"]), (own, [])):
        assert json.loads((run_dir / "samples/prompts.json").read_text())["kinds"] == kinds


# The picture that grows


def test_a_row_is_added_for_each_step_and_later_ones_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "growth.png"
    for step, value in ((10, 1), (20, 2), (30, 3), (20, 9)):
        picture = add_growth_row(path, plain(value), step=step, every=10, settings=SETTINGS)
    rows = read_growth_rows(path, json.dumps(SETTINGS, sort_keys=True))
    assert list(rows) == [10, 20]
    assert [row.getpixel((70, 30))[0] for row in rows.values()] == [1, 9]
    assert (picture.permute(1, 2, 0).numpy() == pixels(path)).all()


@pytest.mark.parametrize("broken", [b"", b"no picture", None])
def test_it_starts_anew_where_it_cannot_go_on(broken: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "growth.png"
    add_growth_row(path, plain(1), step=10, every=10, settings=SETTINGS)
    if broken is not None:
        path.write_bytes(broken)
    else:
        path.write_bytes(path.read_bytes()[:200])
    add_growth_row(path, plain(2), step=20, every=10, settings=SETTINGS)
    assert list(read_growth_rows(path, json.dumps(SETTINGS, sort_keys=True))) == [20]
    add_growth_row(path, plain(3), step=30, every=10, settings=SETTINGS | {"prompts": ["c", "d"]})
    assert read_growth_rows(path, json.dumps(SETTINGS, sort_keys=True)) == {}


@pytest.mark.parametrize("steps", ["[" * 100_000, "9" * 400, "[[1]]", '{"a": 1}', '["x"]', "null", "1e999"])
def test_a_picture_with_other_steps_in_its_text_has_no_rows(steps: str, tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("settings", "s")
    texts.add_text("steps", steps)
    Image.new("RGB", (8, 8)).save(tmp_path / "growth.png", pnginfo=texts)
    assert read_growth_rows(tmp_path / "growth.png", "s") == {}


@pytest.mark.parametrize("last", [10, 500, 505, 2400, 100_000])
def test_a_long_run_keeps_some_rows_whatever_interrupted_it(last: int) -> None:
    """Adding a step at a time, and dropping what is too much, comes to the same as choosing among all of them at once."""
    steps = [*range(10, last, 10), last]
    grown: list[int] = []
    for step in steps:
        grown = choose_growth_rows([*grown, step], every=10)
    assert grown == choose_growth_rows(steps, every=10)
    assert min(len(steps), MAX_ROWS // 2) <= len(grown) <= MAX_ROWS + 1
    assert grown[-1] == last


def test_the_run_s_own_has_a_row_for_each_time(trained: Path) -> None:
    settings = json.loads((trained / "samples/prompts.json").read_text())
    rows = read_growth_rows(trained / "samples/growth.png", json.dumps(settings, sort_keys=True))
    assert list(rows) == [4, 8]
    tile = pixels(trained / "samples/step-00000008.png")[2:18, LABEL_MARGIN + 2 : LABEL_MARGIN + 18]
    assert (np.asarray(rows[8])[:64:4, 64:128:4] == tile).all(), "the first prompt's, four times as large"


# What a run is asked for


def test_each_guidance_scale_has_a_row(run_with: Callable[..., Path], trained: Path) -> None:
    several = run_with("pictures.guidance=[2,1,5]")
    rows, alone = (pixels(run / "samples/step-00000008.png") for run in (several, trained))
    assert rows.shape == (2 * (2 + 3 * 18), LABEL_MARGIN + 2 + 18, 3), "of a trained caption, then of a held-out one"
    for part, single in zip(np.split(rows[:, LABEL_MARGIN:], 2), np.split(alone[:, LABEL_MARGIN:], 2), strict=True):
        assert (part[:18] == single[:18]).all(), "the first is the run's own scale here"
        assert (part[20:36] != part[2:18]).any()
    assert json.loads((several / "samples/prompts.json").read_text())["guidance"] == [2, 1, 5]


@pytest.mark.parametrize("scales", ["3", "[]", "[a]", "[1,1]", "[true]"])
def test_scales_that_are_none_are_refused(scales: str, cache: Path, train: Callable, tmp_path: Path) -> None:
    answer = train(cache, tmp_path / "run", f"pictures.guidance={scales}")
    assert answer.code != 0
    assert "pictures.guidance=" in answer.err


def test_prompts_of_one_s_own_are_drawn_beside_held_out_examples(run_with: Callable[..., Path], trained: Path) -> None:
    own = run_with("pictures.prompts=[a black circle on a red background,anything]")
    assert (pixels(own / "samples/pairs-step-00000008.png") == pixels(trained / "samples/pairs-step-00000008.png")).all()
    assert pixels(own / "samples/step-00000008.png").shape == (2 + 18, 2 + 2 * 18, 3), "without labels"


def test_prompts_with_settings_of_their_own_are_drawn_with_them(
    run_with: Callable[..., Path], ldm_train: Callable, tmp_path: Path
) -> None:
    """In two rows of guidance, where one prompt is wider; each is what `sample` draws with the run's last weights."""
    lines = ["a cat", "a cat --n a fox --w 32 --d 7 --s 2", "a fox"]
    listed = ",".join(f'"{line}"' for line in lines)
    run_dir = run_with(f"pictures.prompts=[{listed}]", "pictures.guidance=[2,3]")
    grid = pixels(run_dir / "samples/step-00000008.png").astype(int)
    assert grid.shape == (2 + 2 * 18, 2 + 3 * 34, 3)
    assert json.loads((run_dir / "samples/prompts.json").read_text())["prompts"] == lines
    for row, scale in enumerate((2, 3)):
        out = tmp_path / str(scale)
        words = [f"prompts=[{listed}]", f"guidance.scale={scale}", "device=cpu", "steps=4"]
        assert ldm_train("sample", f"run_dir={run_dir}", f"out={out}", *words).code == 0
        for column in range(3):
            picture = pixels(out / f"{column:04d}.png").astype(int)
            top, left = 2 + 18 * row, 2 + 34 * column
            tile = grid[top : top + picture.shape[0], left : left + picture.shape[1]]
            assert abs(tile - picture).max() <= 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (['pictures.prompts=["a cat","a fox --w 13"]'], ["pictures.prompts, prompt 2", "13"]),
        (['pictures.prompts=["a fox --l 3"]', "pictures.guidance=[1,2]"], ["pictures.prompts", "pictures.guidance=[1"]),
        (["pictures.prompts=[a fox --x]"], ["--x", "--n NEGATIVE"]),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused_at_once(
    words: list[str], named: list[str], cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *words)
    assert answer.code == 1
    for part in named:
        assert part in answer.err


def test_a_fresh_start_draws_no_rows_of_the_one_before(cache: Path, train: Callable, tmp_path: Path) -> None:
    words = ["pictures.every=1", "checkpoint.every=100", "max_steps=2"]
    assert train(cache, tmp_path / "run", *words).code == 0
    (tmp_path / "run/checkpoints/last.ckpt").unlink()
    assert train(cache, tmp_path / "run", *words, "max_steps=1", "resume=restart").code == 0
    assert not (tmp_path / "run/samples/step-00000002.png").exists()


# A text encoder that is not needed any more


def test_a_frozen_text_encoder_is_freed_and_the_run_is_the_same(
    pictures: Path, encode: Callable, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.conditioners.text_encoder import TextEncoder

    freed = []
    keep_only = TextEncoder.keep_only
    assert encode(pictures, tmp_path / "cache", "text_encoder.trained=false").code == 0

    def watch(self: TextEncoder, captions: list[str]) -> None:
        keep_only(self, captions)
        freed.append(sum(1 for _ in self.parameters()))

    monkeypatch.setattr(TextEncoder, "keep_only", watch)
    assert train(tmp_path / "cache", tmp_path / "freed", "pictures.prompts=[a red one]").code == 0
    monkeypatch.setattr(TextEncoder, "keep_only", lambda self, captions: None)
    assert train(tmp_path / "cache", tmp_path / "kept", "pictures.prompts=[a red one]").code == 0
    assert freed == [0]
    runs = tmp_path / "freed", tmp_path / "kept"
    one, other = ((run / "metrics.jsonl").read_bytes() for run in runs)
    assert one == other
    for name in ("samples/step-00000008.png", "samples/pairs-step-00000008.png"):
        one, other = (pixels(run / name).astype(int) for run in runs)
        assert abs(one - other).max() <= 1
    one, other = (torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in runs)
    assert_close(one, other, rtol=0, atol=0)


def test_other_captions_need_their_embeddings(pictures: Path) -> None:
    from ldm_train.conditioners.text_encoder import small
    from ldm_train.types import CaptionBatch

    encoder = small(width=16, layers=1, heads=2, trained=False)
    known, other = (CaptionBatch(encoder.tokenize([text])) for text in ("a cat", "a dog"))
    states = [encoder(captions) for captions in (known, other)]
    encoder.keep_only(["a cat"])
    assert_close(encoder(known).tokens, states[0].tokens, rtol=1e-4, atol=1e-5)
    assert_close(encoder(known).vector, states[0].vector, rtol=1e-4, atol=1e-5)
    assert_close(encoder(CaptionBatch(other.tokens, states[1].tokens)).vector, states[1].vector)
    with pytest.raises(ValueError, match="freed"):
        encoder(other)
    assert encoder.state_dict() == {}


@pytest.mark.parametrize(("count", "columns"), [(1, 3), (2, 3), (5, 3), (6, 3), (4, 1)])
def test_a_grid_is_torchvisions(count, columns):
    images = torch.randint(0, 256, (count, 3, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = make_grid(images, nrow=columns, padding=GAP, pad_value=255) if count > 1 else None
    grid = make_grid_picture(images, columns=columns)
    assert grid.dtype == torch.uint8
    assert torch.equal(grid, F.pad(images[0], (GAP,) * 4, value=255) if expected is None else expected)
