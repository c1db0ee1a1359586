"""What can be shown of a training that was not run: the picture, its latents, the noise, the tokens of its caption."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ldm_train.assembly.parts import build_parts, choose_device
from ldm_train.assembly.training_data import fill_from_cache, refuse_unfit
from ldm_train.commands.explain.forward_process import NoisyPicture, corrupt_picture, list_targets
from ldm_train.commands.explain.own_picture import OwnPicture, read_own_picture
from ldm_train.commands.explain.prompt_tokens import PromptTokens, read_tokens
from ldm_train.data.cache.reader import open_caches
from ldm_train.generation import Generation
from ldm_train.settings.composition import compose_as
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExplainSettings


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture, and what needs no trained network.

    Args:
        label: the run's name, where there are several; else "".
        names: the option of each group, such as prediction and schedule; own code by its class.
        tokens: None if the conditioner reads no text.
    """

    label: str
    generation: Generation
    picture: OwnPicture
    names: dict[str, str]
    forward: Sequence[NoisyPicture]
    tokens: PromptTokens | None

    def named(self, text: str) -> str:
        """Return a text with the run's name before it, if there are several runs."""
        return f"{self.label}: {text}" if self.label else text


@dataclass(frozen=True)
class Preview(ExplainedPicture):
    """A training that was not run.

    Args:
        targets: what its network would be taught to output at each point of the forward process, (C, h, w).
    """

    targets: Sequence[Tensor]


def preview_training(settings: ExplainSettings) -> Preview:
    """Return what the page shows of a training on the cache of the settings.

    Raises:
        ValueError: the cache cannot be opened or was made with other settings, or there is no such picture.
    """
    assert settings.cache is not None
    given = {name: getattr(settings, name) for name in ("schedule", "prediction", "autoencoder", "text_encoder")}
    config = compose_as(TrainSettings, [], {"cache": settings.cache, "run_dir": "none"})
    caches, device = open_caches(settings.cache), choose_device(settings.device)
    config = fill_from_cache(config.with_values(**given, image_size=settings.image_size), caches[0])
    parts = build_parts(config, empty_network=True)
    refuse_unfit(config, parts, caches, with_maps=False)  # nothing is drawn with them
    generation = Generation(
        network=parts.network,
        conditioner=parts.text_encoder.to(device),  # type: ignore[arg-type]
        autoencoder=parts.autoencoder.to(device),
        schedule=parts.schedule,
        prediction=parts.prediction,
        size=parts.size,
        device=device,
    )
    generation, picture = read_own_picture(settings, generation, caches=settings.cache, held_out=config.held_out)
    names = {group: name_option(group, getattr(config, group)) for group in ("prediction", "schedule")}
    forward = corrupt_picture(generation, picture, seed=settings.seed)
    targets = list_targets(generation, picture, forward, seed=settings.seed)
    return Preview("", generation, picture, names, forward, read_tokens(parts.text_encoder, picture.prompt), targets)


def name_option(group: str, part: Part) -> str:
    """Return the shipped option that a part is of; the class of own code."""
    return nearest_option(group, part.as_plain()) or part.target.rpartition(".")[2]
