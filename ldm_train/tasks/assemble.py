"""A run directory back into its parts, for every verb that needs them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf

from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedule import NoiseSchedule
from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.generation import Generation
from ldm_train.tasks.config import build
from ldm_train.tasks.run_directory import LAST
from ldm_train.types import Autoencoder

Weights = Literal["ema", "raw"]


@dataclass(frozen=True)
class Parts:
    """What a run's config names, built; `network` and `text_encoder` are modules yet to be given weights."""

    network: torch.nn.Module
    text_encoder: TextEncoder
    autoencoder: Autoencoder
    schedule: NoiseSchedule
    prediction: Prediction
    size: int

    def generation(self, network: torch.nn.Module, text_encoder: torch.nn.Module, device: torch.device) -> Generation:
        """Pictures by these weights, on this device."""
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
        )


def build_parts(config: DictConfig) -> Parts:
    """The parts of a run whose config knows its autoencoder, text encoder and picture size."""
    autoencoder, text_encoder = build(config.autoencoder), build(config.text_encoder)
    settings = {name: value for name, value in config.network.items() if name != "weights"}
    network = build(
        OmegaConf.create(settings),
        in_channels=autoencoder.channels,
        context_width=text_encoder.width,
        vector_width=text_encoder.vector_width,
    )
    schedule, prediction = build(config.schedule), build(config.prediction)
    return Parts(network, text_encoder, autoencoder, schedule, prediction, config.image_size)


def load_weights(run_dir: Path, parts: Parts, *, weights: Weights = "ema") -> int:
    """Give the parts a run's trained weights; the step they are from.

    Raises:
        ValueError: no checkpoint there, one of another network, or weights neither "ema" nor "raw".
    """
    checkpoint = read_checkpoint(run_dir)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights={weights} is not known; a checkpoint holds ema (averaged) and raw")
    state = checkpoint["callbacks"]["EMA"]["average"] if weights == "ema" else checkpoint["state_dict"]
    for prefix, module in {"network.": parts.network, "text_encoder.": parts.text_encoder}.items():
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        expected = {name: p.shape for name, p in module.named_parameters() if p.requires_grad}
        wrong = sorted({n for n in expected if n not in own or own[n].shape != expected[n]} | (own.keys() - expected.keys()))
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ValueError(
                f"{run_dir / LAST} was trained with another {prefix.rstrip('.')}: "
                f"missing, left over or of another shape are {', '.join(wrong[:3])}{more}"
            )
        module.load_state_dict(own, strict=False)
    return checkpoint["global_step"]


def read_checkpoint(run_dir: Path) -> dict[str, Any]:
    """A run's last checkpoint, on the CPU.

    Raises:
        ValueError: there is none, or it cannot be read without running code from it.
    """
    path = run_dir / LAST
    if not path.is_file():
        raise ValueError(f"{run_dir} is not a trained run: {path} is not there")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
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
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
