"""Pictures that an evaluation draws: by several processes, after interruptions, and by what they are named."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from ldm_train.commands.evaluate.command import repeat_rows
from ldm_train.commands.evaluate.drawn_pictures import DrawingJob, draw_pictures, read_picture_batches
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Given

CONFIG = compose_as(EvaluateSettings, ["out=o.json", "device=cpu", "batch_size=2"])


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The painter's module, by a name under which other processes find it too."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("light_painter")


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.slow
def test_processes_share_the_batches(devices: int, light: ModuleType, tmp_path: Path) -> None:
    config = CONFIG
    order = DrawingJob(config, ["a", "bb", "c", "dd", "e"], {"seed": 0}, light.open_light)
    files = draw_pictures(order, tmp_path / "o.json", light.Light(), devices=devices)
    drawn = torch.cat(list(read_picture_batches(files, 3)))
    torch.testing.assert_close(drawn, light.Light()(order.prompts, torch.arange(5)), atol=0.5 / 127.5, rtol=0)
    assert not list(tmp_path.rglob("*.writing"))


def test_the_rest_of_an_interrupted_drawing_is_drawn_in_whole_batches(light: ModuleType, tmp_path: Path) -> None:
    config, asked = CONFIG, []

    def paint(prompts: list[str], numbers: Tensor, given: object) -> Tensor:
        asked.append(numbers.tolist())
        return light.Light()(prompts, numbers)

    order = DrawingJob(config, list("abcdef"), {}, light.open_light)
    files = draw_pictures(order, tmp_path / "o.json", paint, devices=1)
    files[3].unlink()
    asked.clear()
    assert draw_pictures(order, tmp_path / "o.json", paint, devices=1) == files
    assert asked == [[2, 3]]


@pytest.mark.parametrize("other", [{"seed": 1}, {"model": "other"}, {"guidance": {"scale": 2.0}}])
def test_what_decides_pictures_names_their_folder(other: dict[str, object], light: ModuleType) -> None:
    config, reported = CONFIG, {"seed": 0, "model": "one", "guidance": {"scale": 1.0}}
    own = DrawingJob(config, ["a", "b"], reported, light.open_light)
    assert DrawingJob(config, ["a", "b"], dict(reversed(reported.items())), light.open_light).key == own.key
    assert DrawingJob(config, ["a", "b"], reported | other, light.open_light).key != own.key
    assert DrawingJob(config, ["a", "c"], reported, light.open_light).key != own.key
    ages = [Given(torch.tensor([1.0, age]), torch.tensor([True, kept])) for age, kept in ((2, True), (2, False), (3, True))]
    keys = {DrawingJob(config, ["a", "b"], reported, light.open_light, {"age": age}).key for age in ages}
    assert len(keys | {own.key}) == 4


def test_conditions_are_repeated_with_their_captions() -> None:
    repeated = repeat_rows({"age": Given(torch.tensor([1.0, 2.0]), torch.tensor([True, False]))}, 5)["age"]
    assert repeated.values.tolist() == [1, 2, 1, 2, 1]
    assert repeated.kept.tolist() == [True, False, True, False, True]


def test_pictures_of_several_sizes_are_read_in_their_order(tmp_path: Path) -> None:
    from ldm_train.data.pictures.images import save_png

    files = []
    for number, side in enumerate([4, 4, 5, 4]):
        files.append(tmp_path / f"{number}.png")
        save_png(torch.full((3, side, 4), number, dtype=torch.uint8), files[-1])
    read = list(read_picture_batches(files, 2))
    assert [tuple(batch.shape) for batch in read] == [(2, 3, 4, 4), (1, 3, 5, 4), (1, 3, 4, 4)]
    assert [round((value + 1) * 127.5) for batch in read for value in batch[:, 0, 0, 0].tolist()] == [0, 1, 2, 3]
