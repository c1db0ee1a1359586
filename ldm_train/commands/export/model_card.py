"""Write the model card of an export (README.md with YAML front matter): data, steps, metrics, licences and use."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from ldm_train.run_dir.metric_names import say_if_few_held_out
from ldm_train.run_dir.reading import Plain, RunRead, read_run
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings
from ldm_train.util.files import atomic_write
from ldm_train.weights.hub import is_hub_name

UNSTATED, TASK, PICTURE_TASK = "not stated", "text-to-image", "image-to-image"
COUNTED = {
    *("step", "steps", "seed", "resamples", "pictures", "taught_pictures", "real_pictures"),
    *("held_out_pairs", "held_out_examples"),
}


@dataclass(frozen=True)
class Card:
    """The content of a model card that does not come from the run's files.

    Args:
        name: the model's name.
        kind: one sentence that says what the folder contains.
        tags: tags for catalogues.
        metadata: the export's step and choice of weights.
        usage: commands or code, as Markdown.
        notes: what a user should know first.
    """

    name: str
    kind: str
    tags: Sequence[str]
    metadata: Mapping[str, object]
    usage: str
    notes: Sequence[str]


def write_card(folder: Path, card: Card, trained: TrainSettings, run_dir: Path, settings: ExportSettings) -> None:
    run = read_run(run_dir)
    lines = [*build_front_matter(card, trained, settings), *format_body(card, trained, run, settings)]
    atomic_write(folder / "README.md", "\n".join(lines) + "\n")


def build_front_matter(card: Card, trained: TrainSettings, settings: ExportSettings) -> list[str]:
    """Return the lines of the YAML front matter that catalogues read."""
    base = str(trained.network.get("weights"))
    fields: dict[str, object] = {"library_name": "diffusers", "tags": list(card.tags)}
    if tasks := [task for task in (TASK, PICTURE_TASK) if task in card.tags]:
        fields["pipeline_tag"] = tasks[0]
    if settings.licence is None or re.fullmatch(r"[a-z0-9][a-z0-9.-]*", settings.licence):
        fields["license"] = settings.licence or "unknown"
    else:  # the hub accepts only its own short names of licences
        fields |= {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", settings.licence.lower()).strip("-")}
    if is_hub_name(base) and not Path(base).exists():
        fields["base_model"] = base
    return ["---", OmegaConf.to_yaml(OmegaConf.create(fields)).rstrip(), "---", ""]


def format_body(card: Card, trained: TrainSettings, run: RunRead, settings: ExportSettings) -> Iterator[str]:
    yield from (f"# {card.name}", "", f"{card.kind} Written by `ldm-train export`.", "", "## Use", "", card.usage, "")
    if card.notes:
        yield from ("## Before you use it", "", *(f"- {note}" for note in card.notes), "")
    yield from (
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in list_training_facts(card, trained)),
    )
    rows = list(list_metrics(run))
    if rows:
        yield from ("", "## Metrics", "", "| of | metric | value |", "|---|---|---|")
        yield from (f"| {of} | {name} | {value:.4g} |" for of, name, value in rows)
        if few := say_if_few_held_out(run):
            yield from ("", f"Caution: {few}.")
    yield from ("", "## Licences", "", "| of | licence |", "|---|---|")
    yield f"| these weights | {settings.licence or UNSTATED} |"
    yield f"| the pictures and captions | {settings.data_licence or UNSTATED} |"
    if settings.licence is None or settings.data_licence is None:
        yield from (
            "",
            "State the missing licences before you publish this: export again with `licence=…` and `data_licence=…`.",
        )
    base = trained.network.get("weights")
    if base is not None:
        yield from ("", f"It is based on {hide_local_path(str(base))}, and the licence of that model applies too.")


def list_training_facts(card: Card, trained: TrainSettings) -> Iterator[tuple[str, object]]:
    """Yield the rows about training: the data, the number of steps, and the main settings."""
    caches = trained.cache
    names = [caches] if isinstance(caches, str) else list(caches or [])
    yield (
        "data",
        ", ".join(hide_local_path(str(name)) for name in names)
        or hide_local_path(str(UNSTATED if trained.source is None else trained.source.get("path", UNSTATED))),
    )
    yield "picture size", f"{trained.image_size} pixels"
    yield "steps", card.metadata["step"]
    yield "batch size", trained.batch_size
    yield "examples seen", int(str(card.metadata["step"])) * trained.batch_size
    yield "weights", describe_weights(card.metadata)
    for group in ("prediction", "schedule", "optimizer"):
        yield group, getattr(trained, group).target.rpartition(".")[2]
    yield "learning rate", trained.optimizer.get("lr", UNSTATED)
    yield "started from", hide_local_path(str(trained.network.get("weights") or "random weights"))


def describe_weights(metadata: Mapping[str, object]) -> str:
    """Return which of a run's weights were exported."""
    if "ema_length" in metadata:
        return f"averaged after training, with a relative length of {metadata['ema_length']}"
    return {"ema": "averaged (EMA)", "raw": "raw"}.get(str(metadata["weights"]), str(metadata["weights"]))


def list_metrics(run: RunRead) -> Iterator[tuple[str, str, float]]:
    """Yield what was measured, the metric's name and its value: the run's last metrics, and its evaluations'."""
    if "validation_loss" in run.series:
        yield (
            f"the run at step {run.series['validation_loss'].steps[-1]}",
            "validation_loss",
            run.series["validation_loss"].last,
        )
    if run.sets:
        yield from list_metric_values(f"the run at step {run.sets[-1].get('step')}", run.sets[-1])
    for name, evaluation in run.evaluations.items():
        yield from list_metric_values(Path(name).stem, evaluation)


def list_metric_values(of: str, values: Plain) -> Iterator[tuple[str, str, float]]:
    for name, value in values.items():
        if isinstance(value, float) and name not in COUNTED:
            yield of, name, value


def hide_local_path(path: str) -> str:
    """Return only the name of a local path, so that a card reveals nothing about the machine; a hub name unchanged."""
    return Path(path).name if Path(path).is_absolute() or path.startswith(".") or Path(path).exists() else path
