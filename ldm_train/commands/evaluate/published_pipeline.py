"""Pipelines in diffusers' layout, drawn with by diffusers itself: to measure what was exported, or what others published."""

import inspect
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ldm_train import draws
from ldm_train.assembly.parts import choose_device
from ldm_train.commands.evaluate.drawing_models import Told, plain
from ldm_train.commands.evaluate.drawn_pictures import Opener, Painter
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder
from ldm_train.weights.fingerprint import digest_files
from ldm_train.weights.tensor_files import check_tensor_file


class PipelineModel:
    """A pipeline that diffusers reads from a folder, with its own sampler and spacing."""

    def __init__(self, config: EvaluateSettings) -> None:
        assert config.pipeline is not None
        self.device = choose_device(config.device)
        self.pipeline = open_pipeline(config.pipeline, self.device)
        self.opener: Opener = pipeline_painter
        self.autoencoder: Autoencoder | None = None
        self.identity: Told = {"pipeline": digest_files(Path(config.pipeline)), "diffusers": version("diffusers")}

    def paint(self, config: EvaluateSettings) -> Painter:
        return painter(self.pipeline, steps=config.steps, seed=config.seed, scale=scale_of(config))

    def recipe(self, config: EvaluateSettings) -> Told:
        return plain(config, "steps", "seed") | {"guidance": scale_of(config)}

    def told(self, config: EvaluateSettings) -> Told:
        return {
            "pipeline": type(self.pipeline).__name__,
            "sampler": sampler_name(self.pipeline),
            "steps": config.steps,
            "guidance": {"scale": guidance_scale(self.pipeline, scale_of(config))},
            "seed": config.seed,
        }


def scale_of(config: EvaluateSettings) -> float | None:
    """The guidance that a config asks for; None leaves it to the pipeline."""
    return None if config.guidance is None else config.guidance.get("scale")


def pipeline_painter(config: EvaluateSettings) -> Painter:
    assert config.pipeline is not None
    pipeline = open_pipeline(config.pipeline, choose_device(config.device))
    return painter(pipeline, steps=config.steps, seed=config.seed, scale=scale_of(config))


def open_pipeline(path: str, device: torch.device) -> DiffusionPipeline:
    """A pipeline from a folder on this machine; neither code nor pickles from it are run.

    Raises:
        ValueError: there is none, diffusers cannot read it, or a file that `ldm-train export` wrote is damaged.
    """
    if not (Path(path) / "model_index.json").is_file():
        raise ValueError(f"pipeline={path} is no folder with a model_index.json, as diffusers' `save_pretrained` writes it")
    for file in sorted(Path(path).glob("*/*.safetensors")):
        check_tensor_file(file)
    try:
        pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except Exception as error:  # whatever the parts' own readers raise
        raise ValueError(f"pipeline={path} cannot be read by diffusers: {str(error).splitlines()[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def painter(pipeline: DiffusionPipeline, *, steps: int, seed: int, scale: float | None) -> Painter:
    """What draws prompts; each picture's noise is its own generator's, so batches leave it alone. Unconditional ones too.

    Args:
        scale: of guidance; None leaves it to the pipeline.
    """
    known = inspect.signature(type(pipeline).__call__).parameters
    guided = {} if scale is None else {"guidance_scale": scale}
    if scale is not None and "guidance_scale" not in known:
        raise ValueError(f"guidance={scale:g} is not to be had: {type(pipeline).__name__} knows no guidance_scale")

    def paint(prompts: list[str], numbers: Tensor) -> Tensor:
        asked = {"prompt": prompts} if "prompt" in known else {"batch_size": len(prompts)}
        generators = [draws.generator(seed, "initial noise", number) for number in numbers.tolist()]
        drawn = pipeline(**asked, **guided, num_inference_steps=steps, generator=generators, output_type="np")
        return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1

    return paint


def guidance_scale(pipeline: DiffusionPipeline, scale: float | None) -> float:
    """The scale that it draws by, its own where none is given; 1 where it knows none."""
    known = inspect.signature(type(pipeline).__call__).parameters
    own = known["guidance_scale"].default if "guidance_scale" in known else 1.0
    return float(own if scale is None else scale)


def sampler_name(pipeline: DiffusionPipeline) -> str:
    return type(pipeline.scheduler).__name__
