"""`ldm-train check`: read everything that training will read, estimate what it will cost, and list the problems.

Stages: try each setting and part (`trials.py`), inspect every picture and caption (`dataset_facts.py`), encode a few
pictures (`reconstruction.py`), estimate disk, memory and time (`estimate.py`, `forecast.py`), compare existing caches
(`existing_cache.py`), judge all of it (`findings.py`), and print it (`terminal.py`) or write a page (`check_page.py`).
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ldm_train.assembly.arithmetic import resolve_arithmetic
from ldm_train.assembly.learning_time import estimate_learning
from ldm_train.assembly.map_conditions import file_specs
from ldm_train.assembly.new_words import check_new_words
from ldm_train.assembly.number_columns import fill_numbers, list_column, list_fields
from ldm_train.assembly.parts import Parts, choose_device
from ldm_train.assembly.pixel_formats import fill_channels, read_pixel_format, refuse_measuring, refuse_pixels
from ldm_train.assembly.quality_warnings import warn_of_lossy_latents
from ldm_train.assembly.source_survey import describe_unused_maps, list_labels, name_classes, reads_captions
from ldm_train.assembly.trainer import silence_lightning
from ldm_train.commands.check.check_page import build_check_page
from ldm_train.commands.check.dataset_facts import collect_caption_facts, collect_picture_facts
from ldm_train.commands.check.estimate import (
    estimate_disk,
    estimate_encoding,
    estimate_memory,
    estimate_training,
    measure_row_shapes,
)
from ldm_train.commands.check.existing_cache import compare_cache
from ldm_train.commands.check.findings import Report, judge_report, judge_source
from ldm_train.commands.check.forecast import estimate_class_pictures, estimate_run_files
from ldm_train.commands.check.reconstruction import try_latents
from ldm_train.commands.check.terminal import format_report
from ldm_train.commands.check.trials import (
    Attempts,
    collect_start_warnings,
    count_devices,
    try_parts,
    try_settings,
    try_together,
)
from ldm_train.data.batches.holding_out import warn_of_few_held_out
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.colour import background_colour
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.scan.inspection import Decoder, Inspected, inspect_items, survey_from_inspection
from ldm_train.data.scan.scanned_pictures import ScannedCaptions
from ldm_train.data.scan.source_review import judge_labels, review_captions
from ldm_train.data.scan.survey import Survey
from ldm_train.data.sources.items import Item
from ldm_train.reports.page import Page, is_page, write_page
from ldm_train.run_dir.record import set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import free_memory
from ldm_train.training.on_the_fly import PlannedExamples
from ldm_train.util.files import atomic_write
from ldm_train.util.messages import Caution, collecting_messages
from ldm_train.util.ownership import FolderKind, check_file, check_folder

PAGE = "check.html"
CHECKED = FolderKind("a result of `ldm-train check`", "check.json", frozenset({"ok", "measured"}), frozenset({PAGE}))


def run(settings: CheckSettings) -> int:
    """Check, print the report, and return the exit code: 0 if training can start, 1 if there are problems."""
    if settings.out is not None:
        check_folder(Path(settings.out), CHECKED, setting="out", given=str(settings.out))
        check_file(Path(settings.out) / PAGE, is_page, setting="out")
    silence_lightning()
    settings, arithmetic = resolve_arithmetic(settings)
    set_threads(settings.threads)
    attempt = Attempts()
    try_settings(settings, attempt)
    white = attempt(background_colour, settings.background) is None
    crop = attempt(build, settings.crop, "crop", image_size=settings.image_size)
    specs = file_specs(settings)
    pixels = attempt(read_pixel_format, settings.pixels)
    settings = settings.with_values(autoencoder=fill_channels(settings.autoencoder, pixels))
    attempt(refuse_pixels, settings, pixels)
    attempt(refuse_measuring, settings, pixels)
    decoder = Decoder("white" if white else settings.background, settings.max_pixels, tuple(specs), pixels)
    source = build(settings.source, "source")
    source.needs_captions = reads_captions(settings.text_encoder)
    inspected = inspect_source(source, decoder)
    survey = survey_from_inspection(inspected)
    captions, item_of = ScannedCaptions(survey.scanned), survey.scanned.item
    examples, odd = review_captions(captions, item_of)
    settings = settings.with_values(text_encoder=name_classes(settings.text_encoder, partial(list_labels, survey)))
    with collecting_messages() as about_numbers:
        settings = attempt(fill_numbers, settings, partial(list_column, survey), partial(list_fields, survey)) or settings
    plan = None
    if crop is not None:
        plan = CachePlan(survey, crop, pictures=Provenance({}), captions=Provenance({}), bad={})
    facts = collect_picture_facts(inspected, plan, share=settings.held_out)
    report = Report(
        facts,
        [*source.notes, *describe_unused_maps(source.maps, specs), *examples, arithmetic],
        warnings=[*source.warnings, *odd, *about_numbers],
    )
    parts = try_parts(settings, attempt)
    if parts is not None and plan is not None and survey.scanned:
        attempt(examine_training, settings, report, plan, parts, attempt)
    if parts is not None:
        attempt.notes += [*getattr(parts.autoencoder, "notes", []), *getattr(parts.text_encoder, "notes", [])]
    for line in attempt.notes:
        (report.warnings if isinstance(line, Caution) else report.notes).append(line)
    if facts.usable and settings.held_out != 0:
        report.warnings += warn_of_few_held_out(facts.held_out, facts.usable, share=settings.held_out)
    if crop is not None:
        compare_caches(settings, report, survey, crop, attempt)
    length = None if parts is None else parts.text_encoder.identity.get("context_length")
    judge_report(
        report,
        strict=settings.strict,
        scale_check=settings.scale_check and (parts is None or parts.autoencoder.factor > 1),
        chunk=length - 2 if isinstance(length, int) else None,
    )
    judge_source(report, source.unread, strict=settings.strict, most=settings.max_unusable)
    labels = judge_labels(captions, item_of)
    report.reasons += [*([labels] if labels else []), *attempt.reasons]
    for line in format_report(report):
        print(line)
    if settings.out is not None:
        write_report(report, build_check_page(report, inspected, plan, decoder), Path(settings.out))
    return 1 if report.reasons else 0


def inspect_source(source: Iterable[Item], decoder: Decoder) -> list[Inspected]:
    """Inspect every item of the source."""
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        task = progress.add_task("reading the source", total=None)
        inspected = list(inspect_items(source, decoder, progress=lambda: progress.advance(task)))
        progress.update(task, total=len(inspected))
    return inspected


def examine_training(settings: CheckSettings, report: Report, plan: CachePlan, parts: Parts, attempt: Attempts) -> None:
    """Add to the report what needs the parts of training: captions in tokens, latents, and the cost."""
    device = choose_device("cpu" if settings.trainer.accelerator == "cpu" else "auto")
    items = [scanned.item for scanned in plan.scanned]
    report.captions = collect_caption_facts(items, parts.text_encoder.count, parts.text_encoder.capacity)
    captions = [item.captions for item in items if not item.held_out]
    report.warnings += attempt(check_new_words, settings, parts.text_encoder, captions) or []
    module = try_together(settings, parts, PlannedExamples(plan), attempt)
    if attempt.reasons:
        return
    rows = measure_row_shapes(settings, parts)
    report.disk = estimate_disk(settings, plan, rows)
    report.encoding_memory = estimate_memory(settings, plan, parts.autoencoder, device, attempt)
    if attempt.reasons:
        return
    if settings.measure and parts.autoencoder.factor > 1:
        with show_progress("trying the autoencoder on a few pictures"):
            trial = try_latents(settings, plan, parts.autoencoder, device)
        if trial is not None:
            report.decoded, report.latents = trial.pictures, trial.statistics
            report.warnings += warn_of_lossy_latents(settings, trial.statistics.psnr)
            report.encoding_seconds = estimate_encoding(settings, plan, trial.pace)
    report.prior = attempt(estimate_class_pictures, settings, parts, plan, rows)
    if module is None:
        return
    report.warnings += collect_start_warnings(module)
    report.free_memory = free_memory(device)
    with show_progress("estimating the cost of training"):
        report.training = estimate_training(settings, parts, module, plan, rows, device)
    report.files = estimate_run_files(settings, report.training, report.prior)
    if report.prior is not None:
        recomputes = bool(settings.network.get("gradient_checkpointing"))
        report.prior_seconds = report.prior.seconds(report.training, recomputes=recomputes)
    seconds = report.training.seconds
    if seconds is not None:
        report.training_seconds = seconds * settings.max_steps
        report.price = compute_price(settings, report)
    texts = [text for texts in captions for text in texts]
    second = None if seconds is None else seconds / settings.batch_size
    report.learning = estimate_learning(settings, texts, report.pictures.distinct - report.pictures.held_out, second)


@contextmanager
def show_progress(description: str) -> Iterator[None]:
    """Show a spinner and the elapsed time while the block runs, which may take minutes."""
    with Progress(TextColumn("{task.description}"), SpinnerColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task(description, total=1)
        yield
        progress.advance(task)


def compute_price(settings: CheckSettings, report: Report) -> float | None:
    """Return the price of all device hours, or None if the price of an hour or the time is unknown."""
    if settings.price_per_hour is None or report.training_seconds is None:
        return None
    seconds = (report.encoding_seconds or 0) + (report.prior_seconds or 0) + report.training_seconds
    return round(settings.price_per_hour * seconds / 3600 * count_devices(settings), 2)


def compare_caches(settings: CheckSettings, report: Report, survey: Survey, crop: Crop, attempt: Attempts) -> None:
    """Add to the report how each cache of the settings compares with the source."""
    folders = [settings.cache] if isinstance(settings.cache, str) else list(settings.cache or [])
    for folder in folders if survey.scanned else []:
        comparison = attempt(compare_cache, settings, Path(folder), survey, crop, is_only_cache=len(folders) == 1)
        report.caches += [] if comparison is None else [comparison]


def write_report(report: Report, page: Page, folder: Path) -> None:
    """Write `check.json` and `check.html` into a folder."""
    write_page(page, folder / PAGE)
    atomic_write(folder / CHECKED.mark, json.dumps(report.as_json(), indent=2) + "\n")
    print(f"wrote the report to {folder / PAGE}")
