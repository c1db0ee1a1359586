"""Open a run directory: its settings, its parts with their weights, ready to draw."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ldm_train.assembly.capabilities import read_capabilities, set_tf32
from ldm_train.assembly.control import scale_control
from ldm_train.assembly.new_word_files import add_embeddings
from ldm_train.assembly.parts import Parts, build_parts, choose_device
from ldm_train.assembly.pipeline_settings import is_pipeline, read_pipeline
from ldm_train.assembly.stacked_adapters import add_adapters
from ldm_train.assembly.stored_weights import load_first_weights, load_weights
from ldm_train.assembly.trained_for import refuse_other_purpose
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.run_dir.moved_paths import explaining_paths, relocated
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.settings.composition import build
from ldm_train.settings.run_options import DRAWING_GROUPS
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import DrawingSettings, SampleSettings
from ldm_train.util.messages import note_all

Drawing = TypeVar("Drawing", bound=DrawingSettings)


@dataclass(frozen=True, repr=False)
class TrainedRun:
    """An opened run: its settings, its parts with their weights, and a recipe to draw by.

    Attributes:
        config: the settings that it was last started with.
        parts: `network`, `text_encoder`, `autoencoder`, `schedule`, `prediction` and `weighting`, with the trained weights.
        step: the optimizer step that the weights are from.
        generation: what draws pictures; `generation.denoiser()` is the network for a sampler, `generation.condition(texts)`
            its conditioning, `generation.encode(images)` and `generation.decode(latents)` are the autoencoder.
        recipe: the sampler, the number and the spacing of its steps, and the guidance.
    """

    config: TrainSettings
    parts: Parts
    step: int
    generation: Generation
    recipe: SamplingSettings

    def __repr__(self) -> str:
        network, (height, width) = self.parts.network, self.generation.sides
        count = sum(parameter.numel() for parameter in network.parameters())
        return (
            f"TrainedRun({self.config.run_dir!r}: step {self.step}, {type(network).__name__} with {count:,} parameters, "
            f"pictures of {width}x{height} pixels, {self.recipe.steps} steps of {type(self.recipe.sampler).__name__}, "
            f"device {self.generation.device})"
        )


def open_run(config: DrawingSettings) -> TrainedRun:
    """Open the run that a command names, with the weights, device and recipe that it asks for.

    Raises:
        ValueError: no run there, no weights, or points in time that its schedule does not have.
    """
    assert config.run_dir is not None
    run_dir = Path(config.run_dir)
    with relocated(config.moved):
        return _open_located(config, run_dir)


def read_drawn(run_dir: str) -> TrainSettings:
    """Return the settings of what `sample` draws with: of a run, or of a pipeline in diffusers' layout.

    Raises:
        ValueError: neither is there, or it cannot be read.
    """
    return read_pipeline(run_dir) if is_pipeline(Path(run_dir)) else read_trained(run_dir)


def _open_located(config: DrawingSettings, run_dir: Path) -> TrainedRun:
    assert config.run_dir is not None
    published = isinstance(config, SampleSettings) and is_pipeline(run_dir)
    if published and config.weights != "ema":
        raise ValueError(f"weights={config.weights} is of a run, and run_dir={run_dir} is a pipeline; leave it out")
    trained = read_drawn(config.run_dir) if published else read_trained(config.run_dir)
    device = choose_device(config.device)
    set_tf32(device.type == "cuda" and trained.trainer.tf32 and read_capabilities("cuda").tf32)
    config = fill_from_run(config, trained)
    with explaining_paths(trained, run_dir):
        parts = build_parts(trained)
    if not published:
        refuse_other_purpose(run_dir, trained, parts, weights=str(config.weights))
    assert config.steps is not None
    recipe = build_recipe(
        config, steps=config.steps, seed=config.seed, negative_prompt=getattr(config, "negative_prompt", "")
    )
    with explaining_paths(trained, run_dir):
        step = load_pipeline(trained, parts) if published else load_weights(run_dir, parts, weights=str(config.weights))
    if isinstance(config, SampleSettings):
        add_adapters(config.adapters, trained, parts)
        add_embeddings(config.embeddings, parts.text_encoder)
    scale_control(parts, config.control_scale)
    with explaining_paths(trained, run_dir):
        weak = build_weak(config, parts, device)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), device, weak)
    generation.check([], recipe)
    return TrainedRun(trained, parts, step, generation, recipe)


def load_pipeline(trained: TrainSettings, parts: Parts) -> int:
    """Load the weights of a pipeline's network, print notes about them, and return the step of 0."""
    note_all(load_first_weights(trained, parts))
    return 0


def fill_from_run(config: Drawing, trained: TrainSettings) -> Drawing:
    """Return settings with what they leave to the run: how it draws its own pictures."""
    parts = {name: getattr(config, name) or getattr(trained, name) for name in DRAWING_GROUPS}
    return config.with_values(**parts, steps=config.steps or trained.pictures.steps)


def build_recipe(
    config: DrawingSettings | TrainSettings, *, steps: int, seed: int, negative_prompt: str = ""
) -> SamplingSettings:
    """Return how to draw: the sampler, the spacing of its steps, and the guidance of these settings."""
    assert config.sampler is not None
    assert config.guidance is not None
    assert config.spacing is not None
    guidance = build(config.guidance, "guidance")
    return SamplingSettings(
        build(config.sampler, "sampler"), steps, build(config.spacing, "spacing"), guidance, seed, negative_prompt
    )


def build_weak(config: DrawingSettings | TrainSettings, strong: Parts, device: torch.device) -> Generation | None:
    """Open the weaker model that `guidance.weak` names, or return None if it names none.

    Raises:
        ValueError: it is on another schedule, or on another autoencoder's latents.
    """
    run_dir = None if config.guidance is None else config.guidance.get("weak")
    if run_dir is None:
        return None
    schedule = strong.schedule
    weaker = read_trained(run_dir)
    parts = build_parts(weaker)
    refuse_other_purpose(Path(run_dir), weaker, parts)
    load_weights(Path(run_dir), parts)
    if parts.autoencoder.identity != strong.autoencoder.identity:
        raise ValueError(f"guidance.weak={run_dir} was trained on another autoencoder's latents; they must be the same")
    shares = torch.linspace(0, 0.999, 10, dtype=torch.float64)
    times = [s.quantile(shares).double() for s in (schedule, parts.schedule)]
    if not torch.equal(times[0], times[1]) or not torch.equal(schedule.ratio(times[0]), parts.schedule.ratio(times[1])):
        raise ValueError(f"guidance.weak={run_dir} was trained on another noise schedule; it must be on the same one")
    return parts.generation(parts.network.eval(), parts.text_encoder.eval(), device)
