"""`ldm-train evaluate`: measure a trained run, a folder of pictures or a pipeline; write JSON and Markdown."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ldm_train.assembly.parts import choose_device
from ldm_train.assembly.pixel_formats import refuse_evaluating
from ldm_train.assembly.quality_warnings import warn_of_lossy_caches, warn_of_lossy_run
from ldm_train.assembly.stored_run import TrainedRun, fill_from_run
from ldm_train.assembly.training_module import training_module
from ldm_train.commands.evaluate.drawing_models import Model, RunModel
from ldm_train.commands.evaluate.drawn_pictures import (
    DrawingJob,
    count_processes,
    draw_pictures,
    read_picture_batches,
    remove_other_pictures,
)
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.commands.evaluate.measures import Measures
from ldm_train.commands.evaluate.output_files import OVERVIEW, check_outputs, is_overview
from ldm_train.commands.evaluate.real_pictures import (
    RealPictures,
    TrainedPictures,
    open_cache_pictures,
    open_folder_pictures,
    open_held_out_data,
    open_run_pictures,
    open_trained_pictures,
)
from ldm_train.commands.evaluate.requests import (
    choose_prompts,
    has_sweep,
    list_points,
    refuse_evaluate_conflicts,
    refuse_missing,
    refuse_nothing,
)
from ldm_train.commands.evaluate.result_files import Result, write_result
from ldm_train.commands.evaluate.statistics import NEAREST, describe_copying
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.holding_out import warn_of_few_held_out
from ldm_train.data.pictures.images import save_png
from ldm_train.metrics.evaluation import DrawnPictures, Evaluation, HeldOut
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.compared import choose_trained
from ldm_train.training.validation.fixed_losses import measure_losses
from ldm_train.types import Given
from ldm_train.util.files import hidden_path, make_folder
from ldm_train.util.held_out_figures import ENOUGH, TAUGHT
from ldm_train.util.locks import hold_lock
from ldm_train.util.memory import count_at_once
from ldm_train.util.messages import warn
from ldm_train.util.ownership import check_file

MOST_AT_ONCE, PIPELINE_AT_ONCE = 40, 8  # pictures


def run(settings: EvaluateSettings) -> None:
    """Measure what the settings name and write the result to `out`.

    Raises:
        ValueError: settings contradict each other, `out` is something else, the subject cannot be read, or there is nothing
            to measure.
    """
    refuse_evaluate_conflicts(settings)
    out = Path(settings.out)
    check_outputs(out, draws=settings.pictures is None, sweeps=has_sweep(settings))
    make_folder(out.parent)
    busy = f"out={out} is being written by another process; wait for it, or choose another out=FILE.json"
    with hold_lock(hidden_path(out, ".ldm-train-lock"), busy=busy, remove=True):
        if settings.pictures is not None:
            result = evaluate_gallery(settings)
        elif settings.pipeline is not None:
            result = evaluate_pipeline(settings)
        else:
            result = evaluate_run(settings)
        write_result(settings, result)


def evaluate_gallery(settings: EvaluateSettings) -> Result:
    """Measure the pictures of a folder."""
    assert settings.pictures is not None
    gallery = open_gallery("pictures", settings.pictures)
    captions = choose_prompts(settings, gallery.captions, count=len(gallery.files))
    measures = open_measures(
        settings, open_folder_pictures(settings.real) if settings.real else None, choose_device(settings.device)
    )
    if not measures.any_of(captions):
        refuse_nothing(settings, compares=settings.real is not None)
    numbers = measures(gallery.files, captions)
    return Result(Numbers({"pictures": len(gallery.files)}) | numbers, measures.describe())


def evaluate_pipeline(settings: EvaluateSettings) -> Result:
    """Measure a pipeline in diffusers' layout."""
    from ldm_train.commands.evaluate.published_pipeline import STEPS, PipelineModel  # importing diffusers takes seconds

    settings = settings.with_values(batch_size=settings.batch_size or PIPELINE_AT_ONCE, steps=settings.steps or STEPS)
    model, real = PipelineModel(settings), None
    for warning in warn_of_lossy_caches(settings.cache or []):
        warn(warning)
    if settings.real or settings.cache:
        real = (
            open_folder_pictures(settings.real) if settings.real else open_cache_pictures(settings.cache or [], model.device)
        )
    evaluation = HeldOut() if settings.evaluation is None else build(settings.evaluation, "evaluation")
    return evaluate_model(settings, model, evaluation, real)


def evaluate_run(settings: EvaluateSettings) -> Result:
    """Measure a trained run, including the losses of held-out and trained examples."""
    model = RunModel(settings)
    refuse_evaluating(model.trained.config.pixels)
    settings = fill_from_run(settings, model.trained.config).with_values(
        batch_size=choose_batch_size(settings, model.trained)
    )
    for warning in warn_of_lossy_run(str(settings.run_dir)):
        warn(warning)
    trained, data = model.trained, open_held_out_data(settings, model.trained.config, model.trained.parts)
    if data is None:
        print("this run was trained without a cache, so there is no validation loss; give cache=DIR to measure one")
    else:
        for warning in warn_of_few_held_out(len(data.held_out), len(data.latents.index), share=trained.config.held_out):
            warn(warning if len(data.held_out) else f"{warning}; or give real=DIR and prompts=…")
    evaluation = build(trained.config.evaluation if settings.evaluation is None else settings.evaluation, "evaluation")
    real, taught = None, None
    if data is not None and len(data.held_out):
        real = open_run_pictures(data, data.held_out, trained.generation)
    if data is not None and (count := count_taught(settings, len(data.held_out))):
        taught = open_trained_pictures(data, count, trained.generation)
    real = open_folder_pictures(settings.real) if settings.real else real
    measured = data is not None and (len(data.held_out) > 0 or taught is not None)
    result = evaluate_model(settings, model, evaluation, real, trained=taught, losses=measured)
    if data is not None and measured:
        assert settings.batch_size is not None
        module = training_module(trained.config, trained.parts).to(model.device)
        losses = measure_run_losses(module, data, batch_size=settings.batch_size)
        result = Result(result.numbers | losses, result.details, result.sweep)
    return result


def count_taught(settings: EvaluateSettings, held_out: int) -> int:
    """Return how many trained captions are drawn: as many as pictures are held out, but enough to measure something."""
    if settings.prompts is not None or settings.real is not None:
        return 0
    if settings.taught is not None:
        return settings.taught
    count = max(held_out, ENOUGH)
    return count if settings.samples is None else min(count, settings.samples)


def measure_run_losses(module: NoisePredictorTraining, data: CachedLatents, *, batch_size: int) -> Numbers:
    """Return the losses of held-out examples, if there are any, and of as many trained ones."""
    numbers = Numbers()
    for examples, prefix in ((data.held_out, ""), (choose_trained(data, len(data.held_out)), TAUGHT)):
        losses = measure_losses(module, data, examples, batch_size=batch_size, repeats=16) if len(examples) else None
        for name, total in losses.total.items() if losses else ():
            ends = None if total.low is None or total.high is None else (total.low, total.high)
            numbers.add(f"{prefix}validation_{name}", total.mean, ends)
    numbers.add("held_out_examples", len(data.held_out))
    if len(data.held_out) < ENOUGH:
        numbers.add("few_held_out", True)
    return numbers


def choose_batch_size(settings: EvaluateSettings, trained: TrainedRun) -> int:
    """Return how many pictures are drawn, and examples measured, at once: fewer large ones, and no more than in training."""
    if settings.batch_size is not None:
        return settings.batch_size
    size = trained.config.micro_batch_size
    return min(count_at_once(*trained.generation.sides, most=MOST_AT_ONCE), size if isinstance(size, int) else MOST_AT_ONCE)


def evaluate_model(
    settings: EvaluateSettings,
    model: Model,
    evaluation: Evaluation,
    real: RealPictures | None,
    *,
    trained: TrainedPictures | None = None,
    losses: bool = False,
) -> Result:
    """Draw pictures and measure them: with the command's own settings, and at every point of a sweep.

    Args:
        trained: pictures that the model was trained on, which are drawn too with the command's own settings; None for none.
        losses: whether the result gets the losses of examples, which need no pictures.

    Raises:
        ValueError: a point cannot be drawn, or there is nothing to measure; both are checked before anything is drawn.
    """
    out, measures = Path(settings.out), open_measures(settings, real, model.device, trained)
    evaluation_prompts = evaluation.prompts()
    if evaluation_prompts:
        check_file(out.with_suffix(".png"), is_overview, setting="out")
    captions = [] if real is None or not measures.any else real.captions
    prompts = evaluation_prompts or choose_prompts(settings, captions, count=settings.samples)
    if not evaluation_prompts and not (prompts and measures.any_of(prompts)) and (has_sweep(settings) or not losses):
        refuse_nothing(settings, compares=real is not None)
    for line in model.warn_of_cuts(prompts):
        warn(line)
    of_captions = not evaluation_prompts and settings.prompts is None
    given = repeat_rows(real.given, len(prompts)) if real is not None and of_captions else {}
    if prompts and (missing := [name for name in model.needed if name not in given]):
        refuse_missing(settings, missing)
    jobs = [
        DrawingJob(point, prompts, model.identity | model.recipe(point), model.opener, given)
        for point in list_points(settings, model.device)
    ]
    for job in jobs:
        model.paint(job.settings)  # raises if it cannot be drawn
    devices = count_processes(settings, model.device)
    taught = (
        []
        if trained is None or not measures.any
        else [replace(jobs[0], prompts=trained.taught.captions, given=trained.taught.given)]
    )
    results = []
    for job in jobs if prompts else []:
        files = draw_pictures(job, out, model.paint(job.settings), devices=devices)
        numbers = Numbers({"pictures": len(files)}) | measures(files, prompts)
        if evaluation_prompts:
            pictures = torch.cat(list(read_picture_batches(files, len(files))))
            drawn = DrawnPictures(pictures, model.autoencoder, model.device)
            numbers |= evaluation(drawn, measures.resampling)
            if job is jobs[0] and (overview := evaluation.overview(drawn)) is not None:
                save_png(overview, out.with_suffix(".png"), OVERVIEW)
        results.append(numbers)
    first = results[0] if results else Numbers()
    for job in taught:
        files = draw_pictures(job, out, model.paint(job.settings), devices=devices)
        first |= measures.measure_taught(files, job.prompts) | Numbers({"taught_pictures": len(files)})
    remove_other_pictures(out, [*jobs, *taught])
    sweep = [(model.describe(job.settings), numbers) for job, numbers in zip(jobs[1:], results[1:], strict=True)]
    details = model.describe(jobs[0].settings) | measures.describe() | describe_memory(first)
    return Result(first, details, sweep)


def repeat_rows(given: Mapping[str, Given], count: int) -> dict[str, Given]:
    """Return what is known for the conditions of `count` pictures, repeated from the first as their captions are."""
    return {name: rows[torch.arange(count) % len(rows.kept)] for name, rows in given.items()}


def describe_memory(numbers: Numbers) -> dict[str, object]:
    """Return what the distance of drawn pictures to the nearest trained one means, and print it; nothing if unknown."""
    for name, value in numbers.values.items():
        if name.startswith(NEAREST) and isinstance(value, float):
            print(f"pictures of held-out captions: {describe_copying(value)}")
            return {"memorisation": describe_copying(value)}
    return {}


def open_measures(
    settings: EvaluateSettings, real: RealPictures | None, device: torch.device, trained: TrainedPictures | None = None
) -> Measures:
    """Build the feature extractors that the settings name, on a device."""
    needed = real is not None or trained is not None
    extractor = build(settings.features, "features") if settings.features is not None and needed else None
    clip = None if settings.clip_score is None else build(settings.clip_score, "clip_score")
    return Measures(real, extractor, clip, Resampling(settings.resamples, settings.seed), device, trained)
