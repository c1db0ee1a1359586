"""All that is computed for the page about one run and one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_train.assembly.stored_run import TrainedRun, fill_from_run, open_run
from ldm_train.commands.explain.forward_process import NoisyPicture, corrupt_picture
from ldm_train.commands.explain.network_view import ErrorLevels, NetworkView, measure_errors, view_network
from ldm_train.commands.explain.own_picture import OwnPicture, read_own_picture
from ldm_train.commands.explain.reverse_process import ReverseProcess, trace_reverse
from ldm_train.commands.explain.variations import Variation, draw_variations
from ldm_train.generation import Generation
from ldm_train.settings.config_file import nearest_option
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.using import ExplainSettings


@dataclass(frozen=True)
class Explanation:
    """A run, a picture, and what the run does with it.

    Args:
        label: the run's name, where there are several; else "".
        names: the option of each group, such as prediction and schedule; own code by its class.
        guidance_scale: None if the guidance has none.
    """

    label: str
    trained: TrainedRun
    generation: Generation
    picture: OwnPicture
    names: dict[str, str]
    guidance_scale: float | None
    forward: Sequence[NoisyPicture]
    views: Sequence[NetworkView]
    errors: ErrorLevels
    reverse: ReverseProcess
    variations: Sequence[Variation]

    def named(self, text: str) -> str:
        """Return a text with the run's name before it, if there are several runs."""
        return f"{self.label}: {text}" if self.label else text


def explain_run(settings: ExplainSettings, *, label: str) -> Explanation:
    """Return what the page shows of the run and the picture that the settings name.

    Raises:
        ValueError: the run cannot be opened or drawn with, or there is no such picture.
    """
    trained = open_run(settings)
    if getattr(trained.parts.network, "map_channels", 0):
        raise ValueError(
            f"run_dir={settings.run_dir} is conditioned on maps as well, which explain does not draw with; `ldm-train "
            "report` shows its pictures"
        )
    if needed := [one.name for one in trained.parts.conditions.needed]:
        raise ValueError(
            f"run_dir={settings.run_dir} was never trained without {', '.join(needed)}, which explain does not draw with; "
            "`ldm-train report` shows its pictures"
        )
    generation, picture = read_own_picture(settings, trained)
    generation.conditioner.tokenize([picture.prompt, *picture.others])  # raises for the names of unknown classes
    seed, recipe = settings.seed, trained.recipe
    filled = fill_from_run(settings, trained.config)
    groups: dict[str, Part | None] = {"prediction": trained.config.prediction, "schedule": trained.config.schedule}
    groups |= {"sampler": filled.sampler, "spacing": filled.spacing, "guidance": filled.guidance}
    scale = None if filled.guidance is None else filled.guidance.get("scale")
    return Explanation(
        label,
        trained,
        generation,
        picture,
        {group: name_option(group, part) for group, part in groups.items() if part is not None},
        float(scale) if isinstance(scale, int | float) else None,
        corrupt_picture(generation, picture, seed=seed),
        view_network(generation, picture, seed=seed),
        measure_errors(generation, picture, seed=seed),
        trace_reverse(generation, trained.parts.text_encoder, recipe, picture.prompt),
        draw_variations(generation, recipe, settings, trained.config, [picture.prompt, *picture.others, ""]),
    )


def name_option(group: str, part: Part) -> str:
    """Return the shipped option that a part is of; the class of own code."""
    return nearest_option(group, part.as_plain()) or part.target.rpartition(".")[2]
