"""Draw with pipelines in diffusers' layout through diffusers itself, to measure exported or published models."""

import inspect
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ldm_train import draws
from ldm_train.assembly.cut_texts import warn_of_cuts
from ldm_train.assembly.parts import choose_device
from ldm_train.assembly.pipeline_layouts import LAYOUTS
from ldm_train.commands.evaluate.drawing_models import Details, select_plain
from ldm_train.commands.evaluate.drawn_pictures import Opener, Painter
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.types import Autoencoder, Given
from ldm_train.util.safe_json import read_object
from ldm_train.weights.exported_files import check_exported_folder
from ldm_train.weights.fingerprint import digest_files
from ldm_train.weights.tensor_files import check_tensor_file

STEPS = 20  # of the sampler, unless the settings give another number


class PipelineModel:
    """A pipeline that diffusers reads from a folder, with the sampler and spacing of the pipeline."""

    def __init__(self, settings: EvaluateSettings) -> None:
        assert settings.pipeline is not None
        refuse_pictures(settings.pipeline)
        self.device = choose_device(settings.device)
        self.pipeline = open_pipeline(settings.pipeline, self.device)
        self.opener: Opener = open_pipeline_painter
        self.autoencoder: Autoencoder | None = None
        self.needed: list[str] = []
        self.identity: Details = {"pipeline": digest_files(Path(settings.pipeline)), "diffusers": version("diffusers")}

    def paint(self, settings: EvaluateSettings) -> Painter:
        assert settings.steps is not None
        return build_pipeline_painter(
            self.pipeline, steps=settings.steps, seed=settings.seed, scale=get_guidance_scale(settings)
        )

    def recipe(self, settings: EvaluateSettings) -> Details:
        return select_plain(settings, "steps", "seed") | {"guidance": get_guidance_scale(settings)}

    def describe(self, settings: EvaluateSettings) -> Details:
        return {
            "pipeline": type(self.pipeline).__name__,
            "sampler": type(self.pipeline.scheduler).__name__,
            "steps": settings.steps,
            "guidance": {"scale": resolve_guidance_scale(self.pipeline, get_guidance_scale(settings))},
            "seed": settings.seed,
        }

    def warn_of_cuts(self, prompts: list[str]) -> list[str]:
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        if tokenizer is None:
            return []
        capacity = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
        return warn_of_cuts(
            prompts, lambda texts: [len(tokenizer.tokenize(one)) for one in texts], capacity, setting="prompts"
        )


def refuse_pictures(path: str) -> None:
    """Raise if a pipeline draws from pictures and not only from prompts.

    Raises:
        ValueError: it does.
    """
    index = Path(path) / "model_index.json"
    name = read_object(index).get("_class_name") if index.is_file() else None
    if name in {layout.pipeline for layout in LAYOUTS}:
        raise ValueError(
            f"pipeline={path} is a {name}, which draws from pictures too, and an evaluation gives it prompts only; evaluate "
            "the run instead, with run_dir=DIR, or pictures that it drew, with pictures=DIR"
        )


def get_guidance_scale(settings: EvaluateSettings) -> float | None:
    """Return the guidance scale of the settings, or None to use the pipeline's default."""
    return None if settings.guidance is None else settings.guidance.get("scale")


def open_pipeline_painter(settings: EvaluateSettings) -> Painter:
    assert settings.pipeline is not None
    assert settings.steps is not None
    pipeline = open_pipeline(settings.pipeline, choose_device(settings.device))
    return build_pipeline_painter(pipeline, steps=settings.steps, seed=settings.seed, scale=get_guidance_scale(settings))


def open_pipeline(path: str, device: torch.device) -> DiffusionPipeline:
    """Load a pipeline from a folder on this machine, without running code or pickles from it.

    Raises:
        ValueError: there is no pipeline, diffusers cannot read it, or a file that `ldm-train export` wrote is damaged.
    """
    if not (Path(path) / "model_index.json").is_file():
        raise ValueError(
            f"pipeline={path} is not a folder with a model_index.json; give pipeline=DIR written by `ldm-train export` or "
            "by diffusers' `save_pretrained`"
        )
    check_exported_folder(Path(path))
    for file in sorted(Path(path).glob("*/*.safetensors")):
        check_tensor_file(file)
    try:
        pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except Exception as error:  # diffusers' and transformers' readers raise many types
        raise ValueError(f"diffusers cannot read pipeline={path}: {str(error).splitlines()[0]}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def build_pipeline_painter(pipeline: DiffusionPipeline, *, steps: int, seed: int, scale: float | None) -> Painter:
    """Return a painter; each picture has its own generator, so its noise does not depend on the batch.

    Unconditional pipelines work too: the prompts then only count the pictures.

    Args:
        scale: the guidance scale; None uses the pipeline's default.

    Raises:
        ValueError: a scale is given, but the pipeline has no guidance.
    """
    accepted = inspect.signature(type(pipeline).__call__).parameters
    guided = {} if scale is None else {"guidance_scale": scale}
    if scale is not None and "guidance_scale" not in accepted:
        raise ValueError(
            f"guidance.scale={scale:g} cannot be used: {type(pipeline).__name__} takes no guidance_scale; leave guidance out"
        )

    def paint(prompts: list[str], numbers: Tensor, given: Mapping[str, Given]) -> Tensor:
        inputs = {"prompt": prompts} if "prompt" in accepted else {"batch_size": len(prompts)}
        generators = [draws.generator(seed, "initial noise", number) for number in numbers.tolist()]
        drawn = pipeline(**inputs, **guided, num_inference_steps=steps, generator=generators, output_type="np")
        return torch.from_numpy(drawn.images).permute(0, 3, 1, 2) * 2 - 1

    return paint


def resolve_guidance_scale(pipeline: DiffusionPipeline, scale: float | None) -> float:
    """Return the guidance scale that a pipeline draws with: the given one, else its default, else 1."""
    accepted = inspect.signature(type(pipeline).__call__).parameters
    default = accepted["guidance_scale"].default if "guidance_scale" in accepted else 1.0
    return float(default if scale is None else scale)
