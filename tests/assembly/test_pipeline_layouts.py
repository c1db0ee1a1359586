"""Which conditions diffusers has a pipeline for, and what is said of the others."""

from types import SimpleNamespace

import pytest

from ldm_train.assembly.pipeline_layouts import find_layout, list_condition_problems
from ldm_train.conditioners.condition import Condition, Conditions
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.low_resolution import LowResolution
from ldm_train.conditioners.map import Map
from ldm_train.conditioners.picture_size import PictureSize
from ldm_train.settings.composition import build
from ldm_train.settings.shipped import shipped_part


def problems(*conditions: Condition, channels: int = 4) -> list[str]:
    autoencoder = SimpleNamespace(channels=channels)
    return list_condition_problems(SimpleNamespace(conditions=Conditions(conditions), autoencoder=autoencoder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "pipeline"),
    [
        ("inpaint", "StableDiffusionInpaintPipeline"),
        ("depth", "StableDiffusionDepth2ImgPipeline"),
        ("reference", "StableDiffusionInstructPix2PixPipeline"),
        ("low_resolution", "StableDiffusionUpscalePipeline"),
    ],
)
def test_the_shipped_options_have_a_pipeline(option: str, pipeline: str) -> None:
    condition = build(shipped_part("condition", option), "condition")
    layout = find_layout(Conditions([condition]))
    assert layout is not None
    assert layout.pipeline == pipeline
    assert problems(condition) == []


class OtherHole(Inpaint):
    """May hand the network something else than `Inpaint` does."""


@pytest.mark.parametrize("condition", [OtherHole(), Map(name="reference", channels=1, encoded=True, scaled=False)])
def test_another_class_or_a_grey_reference_has_no_pipeline(condition: Condition) -> None:
    assert find_layout(Conditions([condition])) is None


def test_prompts_alone_need_no_layout() -> None:
    assert find_layout(Conditions()) is None
    assert problems() == []


@pytest.mark.parametrize(
    ("conditions", "named"),
    [
        ([Map(name="depth")], ["noisy latents (4 channels), then depth (1 channel)", "normalized=true"]),
        ([Map(name="seen", encoded=True, channels=3)], ["then seen (4 channels)", "scaled=false"]),
        ([Inpaint(), Map(name="depth", normalized=True)], ["then inpaint (5 channels), then depth (1 channel)"]),
        ([PictureSize(width=2), Inpaint()], ["then inpaint (5 channels)", "size (a vector of 12)"]),
        ([PictureSize(width=2)], ["noisy latents (4 channels), and adds size (a vector of 12)"]),
    ],
    ids=lambda value: None if isinstance(value[0], str) else "+".join(one.name for one in value),
)
def test_a_run_without_a_pipeline_is_described_by_its_inputs_in_order(conditions: list[Condition], named: list[str]) -> None:
    [problem] = problems(*conditions)
    for words in [*named, "StableDiffusionInpaintPipeline", "conditions=[reference]"]:
        assert words in problem


@pytest.mark.parametrize(("factor", "latent_factor"), [(2, 4), (4, 2), (2, 1)])
def test_a_pipeline_enlarges_by_the_factor_of_the_autoencoder(factor: int, latent_factor: int) -> None:
    [problem] = problems(LowResolution(factor=factor, latent_factor=latent_factor))
    for words in ("StableDiffusionUpscalePipeline", f"factor, {latent_factor}", f"factor={factor}"):
        assert words in problem


def test_a_pipeline_for_holes_needs_latents_of_four_channels() -> None:
    [problem] = problems(Inpaint(latent_channels=8), channels=8)
    assert "9 input channels" in problem
