"""Runs that enlarge pictures: what a cache stores for them, what a step draws of it, and pictures of any size."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import ldm_train as library
from ldm_train.assembly.upscaling import make_upscaler, open_upscaler
from ldm_train.commands.playground.playground import Playground
from ldm_train.conditioners.condition import Condition, Conditions
from ldm_train.conditioners.low_resolution import LEVELS, LowResolution
from ldm_train.conditioners.number import Number
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import read_image, to_bytes
from ldm_train.data.pictures.reduced import reduce_views
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings, SampleSettings
from ldm_train.types import Given

CONDITIONS = "conditions=[{low_resolution:{factor:2,max_noise_level:100}}]"
QUICK = ["pictures.steps=2", "pictures.every=100", "validation.every=100"]


@pytest.fixture(scope="module")
def reduced(pictures: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures as they are, in float32, with copies of half the side."""
    folder = tmp_path_factory.mktemp("reduced") / "cache"
    answer = encode(pictures, folder, "dtype=float32", CONDITIONS)
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def enlarging(reduced: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("reduced") / "run"
    answer = train(reduced, run_dir, CONDITIONS, *QUICK)
    assert answer.code == 0, answer.err
    return run_dir


def test_a_cache_stores_small_copies_of_the_pictures(reduced: Path, pictures: Path) -> None:
    cache = LatentCache(reduced)
    examples, first = torch.arange(len(cache)), torch.zeros(len(cache), dtype=torch.int64)
    stored = cache.maps("low_resolution", examples, first)
    assert stored.shape == (len(cache), 3, 8, 8)
    for example, small in enumerate(stored):
        image = read_image(pictures / cache.entries[example].key, None)
        assert_close(small, reduce_views(image[None], 2)[0])


def test_a_step_draws_noise_and_its_level_by_position(reduced: Path) -> None:
    cache, condition = LatentCache(reduced), LowResolution(factor=2, max_noise_level=100, latent_factor=1)
    data = CachedLatents(cache, batch_size=4, conditions=[condition])
    positions = torch.arange(300)
    whole = data.fetch(positions).conditions["low_resolution"].values
    assert whole.shape == (300, 4, 8, 8)
    parts = [data.fetch(part).conditions["low_resolution"].values for part in positions.split(7)]
    assert torch.equal(torch.cat(parts), whole)
    levels = whole[:, 3, 0, 0]
    assert torch.equal(whole[:, 3], levels.view(-1, 1, 1).expand(-1, 8, 8))
    assert (levels.min() < 10, levels.max() > 90, levels.max() <= 100) == (True, True, True)
    clean = cache.maps("low_resolution", data.order(positions), torch.zeros_like(positions))
    squared = condition.signal[levels.long()]
    noise = (whole[:, :3] - squared.sqrt().view(-1, 1, 1, 1) * clean).square().mean((1, 2, 3)) / (1 - squared)
    assert_close(noise.mean().item(), 1.0, atol=0.05, rtol=0)


@pytest.mark.parametrize(("factor", "latent_factor", "channels"), [(2, 1, 3), (4, 4, 3), (2, 4, 12), (4, 8, 12), (4, 2, 3)])
def test_a_network_gets_the_small_picture_at_the_latents_size(factor: int, latent_factor: int, channels: int) -> None:
    condition = LowResolution(factor=factor, latent_factor=latent_factor, width=8)
    absent = condition.absent(2, size=(32, 48), latent_size=(32 // latent_factor, 48 // latent_factor))
    assert absent.values.shape == (2, 4, 32 // factor, 48 // factor)
    values = torch.cat(
        [torch.rand(2, 3, 32 // factor, 48 // factor), torch.full((2, 1, 32 // factor, 48 // factor), 7.0)], 1
    )
    given = condition(values, torch.tensor([True, False]))
    assert given.maps.shape == (2, channels, 32 // latent_factor, 48 // latent_factor)
    assert (channels, 8) == (condition.map_channels, condition.vector_width)
    assert_close(given.maps[0].mean(), values[0, :3].mean(), atol=0.02, rtol=0)
    assert given.vector[0].any()
    assert not given.vector[1].any()
    assert not given.maps[1].any()


def test_a_level_is_one_of_a_thousand_inputs_or_features() -> None:
    values = torch.zeros(2, 4, 4, 4)
    values[1, 3] = 17
    kept = torch.ones(2, dtype=torch.bool)
    table = LowResolution(width=None)(values, kept).vector
    assert table.shape == (2, LEVELS)
    assert table.argmax(1).tolist() == [0, 17]
    features = LowResolution(width=6)(values, kept).vector
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"factor": 3}, "factor"),
        ({"max_noise_level": 1000}, "max_noise_level"),
        ({"max_noise_level": 10, "noise_level": 11}, "noise_level"),
        ({"width": 3}, "width"),
        ({"beta_start": 0.1}, "beta_start"),
        ({"latent_factor": 3}, "factor"),
    ],
)
def test_settings_that_make_no_condition_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LowResolution(**settings)


@pytest.mark.slow
def test_a_cache_without_small_copies_is_refused_by_a_run_that_needs_them(
    cache: Path, reduced: Path, train: Callable, tmp_path: Path
) -> None:
    for folder, words in ((cache, [CONDITIONS]), (reduced, ["conditions=[{low_resolution:{factor:4}}]"])):
        answer = train(folder, tmp_path / "run", *words)
        assert answer.code != 0
        assert "low_resolution" in answer.err


@pytest.mark.slow
def test_sides_that_the_factor_does_not_divide_are_refused(pictures: Path, encode: Callable, tmp_path: Path) -> None:
    answer = encode(pictures, tmp_path / "cache", "image_size=18", "conditions=[{low_resolution:{factor:4}}]")
    assert answer.code != 0
    assert "multiples of 4" in answer.err


@pytest.mark.slow
def test_pictures_of_any_size_are_enlarged(enlarging: Path, ldm_train: Callable, tmp_path: Path) -> None:
    for width, height in ((8, 8), (13, 5), (30, 21)):
        Image.effect_noise((width, height), 80).convert("RGB").save(tmp_path / "small.png")
        out = tmp_path / f"{width}"
        words = [f"picture={tmp_path / 'small.png'}", "prompts=[a]", "steps=2", f"out={out}"]
        answer = ldm_train("sample", f"run_dir={enlarging}", *words)
        assert answer.code == 0, answer.err
        assert read_image(out / "0000.png", None).shape == (3, 2 * height, 2 * width)


@pytest.mark.slow
def test_a_run_that_enlarges_asks_for_a_picture(enlarging: Path, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    picture = tmp_path / "small.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    for run_dir, words, named in (
        (enlarging, [], "picture=FILE"),
        (enlarging, [f"picture={picture}", "noise_level=101"], "100"),
        (enlarging, [f"picture={picture}", f"mask={picture}"], "mask"),
        (enlarging, [f"picture={picture}", "tile=3"], "tile=3"),
        (enlarging, [f"picture={tmp_path / 'none.png'}"], "none.png"),
        (trained, ["noise_level=1"], "noise_level=1"),
        (trained, [f"upscaler={trained}"], "low_resolution"),
        (trained, [f"upscaler={enlarging}", "noise_level=101"], "100"),
    ):
        answer = ldm_train("sample", f"run_dir={run_dir}", "prompts=[a]", "steps=1", *words, f"out={tmp_path / 'out'}")
        assert answer.code != 0
        assert named in answer.err


@pytest.mark.slow
def test_the_playground_enlarges_what_the_page_asks_for(
    enlarging: Path, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [f"upscaler={enlarging}", "steps=2", "seed=3"]
    playground = Playground(compose_as(PlaygroundSettings, [f"run_dir={trained}", *words]), tmp_path / "page")
    session, prompt = playground.sessions.open(None), "a circle"
    small, large = (playground.draw(session, str(trained), prompt, more) for more in ({}, {"upscaler": str(enlarging)}))
    files = [playground.sessions.find_picture(entry.path) for entry in (small, large)]
    assert [read_image(file, None).shape[1:] for file in files] == [(16, 16), (32, 32)]
    answer = ldm_train("sample", f"run_dir={trained}", f"prompts=[{prompt}]", f"out={tmp_path / 'drawn'}", *words)
    assert answer.code == 0, answer.err
    assert files[1].read_bytes() == (tmp_path / "drawn" / "0000.png").read_bytes()
    playground.close()


def test_a_playground_that_cannot_enlarge_says_so(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="low_resolution"):
        Playground(compose_as(PlaygroundSettings, [f"run_dir={trained}", f"upscaler={trained}"]), tmp_path / "page")
    playground = Playground(compose_as(PlaygroundSettings, [f"run_dir={trained}"]), tmp_path / "page")
    with pytest.raises(ValueError, match="upscaler=RUN"):
        playground.draw(playground.sessions.open(None), str(trained), "a circle", {"upscaler": "mine"})
    playground.close()


def test_an_upscaler_enlarges_what_a_run_draws(enlarging: Path, trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    """As its own command does with each picture, to the bit."""
    first, words = "a black circle", ["steps=2", "seed=3"]
    for name, more in (("plain", []), ("large", [f"upscaler={enlarging}", "noise_level=20"])):
        answer = ldm_train("sample", f"run_dir={trained}", f"prompts=[{first}]", f"out={tmp_path / name}", *words, *more)
        assert answer.code == 0, answer.err
    picture = f"picture={tmp_path / 'plain' / '0000.png'}"
    alone = [f"run_dir={enlarging}", f"prompts=[{first}]", picture, "seed=3", "noise_level=20", f"out={tmp_path / 'alone'}"]
    assert ldm_train("sample", *alone).code == 0
    chained, single = (read_image(tmp_path / name / "0000.png", None) for name in ("large", "alone"))
    assert chained.shape == (3, 32, 32)
    assert torch.equal(chained, single)

    run, upscaler = library.load_run(trained, steps=2, seed=3), library.load_run(enlarging)
    drawn = library.generate(run, [first], upscaler=upscaler, noise_level=20)
    assert torch.equal(to_bytes(drawn)[0], chained)
    drawn = library.generate(upscaler, [first], picture=tmp_path / "plain" / "0000.png", seed=3, noise_level=20)
    assert torch.equal(to_bytes(drawn)[0], single)


@pytest.mark.slow
def test_a_picture_that_is_one_tile_is_drawn_as_without_tiles(enlarging: Path, ldm_train: Callable, tmp_path: Path) -> None:
    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "small.png")
    drawn = {}
    for tile in (16, 24, 32, 64):
        words = [
            f"picture={tmp_path / 'small.png'}",
            "prompts=[a]",
            "steps=2",
            f"tile={tile}",
            f"out={tmp_path / str(tile)}",
        ]
        answer = ldm_train("sample", f"run_dir={enlarging}", *words)
        assert answer.code == 0, answer.err
        drawn[tile] = read_image(tmp_path / str(tile) / "0000.png", None)
    assert torch.equal(drawn[32], drawn[64])
    assert not torch.equal(drawn[16], drawn[32])
    assert not torch.equal(drawn[24], drawn[32])


def test_what_is_read_for_another_size_is_scaled_to_it() -> None:
    condition = LowResolution(factor=2, latent_factor=1)
    rows = [Given(torch.full((1, 4, 4, side), 3.0), torch.tensor([True])) for side in (4, 8)]
    together = condition.gather(rows, latent_size=(8, 8))
    assert together.values.shape == (2, 4, 4, 4)
    assert_close(together.values, torch.full((2, 4, 4, 4), 3.0))


@pytest.mark.parametrize("level", [0, 80])
def test_pictures_of_the_data_are_drawn_with_the_noise_that_drawing_has(level: int, reduced: Path) -> None:
    cache, examples = LatentCache(reduced), torch.tensor([2, 0, 1])
    condition = LowResolution(factor=2, max_noise_level=100, noise_level=level, latent_factor=1)
    read, conditions = condition.read(cache), Conditions([condition])

    def gather(some: torch.Tensor) -> torch.Tensor:
        return conditions.gather(lambda *rows: {condition.name: read(*rows)}, some, latent_size=(16, 16))[
            condition.name
        ].values

    found = gather(examples)
    assert (found[:, 3] == level).all()
    clean = cache.maps("low_resolution", examples, torch.zeros(3, dtype=torch.int64)).float()
    squared = condition.signal[level]
    noise = (found[:, :3] - squared.sqrt() * clean).square().mean() / (1 - squared)
    assert_close(noise.item(), 1.0, atol=0.15, rtol=0)
    assert torch.equal(gather(examples[1:]), found[1:])


SMALL = {"factor": 2}


def fake_run(*conditions: Condition) -> SimpleNamespace:
    return SimpleNamespace(
        generation=SimpleNamespace(conditions=Conditions(conditions)), config=SimpleNamespace(run_dir="up")
    )


def test_an_upscaler_that_needs_more_than_a_picture_is_refused_before_anything_is_drawn() -> None:
    run = fake_run(LowResolution(**SMALL), Number("age", low=0, high=1, dropout=0.0))
    with pytest.raises(ValueError, match=r"upscaler=up .*age.*number\.age=VALUE"):
        make_upscaler(run, noise_level=None, tile=None, seed=0)  # type: ignore[arg-type]


def test_an_upscaler_does_not_get_what_is_set_for_the_run_that_draws() -> None:
    words = [
        "run_dir=r",
        "out=o",
        "upscaler=up",
        "prompts=[a]",
        "control_scale=0.5",
        "number.age=3",
        "strength=0.5",
        "picture=x.png",
    ]
    seen: list[SampleSettings] = []

    def open_it(settings: SampleSettings) -> SimpleNamespace:
        seen.append(settings)
        return fake_run()

    with pytest.raises(ValueError, match="upscaler=up"):
        open_upscaler(compose_as(SampleSettings, words), open_it)  # type: ignore[arg-type]
    [own] = seen
    assert (own.run_dir, own.control_scale, own.number, own.strength, own.picture) == ("up", 1, {}, 1, None)
