"""A run directory back into its parts, for every verb that needs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.diffusion.weighting import Weighting
from ldm_train.encoders.class_labels import ClassLabels
from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.generation import Generation, Recipe
from ldm_train.tasks.parts.embeddings import add_embeddings
from ldm_train.tasks.parts.stacked import add_adapters
from ldm_train.tasks.parts.trained_for import refuse_other_purpose
from ldm_train.tasks.parts.trained_part import completed
from ldm_train.tasks.running.continuing import filled
from ldm_train.tasks.running.directory import LAST
from ldm_train.tasks.settings.config import build
from ldm_train.tasks.settings.constructors import check_config
from ldm_train.tasks.settings.safe_yaml import read_settings_file
from ldm_train.tasks.settings.stored import check_stored
from ldm_train.tasks.settings.strict import KEPT
from ldm_train.training.checkpoint_files import refuse_damaged
from ldm_train.training.sharded_checkpoint import whole
from ldm_train.types import Autoencoder
from ldm_train.util.memory import check_fits
from ldm_train.util.text import list_names
from ldm_train.weights.files import read, read_told

NEW_WORDS = "token_embedding.learned"  # of a text encoder, begins at zero


@dataclass(frozen=True)
class Parts:
    """What a run's config names, built; `network`, `text_encoder` and a trained `weighting` are yet to be given weights."""

    network: torch.nn.Module
    text_encoder: TextEncoder | ClassLabels
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    weighting: Weighting
    size: int

    @property
    def divisor(self) -> int:
        """What the sides of pictures must be multiples of, pixels."""
        return self.autoencoder.factor * getattr(self.network, "divisor", 1)

    def trained(self) -> dict[str, torch.nn.Module]:
        """What may have trained weights, by their prefix in a checkpoint."""
        modules = {"network.": self.network, "text_encoder.": self.text_encoder, "weighting.": self.weighting}
        return {prefix: module for prefix, module in modules.items() if isinstance(module, torch.nn.Module)}

    def generation(
        self,
        network: torch.nn.Module,
        text_encoder: torch.nn.Module,
        device: torch.device,
        weak: Generation | None = None,
    ) -> Generation:
        """Pictures by these weights, on this device, guided by a weaker model where there is one."""
        self.autoencoder.to(device)
        network.to(device)
        text_encoder.to(device)
        return Generation(
            network=network,
            conditioner=text_encoder,  # type: ignore[arg-type]
            autoencoder=self.autoencoder,
            schedule=self.schedule,
            prediction=self.prediction,
            size=self.size,
            device=device,
            weak=weak,
        )


def build_parts(config: DictConfig, *, empty_network: bool = False) -> Parts:
    """The parts of a run whose config knows its autoencoder, text encoder and picture size.

    Args:
        empty_network: on "meta": for its names and shapes alone, in no memory.
    """
    autoencoder, text_encoder = build(config.autoencoder, "autoencoder"), build(config.text_encoder, "text_encoder")
    settings = {name: value for name, value in config.network.items() if name not in KEPT["network"]}
    make = partial(
        build,
        OmegaConf.create(settings),
        "network",
        in_channels=autoencoder.channels,
        context_width=text_encoder.context_width,
        vector_width=text_encoder.vector_width,
    )
    if empty_network or is_own(config.network):
        with torch.device("meta"):
            network = make()
    if not empty_network:
        if is_own(config.network):
            check_fits(sum(parameter.numel() for parameter in network.parameters()), noun="network")
        network = make()
    schedule, prediction = build(config.schedule, "schedule"), build(config.prediction, "prediction")
    weighting = build(config.weighting, "weighting")
    deviation = getattr(weighting, "sigma_data", schedule.sigma_data)
    if schedule.sigma_data not in (None, deviation):
        raise ValueError(f"weighting.sigma_data={deviation} and schedule.sigma_data={schedule.sigma_data} must be the same")
    return Parts(network, text_encoder, autoencoder, schedule, prediction, weighting, config.image_size)


def is_own(config: DictConfig) -> bool:
    """Return whether a group's constructor is one of this package."""
    return str(config.get("_target_")).startswith("ldm_train.")


@dataclass(frozen=True)
class TrainedRun:
    """A run directory as a command asks for it: the run's config and parts with their weights, ready to draw by a recipe."""

    config: DictConfig
    parts: Parts
    step: int
    generation: Generation
    recipe: Recipe


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
    add_adapters(config.get("adapters"), trained, parts, read_weights)
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


def build_recipe(config: DictConfig, *, steps: int, seed: int, negative_prompt: str = "") -> Recipe:
    """How to draw, from the groups `sampler`, `spacing` and `guidance` of a config."""
    settings = {name: value for name, value in config.guidance.items() if name != "weak"}
    guidance = build(OmegaConf.create(settings), "guidance")
    return Recipe(build(config.sampler, "sampler"), steps, build(config.spacing, "spacing"), guidance, seed, negative_prompt)


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


def first_weights(config: DictConfig, parts: Parts) -> list[str]:
    """Give the parts what `network.weights` names; what is to be told of them."""
    from ldm_train.tasks.parts.published import start  # which loads other runs' by this file

    return start(config, parts)


def load_weights(run_dir: Path, parts: Parts, *, weights: str = "ema") -> int:
    """Give the parts trained weights, a run's "ema" or "raw" ones or those of an exported file; the step they are from.

    Raises:
        ValueError: no weights there, or another network's.
    """
    state, step, path = read_weights(run_dir, weights)
    state = completed(state, run_dir, parts, first_weights)
    for prefix, module in parts.trained().items():
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not own and prefix == "weighting.":
            continue  # a run that starts from another one's weights may weigh its loss in another way
        expected = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
        wrong = sorted({n for n in expected if n not in own or own[n].shape != expected[n]} | (own.keys() - expected.keys()))
        wrong = [name for name in wrong if name in own or not name.endswith(NEW_WORDS)]  # which what is started from lacks
        if wrong:
            raise ValueError(
                f"{path} was trained with another {prefix.rstrip('.')}: "
                f"missing, left over or of another shape are {list_names(wrong)}"
            )
        module.load_state_dict(own, strict=False)
    return step


def read_weights(run_dir: Path, weights: str) -> tuple[Mapping[str, Tensor], int, Path]:
    """Trained weights by their names in a run, the step they are from, and the file that held them.

    Raises:
        ValueError: no checkpoint or file there, or weights neither "ema" nor "raw" nor a file's name.
    """
    if weights.endswith(".safetensors"):
        path = Path(weights)
        if not path.is_file():
            raise ValueError(f"weights={weights} is not there; `ldm-train export run_dir={run_dir} out={weights}` makes it")
        told = read_told(path)
        if "weights" not in told:
            raise ValueError(f"weights={weights} was not written by `ldm-train export`: it does not tell its step")
        return read(path), told["step"], path
    checkpoint = read_checkpoint(run_dir)
    if weights not in ("ema", "raw"):
        raise ValueError(
            f"weights={weights} is not known; a checkpoint holds ema (averaged) and raw, "
            "and `ldm-train export` writes FILE.safetensors"
        )
    state = checkpoint["callbacks"]["EMA"]["average"] if weights == "ema" else checkpoint["state_dict"]
    return state, checkpoint["global_step"], run_dir / LAST


def read_checkpoint(run_dir: Path) -> dict[str, Any]:
    """A run's last checkpoint, on the CPU.

    Raises:
        ValueError: there is none, it is damaged, or it cannot be read without running code from it.
    """
    path = run_dir / LAST
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a trained run: {path} is not there")
    refuse_damaged(path, run_dir=run_dir)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return whole({name: value for name, value in checkpoint.items() if name != "optimizer_states"}, path)
    except Exception as error:  # unpickling reports damage by many classes
        raise ValueError(f"{path} cannot be read as a checkpoint of this project: {str(error).splitlines()[0]}") from error


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


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one.

    Raises:
        ValueError: this machine has no such device.
    """
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(
            f"device={name}: this machine has {count or 'no'} GPU{'s' * (count != 1)}; device=auto takes what there is"
        )
    return device
