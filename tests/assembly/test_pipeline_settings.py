"""Pipelines in each published layout are opened with their condition, and draw what diffusers draws with them."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from ldm_train.assembly.pipeline_settings import read_pipeline
from tests.assembly.tiny_pipelines import (
    PROMPT,
    draw_with_diffusers,
    expect_same,
    make_pipeline,
    read_drawn,
    tiny_text_models,
    words_of_inputs,
    write_inputs,
)

Published = tuple[StableDiffusionPipeline, Path]
CASES = [
    ("plain", False),
    ("plain", True),
    ("inpaint", False),
    ("inpaint", True),
    ("depth", True),
    ("reference", False),
    ("low_resolution", True),
]


@pytest.fixture(scope="module", autouse=True)
def text_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_text_models(tmp_path_factory.mktemp("models")):
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Published]:
    """`published("depth", second=True)`: such a pipeline and its folder, made once."""
    made: dict[tuple[str, bool], Published] = {}

    def make(kind: str, *, second: bool) -> Published:
        if (kind, second) not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind, second] = make_pipeline(kind, folder, second=second), folder / "pipeline"
        return made[kind, second]

    return make


@pytest.mark.parametrize(("kind", "second"), CASES)
def test_a_pipeline_draws_what_diffusers_draws_with_it(
    kind: str, second: bool, published: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    pipeline, folder = published(kind, second=second)
    inputs = write_inputs(tmp_path / "inputs")
    words = [f"prompts=['{PROMPT}']", "steps=4", "guidance.scale=3", *words_of_inputs(kind, inputs)]
    answer = ldm_train("sample", f"run_dir={folder}", f"out={tmp_path / 'out'}", "device=cpu", *words)
    assert answer.code == 0, answer.err
    expected = draw_with_diffusers(pipeline, kind, inputs, scale=3)
    expect_same(expected, read_drawn(tmp_path / "out/0000.png"))


@pytest.mark.parametrize(("kind", "second"), CASES)
def test_a_pipeline_is_read_with_the_condition_of_its_network(kind: str, second: bool, published: Callable) -> None:
    config = read_pipeline(str(published(kind, second=second)[1]))
    assert [part.get("name") for part in config.conditions] == ([] if kind == "plain" else [kind])
    assert config.prediction.target.endswith("Velocity" if second else "Noise")
    assert config.image_size == 16
    assert config.text_encoder is not None
    assert config.text_encoder.get("layer") == ("penultimate" if second else "last")
    assert config.text_encoder.get("pad_token") == (0 if second else 49407)


@pytest.mark.parametrize(
    ("kind", "second", "needed"),
    [
        ("inpaint", False, "picture=FILE mask=FILE"),
        ("depth", True, "map.depth=FILE"),
        ("low_resolution", True, "picture=FILE"),
    ],
)
def test_a_pipeline_asks_for_what_it_draws_from(
    kind: str, second: bool, needed: str, published: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [f"run_dir={published(kind, second=second)[1]}", "prompts=[a]", "steps=1", f"out={tmp_path / 'out'}"]
    answer = ldm_train("sample", *words)
    assert answer.code == 1
    assert needed in answer.err


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule=sigmoid"),
        ("scheduler/scheduler_config.json", {"prediction_type": "score"}, "prediction_type=score"),
        ("text_encoder/config.json", {"hidden_size": 40}, "40"),
        ("unet/config.json", {"act_fn": "gelu"}, "act_fn=gelu"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny"),
    ],
)
def test_a_part_that_a_run_cannot_have_is_named(
    file: str, changes: dict[str, object], named: str, published: Callable, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(published("plain", second=False)[1], tmp_path / "changed"))
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=named) as refused:
        read_pipeline(str(folder))
    assert f"run_dir={folder}" in str(refused.value)


def test_weights_of_a_run_are_not_those_of_a_pipeline(published: Callable, ldm_train: Callable, tmp_path: Path) -> None:
    words = [f"run_dir={published('plain', second=False)[1]}", "prompts=[a]", "weights=raw", f"out={tmp_path / 'out'}"]
    answer = ldm_train("sample", *words)
    assert answer.code == 1
    assert "weights=raw" in answer.err
