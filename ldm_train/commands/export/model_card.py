"""A model card (README.md with YAML before it) of what was exported: data, steps, metrics, licences, how to use it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from ldm_train.run_dir.reading import Plain, RunRead, read_run
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.schema.using import ExportSettings
from ldm_train.util.files import atomic_write
from ldm_train.weights.hub import is_hub_name

UNSTATED, TASK = "not stated", "text-to-image"
COUNTED = {"step", "steps", "seed", "pictures", "real_pictures", "resamples", "held_out_pairs", "held_out_examples"}


@dataclass(frozen=True)
class Card:
    """What a card tells beside the run's own files.

    Args:
        name: of the model.
        kind: what the folder is, in a few words.
        tags: for catalogues.
        told: the export's step and choice of weights.
        usage: commands or code, as Markdown.
        notes: what is to be known before it is used.
    """

    name: str
    kind: str
    tags: Sequence[str]
    told: Mapping[str, object]
    usage: str
    notes: Sequence[str]


def write_card(folder: Path, card: Card, trained: TrainSettings, run_dir: Path, config: ExportSettings) -> None:
    run = read_run(run_dir)
    lines = [*front(card, trained, config), *body(card, trained, run, config)]
    atomic_write(folder / "README.md", "\n".join(lines) + "\n")


def front(card: Card, trained: TrainSettings, config: ExportSettings) -> list[str]:
    """The YAML that catalogues read."""
    base = str(trained.network.get("weights"))
    fields: dict[str, object] = {"library_name": "diffusers", "tags": list(card.tags)}
    if TASK in card.tags:
        fields["pipeline_tag"] = TASK
    if config.licence is None or re.fullmatch(r"[a-z0-9][a-z0-9.-]*", config.licence):
        fields["license"] = config.licence or "unknown"
    else:  # the hub knows licences by such names alone
        fields |= {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", config.licence.lower()).strip("-")}
    if is_hub_name(base) and not Path(base).exists():
        fields["base_model"] = base
    return ["---", OmegaConf.to_yaml(OmegaConf.create(fields)).rstrip(), "---", ""]


def body(card: Card, trained: TrainSettings, run: RunRead, config: ExportSettings) -> Iterator[str]:
    yield from (f"# {card.name}", "", f"{card.kind} Written by `ldm-train export`.", "", "## Use", "", card.usage, "")
    if card.notes:
        yield from ("## Before you use it", "", *(f"- {note}" for note in card.notes), "")
    yield from (
        "## Training",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in training(card, trained)),
    )
    rows = list(metrics(run))
    if rows:
        yield from ("", "## Metrics", "", "| of | metric | value |", "|---|---|---|")
        yield from (f"| {of} | {name} | {value:.4g} |" for of, name, value in rows)
    yield from ("", "## Licences", "", "| of | licence |", "|---|---|")
    yield f"| these weights | {config.licence or UNSTATED} |"
    yield f"| the pictures and captions | {config.data_licence or UNSTATED} |"
    if config.licence is None or config.data_licence is None:
        yield from (
            "",
            "Fill in what is not stated before you publish this: `licence=…` and `data_licence=…`.",
        )
    if trained.network.get("weights") is not None:
        yield from ("", f"It stands on {public(str(trained.network.get('weights')))}, whose licence holds for it too.")


def training(card: Card, trained: TrainSettings) -> Iterator[tuple[str, object]]:
    """What it was trained on, and how long."""
    caches = trained.cache
    names = [caches] if isinstance(caches, str) else list(caches or [])
    yield (
        "data",
        ", ".join(public(str(name)) for name in names)
        or public(str(UNSTATED if trained.source is None else trained.source.get("path", UNSTATED))),
    )
    yield "picture size", f"{trained.image_size} pixels"
    yield "steps", card.told["step"]
    yield "batch size", trained.batch_size
    yield "examples seen", int(str(card.told["step"])) * trained.batch_size
    yield "weights", described(card.told)
    for group in ("prediction", "schedule", "optimizer"):
        yield group, getattr(trained, group).target.rpartition(".")[2]
    yield "learning rate", trained.optimizer.get("lr", UNSTATED)
    yield "started from", public(str(trained.network.get("weights") or "random weights"))


def described(told: Mapping[str, object]) -> str:
    """Which of a run's weights they are."""
    if "ema_length" in told:
        return f"averaged afterwards, over {told['ema_length']} of the run"
    return {"ema": "averaged (EMA)", "raw": "raw"}.get(str(told["weights"]), str(told["weights"]))


def metrics(run: RunRead) -> Iterator[tuple[str, str, float]]:
    """Of what, the metric's name and its value: the run's last ones, and those of its evaluations."""
    if "validation_loss" in run.series:
        yield (
            f"the run at step {run.series['validation_loss'].steps[-1]}",
            "validation_loss",
            run.series["validation_loss"].last,
        )
    if run.sets:
        yield from numbers(f"the run at step {run.sets[-1].get('step')}", run.sets[-1])
    for name, evaluation in run.evaluations.items():
        yield from numbers(Path(name).stem, evaluation)


def numbers(of: str, values: Plain) -> Iterator[tuple[str, str, float]]:
    for name, value in values.items():
        if isinstance(value, float) and name not in COUNTED:
            yield of, name, value


def public(path: str) -> str:
    """A path without what it tells of the machine; a name on the hub as it is."""
    return Path(path).name if Path(path).is_absolute() or path.startswith(".") or Path(path).exists() else path
