"""Runs that train a ControlNet on a frozen base: what they keep, how they go on, and what they draw."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

import ldm_train as library
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.stored_weights import load_weights, read_weights
from ldm_train.data.cache.reader import LatentCache
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.types import Given
from tests.conftest import PICTURES, TEXT

CONTROL = ("adapter=controlnet", "conditions=[{control:{name:shape}}]", "optimizer.lr=0.01", "adapter.hint_channels=[8,8]")
MAPS = "source.maps={shape:shapes/{name}}"
QUICK = ("pictures.every=100", "validation.every=100", "max_steps=2")


@pytest.fixture(scope="module")
def shaped(pictures: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures with their silhouettes, in float32."""
    folder = tmp_path_factory.mktemp("shaped")
    shutil.copytree(pictures, folder / "source")
    (folder / "source/shapes").mkdir()
    for path in pictures.glob("*.png"):
        black = Image.open(path).convert("RGB").point(lambda value: 255 if value < 9 else 0)
        ImageOps.grayscale(black).point(lambda value: 255 if value > 250 else 0).save(folder / "source/shapes" / path.name)
    answer = encode(folder / "source", folder / "cache", "dtype=float32", MAPS, CONTROL[1])
    assert answer.code == 0, answer.err
    return folder / "cache"


@pytest.fixture(scope="module")
def silhouette(shaped: Path) -> Path:
    return shaped.parent / "source/shapes/circle-red.png"


@pytest.fixture(scope="module")
def control(shaped: Path, trained: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of a ControlNet on the tiny run, which never saw a map."""
    run_dir = tmp_path_factory.mktemp("control") / "run"
    answer = train(shaped, run_dir, f"network.weights={trained}", *CONTROL)
    assert answer.code == 0, answer.err
    assert "warning" not in answer.err
    return run_dir


def opened(run_dir: Path, weights: str = "ema") -> Parts:
    parts = build_parts(read_trained(run_dir))
    load_weights(run_dir, parts, weights=weights)
    return parts


def read_pixels(folder: Path) -> bytes:
    return Image.open(folder / "0000.png").convert("RGB").tobytes()


@pytest.fixture
def draw(ldm_train: Callable, tmp_path: Path) -> Callable[..., bytes]:
    """`draw(run_dir, *words)`: the pixels of one picture."""

    def run(run_dir: Path, *words: str) -> bytes:
        answer = ldm_train(
            "sample", f"run_dir={run_dir}", "prompts=[a circle]", f"out={tmp_path / 'drawn'}", "steps=3", *words
        )
        assert answer.code == 0, answer.err
        return read_pixels(tmp_path / "drawn")

    return run


def test_a_cache_stores_the_map_at_the_pictures_size(shaped: Path, encode: Callable, tmp_path: Path) -> None:
    cache = LatentCache(shaped)
    stored = cache.maps("shape", torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert stored.shape == (2, 3, 16, 16)
    assert set(stored.unique().tolist()) == {-1.0, 1.0}
    tiny = ["autoencoder=openmoji", "image_size=64", "scale_check=false", MAPS, CONTROL[1]]
    answer = encode(shaped.parent / "source", tmp_path / "cache", *tiny)
    assert answer.code == 0, answer.err
    assert LatentCache(tmp_path / "cache").maps("shape", torch.tensor([0]), torch.tensor([0])).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("kind", ["raw", "ema"])
def test_a_checkpoint_holds_the_controlnet_only(kind: str, control: Path) -> None:
    state, step, _ = read_weights(control, kind)
    assert step == 8
    assert all(name.startswith("network.control.") for name in state)


def test_the_base_stays_bit_for_bit_and_is_recorded(control: Path, trained: Path) -> None:
    before, after = opened(trained).network.state_dict(), opened(control).network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after.keys() - before.keys() == {name for name in after if name.startswith("control.")}
    assert any(after[name].any() for name in after if ".zero_" in name)
    assert len(json.loads((control / "run.json").read_text())["base"]) == 64


def test_a_continued_run_equals_one_that_was_not_interrupted(
    shaped: Path, trained: Path, control: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    words = (f"network.weights={trained}", *CONTROL)
    with power_cut(4):
        train(shaped, tmp_path / "run", *words)
    assert train(shaped, tmp_path / "run", *words).code == 0
    for kind in ("raw", "ema"):
        actual, reference = read_weights(tmp_path / "run", kind)[0], read_weights(control, kind)[0]
        assert actual.keys() == reference.keys()
        assert all(torch.equal(actual[name], reference[name]) for name in reference)


def test_accumulation_changes_only_the_rounding(
    shaped: Path, trained: Path, control: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(shaped, tmp_path / "run", f"network.weights={trained}", *CONTROL, "micro_batch_size=2")
    assert answer.code == 0, answer.err
    one, other = read_weights(tmp_path / "run", "raw")[0], read_weights(control, "raw")[0]
    assert max((one[name] - other[name]).abs().max().item() for name in one) < 2e-3


def test_without_a_map_or_with_a_scale_of_0_the_base_draws(
    control: Path, trained: Path, silhouette: Path, draw: Callable
) -> None:
    base, given = draw(trained), f"map.shape={silhouette}"
    assert draw(control) == base
    assert draw(control, given, "control_scale=0") == base
    assert draw(control, given) not in (base, draw(control, given, "control_scale=0.5"))


def test_python_draws_with_it_too(control: Path, silhouette: Path) -> None:
    run, weaker = library.load_run(control), library.load_run(control, control_scale=0.5)
    image = torch.ones(1, 3, 16, 16)
    given = {"shape": Given(image, torch.tensor([True]))}
    drawn: list[Tensor] = [library.generate(one, ["a circle"], steps=2, given=given) for one in (run, weaker)]
    assert not torch.equal(*drawn)


def test_a_lora_of_the_base_draws_together_with_it(
    control: Path, trained: Path, cache: Path, silhouette: Path, train: Callable, draw: Callable, tmp_path: Path
) -> None:
    lora = ("adapter=lora", "adapter.rank=2", "optimizer.lr=0.1", *QUICK)
    assert train(cache, tmp_path / "lora", f"network.weights={trained}", *lora).code == 0
    given = f"map.shape={silhouette}"
    with_lora = draw(control, given, f"adapters=[{tmp_path / 'lora'}]")
    assert with_lora not in (draw(control, given), draw(trained, f"adapters=[{tmp_path / 'lora'}]"))


def test_another_run_starts_from_its_controlnet(
    control: Path, shaped: Path, trained: Path, silhouette: Path, train: Callable, draw: Callable, tmp_path: Path
) -> None:
    words, other = (*CONTROL, *QUICK, "optimizer.lr=0"), read_weights(control, "ema")[0]
    answer = train(shaped, tmp_path / "run", f"network.weights={trained}", f"adapter.weights={control}", *words)
    assert answer.code == 0, answer.err
    assert f"the ControlNet starts from that of {control} at its step 8" in answer.out
    answer = train(shaped, tmp_path / "further", f"network.weights={control}", *words)
    assert answer.code == 0, answer.err
    given = f"map.shape={silhouette}"
    for run_dir in (tmp_path / "run", tmp_path / "further"):
        state = read_weights(run_dir, "raw")[0]
        assert all(torch.equal(state[name], other[name]) for name in other)
        assert draw(run_dir, given) == draw(control, given)


def test_evaluate_draws_each_caption_with_its_own_map(control: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ("features=null", "steps=2", "device=cpu")
    for name, scale in (("with", 1), ("without", 0)):
        answer = ldm_train("evaluate", f"run_dir={control}", f"out={tmp_path / name}.json", f"control_scale={scale}", *words)
        assert answer.code == 0, answer.err
    assert (tmp_path / "with.json").read_text() != (tmp_path / "without.json").read_text()


REFUSED = [
    (("conditions=[]",), ("follows a map", "conditions=[{control:{name:edges}}]")),
    (("conditions=[{map:{name:shape}}]",), ("follows a map",)),
    (("adapter=null", "network.weights=null"), ("the map shape", "set adapter=controlnet")),
    (("adapter=lora",), ("the map shape", "set adapter=controlnet")),
    (("conditions=[{control:{name:shape}},{control:{name:other}}]",), ("shape and other", "one run for each")),
    (("network.weights=null",), ("adapter=…", "network.weights=null")),
    (("adapter.hint_channels=[8]",), ("adapter.hint_channels=[8]", "2 widths")),
    (('trained=["network.*"]',), ("two ways",)),
    (("conditions=[{control:{name:shape,encoded:true}}]",), ("encoded=true", "ControlNet")),
    (("adapter.weights=nowhere",), ("adapter.weights=nowhere",)),
    (("conditions=[{control:{name:shape}},size]",), ("other conditions", "conditions.size")),
]


@pytest.mark.parametrize(("words", "parts"), REFUSED)
def test_what_does_not_go_is_refused_by_train_and_check_alike(
    words: tuple[str, ...],
    parts: tuple[str, ...],
    shaped: Path,
    trained: Path,
    train: Callable,
    ldm_train: Callable,
    train_words: list[str],
    tmp_path: Path,
) -> None:
    kept = [word for word in CONTROL if not (words[0] == "adapter=lora" and word.startswith("adapter.hint"))]
    kept = [word for word in kept if not ("adapter=null" in words and word.startswith("adapter"))]
    more = [f"network.weights={trained}", *kept, *words]
    answer = train(shaped, tmp_path / "run", *more)
    assert answer.code == 1, answer.out
    source = [f"source.path={shaped.parent / 'source'}", MAPS, *PICTURES, *TEXT, "measure=false"]
    found = ldm_train("check", *source, *train_words, *more)
    assert found.code == 1, found.out
    for part in parts:
        assert part in answer.err
        assert part in " ".join((found.err + found.out).split())


def test_a_run_with_a_controlnet_is_no_plain_base_and_no_lora(
    control: Path, trained: Path, cache: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", f"network.weights={control}", *QUICK)
    assert answer.code == 1
    assert "network.weights is a run with a ControlNet" in answer.err
    drawing = ("sample", "prompts=[x]", f"out={tmp_path / 'out'}", f"run_dir={trained}")
    answer = ldm_train(*drawing, f"adapters=[{control}]")
    assert answer.code == 1
    assert f"{control} is a run with a ControlNet" in answer.err
    answer = ldm_train(*drawing, "control_scale=0.5")
    assert answer.code == 1
    assert "control_scale=0.5" in answer.err
    answer = ldm_train("export", f"run_dir={control}", f"out={tmp_path / 'all.safetensors'}", "merge=true")
    assert answer.code == 1
    assert "merge=true" in answer.err
    for layout in ("diffusers", "single_file", "lora"):
        answer = ldm_train("export", f"run_dir={control}", f"out={tmp_path / layout}", f"layout={layout}")
        assert answer.code == 1
        assert "layout=controlnet" in answer.err


def test_an_exported_file_of_the_weights_draws_the_same(
    control: Path, silhouette: Path, ldm_train: Callable, draw: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "control.safetensors"
    answer = ldm_train("export", f"run_dir={control}", f"out={file}")
    assert answer.code == 0, answer.err
    given = f"map.shape={silhouette}"
    assert draw(control, given, f"weights={file}") == draw(control, given)
