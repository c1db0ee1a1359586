"""`ldm-train check`: read all that training will read, measure what it will cost, and list what would go wrong."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ldm_train.assembly.new_words import check_new_words
from ldm_train.assembly.parts import Parts, choose_device
from ldm_train.assembly.source_survey import name_classes
from ldm_train.assembly.trainer import quiet
from ldm_train.commands.check.check_page import page
from ldm_train.commands.check.dataset_facts import caption_facts, picture_facts
from ldm_train.commands.check.estimate import disk, encoding_seconds, row_shapes, training
from ldm_train.commands.check.existing_cache import compare
from ldm_train.commands.check.findings import Report, judge
from ldm_train.commands.check.forecast import class_pictures, run_files
from ldm_train.commands.check.reconstruction import try_latents
from ldm_train.commands.check.terminal import lines
from ldm_train.commands.check.trials import Attempts, devices, try_parts, try_settings, try_together, warnings_of
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.inspection import Decoder, Inspected, inspect_items, survey_from_inspection
from ldm_train.data.scan.survey import Survey
from ldm_train.reports.page import is_page, write_page
from ldm_train.run_dir.record import set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import free_memory
from ldm_train.util.files import atomic_write
from ldm_train.util.ownership import FolderKind, check_file, check_folder

PAGE = "check.html"
CHECKED = FolderKind("a result of `ldm-train check`", "check.json", frozenset({"ok", "measured"}), frozenset({PAGE}))


def run(config: CheckSettings) -> int:
    if config.out is not None:
        check_folder(Path(config.out), CHECKED, setting="out", given=str(config.out))
        check_file(Path(config.out) / PAGE, is_page, setting="out")
    quiet()
    set_threads(config.threads)
    attempt = Attempts()
    try_settings(config, attempt)
    white = attempt(background_colour, config.background) is None
    crop = attempt(build, config.crop, "crop", image_size=config.image_size)
    looked, notes = look(config, Decoder("white" if white else config.background, config.max_pixels))
    found = survey_from_inspection(looked)
    captions = sorted({text for seen in found.scanned for text in seen.item.captions})
    config = config.with_values(text_encoder=name_classes(config.text_encoder, captions))
    plan = None
    if crop is not None:
        plan = CachePlan(found, crop, pictures=Provenance({}), captions=Provenance({}), bad={})
    report = Report(picture_facts(looked, plan), notes)
    parts = try_parts(config, attempt)
    if parts is not None and plan is not None and found.scanned:
        attempt(examine, config, report, plan, parts, attempt)
    if parts is not None:
        attempt.told += [*getattr(parts.autoencoder, "notes", []), *getattr(parts.text_encoder, "notes", [])]
    report.warnings += [line.removeprefix("warning: ") for line in attempt.told if line.startswith("warning: ")]
    report.notes += [line for line in attempt.told if not line.startswith("warning: ")]
    if crop is not None:
        compare_caches(config, report, found, crop, attempt)
    length = None if parts is None else parts.text_encoder.identity.get("context_length")
    judge(
        report,
        strict=config.strict,
        scale_check=config.scale_check and (parts is None or parts.autoencoder.factor > 1),
        chunk=length - 2 if isinstance(length, int) else None,
    )
    report.reasons += attempt.reasons
    for line in lines(report):
        print(line)
    if config.out is not None:
        save(report, looked, plan, Path(config.out), background=config.background)
    return 1 if report.reasons else 0


def look(config: CheckSettings, decoding: Decoder) -> tuple[list[Inspected], list[str]]:
    """Every item of the source, and what the source noted on the way."""
    source = build(config.source, "source")
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("reading the source", total=None)
        looked = list(inspect_items(source, decoding, progress=lambda: progress.advance(task)))
        progress.update(task, total=len(looked))
    return looked, source.notes


def examine(config: CheckSettings, report: Report, plan: CachePlan, parts: Parts, attempt: Attempts) -> None:
    """Captions, latents and cost, with the config's own parts."""
    device = choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto")
    items = [seen.item for seen in plan.scanned]
    report.captions = caption_facts(items, parts.text_encoder.count, parts.text_encoder.capacity)
    captions = [item.captions for item in items if not item.held_out]
    report.warnings += attempt(check_new_words, config, parts.text_encoder, captions) or []
    module = try_together(config, parts, plan.rows, attempt)
    if attempt.reasons:
        return
    rows = row_shapes(config, parts)
    report.disk = disk(config, plan, rows)
    if config.measure and parts.autoencoder.factor > 1:
        with telling("trying the autoencoder on a few pictures"):
            tried = try_latents(config, plan, parts.autoencoder, device)
        if tried is not None:
            report.latents, pace = tried
            report.encoding_seconds = encoding_seconds(config, plan, pace)
    report.prior = attempt(class_pictures, config, parts, plan, rows)
    if module is None:
        return
    report.warnings += warnings_of(config, module)
    report.free_memory = free_memory(device)
    with telling("working out what training takes"):
        report.training = training(config, parts, module, plan, rows, device)
    report.files = run_files(config, report.training, report.prior)
    if report.prior is not None:
        recomputes = bool(config.network.get("gradient_checkpointing"))
        report.prior_seconds = report.prior.seconds(report.training, recomputes=recomputes)
    if report.training.seconds is not None:
        report.training_seconds = report.training.seconds * config.max_steps
        report.price = price(config, report)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Say what is being done for as long as it takes, which may be minutes."""
    with Progress(TextColumn("{task.description}"), SpinnerColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(what, total=1)
        yield
        progress.advance(task)


def price(config: CheckSettings, report: Report) -> float | None:
    """Of the hours of all devices."""
    if config.price_per_hour is None or report.training_seconds is None:
        return None
    seconds = (report.encoding_seconds or 0) + (report.prior_seconds or 0) + report.training_seconds
    return round(config.price_per_hour * seconds / 3600 * devices(config), 2)


def compare_caches(config: CheckSettings, report: Report, found: Survey, crop: Crop, attempt: Attempts) -> None:
    folders = [config.cache] if isinstance(config.cache, str) else list(config.cache or [])
    for folder in folders if found.scanned else []:
        compared = attempt(compare, config, Path(folder), found, crop, alone=len(folders) == 1)
        report.caches += [] if compared is None else [compared]


def save(report: Report, looked: Iterable[Inspected], plan: CachePlan | None, folder: Path, *, background: str) -> None:
    """`check.json` and `check.html`."""
    write_page(page(report, list(looked), plan), folder / PAGE)
    atomic_write(folder / CHECKED.mark, json.dumps(report.told(), indent=2) + "\n")
    print(f"{folder / PAGE} shows it all")
