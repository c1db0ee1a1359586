"""Which of diffusers' pipelines has which conditions: networks with more inputs than noisy latents and a prompt."""

from collections.abc import Mapping
from dataclasses import dataclass

from ldm_train.assembly.parts import Parts
from ldm_train.conditioners.condition import Condition, Conditions
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.low_resolution import LowResolution
from ldm_train.conditioners.map import Map
from ldm_train.util.safe_json import Json

PLAIN = "StableDiffusionPipeline"


@dataclass(frozen=True)
class PipelineLayout:
    """A pipeline of diffusers for a network with one condition besides the prompt.

    Args:
        pipeline: the class in diffusers.
        option: the condition's option, which is also the name that it has by default.
        maps: what is concatenated to the noisy latents, in this order.
        settings: what the condition's identity must have.
        added: the number of channels with latents of 4 channels.
    """

    pipeline: str
    option: str
    maps: str
    settings: Mapping[str, Json]
    added: int

    def fits(self, condition: Condition) -> bool:
        """Return whether the pipeline passes what a condition gives; a class of the user's may do anything with it."""
        shipped = type(condition) in (Map, Inpaint, LowResolution)
        return shipped and all(condition.identity.get(name) == value for name, value in self.settings.items())

    def __str__(self) -> str:
        more = [f"{name}={str(value).lower()}" for name, value in self.settings.items() if name != "kind"]
        settings = f" ({' '.join(more)})" if more else ""
        return f"{self.pipeline} has {self.maps}, as conditions=[{self.option}]{settings} gives"


INPAINT = PipelineLayout(
    "StableDiffusionInpaintPipeline",
    "inpaint",
    "the mask, then the latents of what it leaves of a picture",
    {"kind": "inpaint"},
    5,
)
DEPTH = PipelineLayout(
    "StableDiffusionDepth2ImgPipeline",
    "depth",
    "a map of one channel that is stretched to [-1, 1]",
    {"kind": "map", "channels": 1, "nearest": False, "encoded": False, "normalized": True},
    1,
)
EDIT = PipelineLayout(
    "StableDiffusionInstructPix2PixPipeline",
    "reference",
    "the unscaled latents of another picture",
    {"kind": "map", "channels": 3, "encoded": True, "scaled": False},
    4,
)
UPSCALE = PipelineLayout(
    "StableDiffusionUpscalePipeline",
    "low_resolution",
    "a small picture of the latents' size",
    {"kind": "low_resolution"},
    3,
)
LAYOUTS = (INPAINT, DEPTH, EDIT, UPSCALE)
UPSCALER_SCALE = 0.08333  # of the latents, which that pipeline sets whatever its autoencoder's config says


def find_layout(conditions: Conditions) -> PipelineLayout | None:
    """Return the layout that has the only condition of a run; None if there is none, or more than one."""
    each = conditions.each
    return next((layout for layout in LAYOUTS if len(each) == 1 and layout.fits(each[0])), None)


def find_layout_of_channels(added: int) -> PipelineLayout | None:
    """Return the layout of a published network with so many input channels next to its noisy latents."""
    return next((layout for layout in LAYOUTS if layout.added == added), None)


def list_condition_problems(parts: Parts) -> list[str]:
    """Return why no pipeline of diffusers passes to the network what its conditions give, with its inputs in their order."""
    conditions = parts.conditions
    layout = find_layout(conditions)
    if layout is INPAINT and parts.autoencoder.channels != 4:
        return [
            f"conditions: {INPAINT.pipeline} takes networks of 9 input channels, for latents of 4 channels; "
            f"autoencoder has {parts.autoencoder.channels}"
        ]
    small = conditions.each[0] if layout is UPSCALE else None
    if isinstance(small, LowResolution) and small.factor != small.latent_factor:
        return [
            f"conditions: {UPSCALE.pipeline} enlarges by the autoencoder's factor, {small.latent_factor}, and "
            f"{small.name} has factor={small.factor}"
        ]
    if layout is not None or not len(conditions):
        return []
    inputs = [f"noisy latents ({count_channels(parts.autoencoder.channels)})"]
    inputs += [f"{one.name} ({count_channels(one.map_channels)})" for one in conditions.each if one.map_channels]
    vectors = [f"{one.name} (a vector of {one.vector_width})" for one in conditions.each if one.vector_width]
    also = f", and adds {', '.join(vectors)}" if vectors else ""
    return [
        f"conditions: the network takes {', then '.join(inputs)}{also}, and no pipeline of diffusers passes that. {PLAIN} "
        f"has noisy latents only; next to them, {'; '.join(map(str, LAYOUTS))}"
    ]


def count_channels(count: int) -> str:
    """Return a number of channels for a message."""
    return f"{count} channel{'s' * (count != 1)}"
