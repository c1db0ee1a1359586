"""All that is computed for the page about one run and one picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from ldm_train.assembly.stored_run import TrainedRun, fill_from_run, open_run
from ldm_train.commands.explain.forward_process import corrupt_picture
from ldm_train.commands.explain.network_view import ErrorLevels, NetworkView, measure_errors, view_network
from ldm_train.commands.explain.own_picture import read_own_picture
from ldm_train.commands.explain.preview import ExplainedPicture, name_option
from ldm_train.commands.explain.prompt_tokens import read_tokens
from ldm_train.commands.explain.reverse_process import ReverseProcess, trace_reverse
from ldm_train.commands.explain.variations import Variation, draw_variations
from ldm_train.settings.schema.options import Part
from ldm_train.settings.schema.using import ExplainSettings
from ldm_train.util.messages import note


@dataclass(frozen=True)
class Explanation(ExplainedPicture):
    """A run, a picture, and what the run does with it.

    Args:
        guidance_scale: None if the guidance has none.
    """

    trained: TrainedRun
    guidance_scale: float | None
    views: Sequence[NetworkView]
    errors: ErrorLevels
    reverse: ReverseProcess
    variations: Sequence[Variation]


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
    if left := [one.name for one in trained.parts.conditions.each if one.word is not None]:
        note(
            f"note: {settings.run_dir} is explained without {', '.join(left)}: what the page shows is drawn from prompts "
            "only"
        )
    config = trained.config
    generation, picture = read_own_picture(settings, trained.generation, caches=config.cache, held_out=config.held_out)
    generation.conditioner.tokenize([picture.prompt, *picture.others])  # raises for the names of unknown classes
    seed, recipe = settings.seed, trained.recipe
    note(f"{settings.run_dir}: adding noise, measuring errors, drawing step by step and with other settings …")
    filled = fill_from_run(settings, config)
    groups: dict[str, Part | None] = {"prediction": config.prediction, "schedule": config.schedule}
    groups |= {"sampler": filled.sampler, "spacing": filled.spacing, "guidance": filled.guidance}
    scale = None if filled.guidance is None else filled.guidance.get("scale")
    return Explanation(
        label,
        generation,
        picture,
        {group: name_option(group, part) for group, part in groups.items() if part is not None},
        corrupt_picture(generation, picture, seed=seed),
        read_tokens(trained.parts.text_encoder, picture.prompt),
        trained,
        float(scale) if isinstance(scale, int | float) else None,
        view_network(generation, picture, seed=seed),
        measure_errors(generation, picture, seed=seed),
        trace_reverse(generation, trained.parts.text_encoder, recipe, picture.prompt),
        draw_variations(generation, recipe, settings, config, [picture.prompt, *picture.others, ""]),
    )
