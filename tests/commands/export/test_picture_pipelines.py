"""Runs that draw from pictures leave into diffusers' pipelines, which draw the same from the same noise."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import diffusers
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldm_train.assembly.drawing import read_start
from ldm_train.assembly.given_conditions import read_given
from ldm_train.assembly.parts import Parts, build_parts
from ldm_train.assembly.pipeline_layouts import find_layout
from ldm_train.assembly.stored_run import build_recipe, fill_from_run
from ldm_train.commands.export.diffusers_folder import write_pipeline
from ldm_train.commands.export.exported_parts import export_parts
from ldm_train.commands.export.usage import describe_further_training, list_loading_lines
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import SampleSettings
from tests.assembly.tiny_pipelines import (
    PIPELINES,
    PROMPT,
    draw_with_diffusers,
    expect_same,
    make_autoencoder,
    randomize,
    words_of_inputs,
    write_inputs,
)
from tests.commands.export.shaped import SHAPE

KINDS = ["inpaint", "depth", "reference", "low_resolution"]
OPTIONS = {"low_resolution": "{low_resolution:{factor:2}}"}  # of which the condition is not the option as it is
TEXT = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=2", "text_encoder.heads=4"]
TEXT += ["text_encoder.pooled=false"]


@dataclass(frozen=True)
class Exported:
    config: TrainSettings
    parts: Parts
    out: Path

    def draw(self, kind: str, inputs: dict[str, Path], folder: Path) -> Tensor:
        """Return the picture (3, H, W) from 0 to 1 of the run itself, as `sample` draws it."""
        words = [f"run_dir={folder}", f"out={folder}", f"prompts=['{PROMPT}']", "guidance.scale=3", "steps=4"]
        settings = fill_from_run(compose_as(SampleSettings, [*words, *words_of_inputs(kind, inputs)]), self.config)
        parts = self.parts
        generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), torch.device("cpu"))
        start = read_start(settings, generation).initial
        recipe = build_recipe(settings, steps=4, seed=0)
        return generation([PROMPT], recipe, picture=start, given=read_given(settings, generation))[0] / 2 + 0.5


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """`exported("depth")`: a run with random weights and its pipeline's folder; its raw latents have a shift."""
    vae = tmp_path_factory.mktemp("vae")
    make_autoencoder(shift=0.25).save_pretrained(vae)
    made: dict[str, Exported] = {}

    def make(kind: str) -> Exported:
        folder = tmp_path_factory.mktemp(kind)
        words = [
            *SHAPE,
            "cache=null",
            f"run_dir={folder}",
            "image_size=16",
            *TEXT,
            f"conditions=[{OPTIONS.get(kind, kind)}]",
        ]
        words += ["autoencoder=pretrained", f"autoencoder.weights={vae}", "prediction=velocity"]
        config = compose_as(TrainSettings, words)
        parts = build_parts(config)
        for number, module in enumerate(parts.trained().values()):
            randomize(module, seed=number)
        weights = {f"{prefix}{name}": p for prefix, one in parts.trained().items() for name, p in one.named_parameters()}
        found = export_parts(config, folder, weights)
        assert found.reasons == []
        write_pipeline(folder / "out", found, torch.float32)
        return Exported(config, parts, folder / "out")

    return lambda kind: made[kind] if kind in made else made.setdefault(kind, make(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_of_a_run_draws_the_same_picture(kind: str, exported: Callable, tmp_path: Path) -> None:
    run, inputs = exported(kind), write_inputs(tmp_path)
    without = {"depth_estimator": None, "feature_extractor": None} if kind == "depth" else {}
    pipeline = PIPELINES[kind][0].from_pretrained(run.out, **without)
    pipeline.set_progress_bar_config(disable=True)
    expect_same(draw_with_diffusers(pipeline, kind, inputs, scale=3), run.draw(kind, inputs, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_a_card_draws_with_the_pipeline(
    kind: str, exported: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = exported(kind)
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").symlink_to(run.out)
    code = list_loading_lines("out", run.config, run.parts)
    assert any(PIPELINES[kind][0].__name__ in line for line in code)
    exec("\n".join(code), {})
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_names_the_condition_for_further_training(kind: str, exported: Callable) -> None:
    run = exported(kind)
    text = run.config.text_encoder.with_values(weights="x")
    commands = describe_further_training(
        "out", run.config.with_values(text_encoder=text), layout=find_layout(run.parts.conditions)
    )
    option = "{low_resolution:{factor:2,max_noise_level:350,width:null}}" if kind == "low_resolution" else kind
    assert commands.count(f"'conditions=[{option}]'") == 2
    assert (f"source.maps={{{kind}:" in commands) == (kind in ("depth", "reference"))


def test_a_pipeline_without_depth_says_that_its_estimator_is_missing(exported: Callable) -> None:
    """Not a part of the run: whoever draws gives a map, or an estimator."""
    with pytest.raises(ValueError, match="depth_estimator"):
        diffusers.DiffusionPipeline.from_pretrained(exported("depth").out)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_refuses_a_pipeline_that_draws_from_pictures(
    kind: str, exported: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("evaluate", f"pipeline={exported(kind).out}", f"out={tmp_path / 'o.json'}", "prompts=[a]")
    assert answer.code == 1
    assert PIPELINES[kind][0].__name__ in answer.err
