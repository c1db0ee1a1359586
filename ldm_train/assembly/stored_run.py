"""A run directory back into its parts, for every verb that needs them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ldm_train.assembly.new_word_files import add_embeddings
from ldm_train.assembly.parts import Parts, build_parts, choose_device
from ldm_train.assembly.stacked_adapters import add_adapters
from ldm_train.assembly.stored_weights import load_weights
from ldm_train.assembly.trained_for import refuse_other_purpose
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.run_dir.config_changes import filled
from ldm_train.settings.composition import build
from ldm_train.settings.constructors import check_config
from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.settings.stored import check_stored


@dataclass(frozen=True)
class TrainedRun:
    """A run directory as a command asks for it: the run's config and parts with their weights, ready to draw by a recipe."""

    config: DictConfig
    parts: Parts
    step: int
    generation: Generation
    recipe: SamplingSettings


def open_run(config: DictConfig) -> TrainedRun:
    """The run that a command's `run_dir`, `weights`, `device`, `sampler`, `spacing`, `guidance`, `steps` and `seed` name.

    Raises:
        ValueError: no run there, no weights, or points in time that its schedule does not have.
    """
    trained, device = read_config(config.run_dir), choose_device(config.device)
    fill_from_run(config, trained)
    parts = build_parts(trained)
    refuse_other_purpose(Path(config.run_dir), trained, parts, weights=str(config.weights))
    recipe = build_recipe(
        config, steps=config.steps, seed=config.seed, negative_prompt=str(config.get("negative_prompt", ""))
    )
    step = load_weights(Path(config.run_dir), parts, weights=str(config.weights))
    add_adapters(config.get("adapters"), trained, parts)
    add_embeddings(config.get("embeddings"), parts.text_encoder)
    weak = build_weak(config, parts, device)
    generation = parts.generation(parts.network.eval(), parts.text_encoder.eval(), device, weak)
    generation.check([], recipe)
    return TrainedRun(trained, parts, step, generation, recipe)


def fill_from_run(config: DictConfig, trained: DictConfig) -> None:
    """Fill in what the config leaves to the run: where its pictures are guided to, and through which points in time."""
    with open_dict(config):
        if config.get("spacing") is None:
            config.spacing = trained.spacing
        if config.get("guidance") is None:
            config.guidance = trained.guidance


def build_recipe(config: DictConfig, *, steps: int, seed: int, negative_prompt: str = "") -> SamplingSettings:
    """How to draw, from the groups `sampler`, `spacing` and `guidance` of a config."""
    settings = {name: value for name, value in config.guidance.items() if name != "weak"}
    guidance = build(OmegaConf.create(settings), "guidance")
    return SamplingSettings(
        build(config.sampler, "sampler"), steps, build(config.spacing, "spacing"), guidance, seed, negative_prompt
    )


def build_weak(config: DictConfig, strong: Parts, device: torch.device) -> Generation | None:
    """The weaker model that `guidance.weak` names, a run directory.

    Raises:
        ValueError: it is on another schedule, or on another autoencoder's latents.
    """
    run_dir = config.guidance.get("weak")
    if run_dir is None:
        return None
    schedule = strong.schedule
    weaker = read_config(run_dir)
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


def read_config(run_dir: str) -> DictConfig:
    """The config that a run was started with.

    Raises:
        ValueError: no run there.
    """
    path = Path(run_dir) / "config.yaml"
    if not path.is_file():
        raise ValueError(f"run_dir={run_dir} is not a run directory: it has no config.yaml")
    config = read_settings_file(path)
    check_config(config, origin=str(path))
    if "guidance" not in config and "network" in config:
        raise ValueError(f"run_dir={run_dir} was trained by an older version, whose configs this one does not read")
    try:
        config = filled(config)
    except OmegaConfBaseException as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    check_stored(config, path)
    return config
