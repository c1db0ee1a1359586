"""`ldm-train evaluate`: measure a trained run, a folder of pictures or a pipeline; write JSON and Markdown."""

from pathlib import Path

import torch

from ldm_train.assembly.parts import choose_device
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
    open_cache_pictures,
    open_folder_pictures,
    open_held_out_data,
    open_run_pictures,
)
from ldm_train.commands.evaluate.requests import (
    choose_prompts,
    has_sweep,
    list_points,
    refuse_evaluate_conflicts,
    refuse_nothing,
)
from ldm_train.commands.evaluate.result_files import Result, write_result
from ldm_train.data.batches.holding_out import warn_of_none_held_out
from ldm_train.data.pictures.images import save_png
from ldm_train.metrics.evaluation import DrawnPictures, Evaluation, HeldOut
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.training.validation.held_out import measure_held_out
from ldm_train.util.files import hidden_path, make_folder
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
    """Measure a trained run, including the losses of its held-out examples."""
    model = RunModel(settings)
    settings = fill_from_run(settings, model.trained.config).with_values(
        batch_size=choose_batch_size(settings, model.trained)
    )
    for warning in warn_of_lossy_run(str(settings.run_dir)):
        warn(warning)
    trained, data = model.trained, open_held_out_data(settings, model.trained.config, model.trained.parts)
    if data is None:
        print("this run was trained without a cache, so there is no validation loss; give cache=DIR to measure one")
    elif len(data.held_out) == 0:
        for warning in warn_of_none_held_out(0, len(data.latents.index), share=trained.config.held_out):
            warn(f"{warning}; or give real=DIR and prompts=…")
        data = None
    evaluation = build(trained.config.evaluation if settings.evaluation is None else settings.evaluation, "evaluation")
    real = None if data is None else open_run_pictures(data, trained.parts.autoencoder, model.device)
    real = open_folder_pictures(settings.real) if settings.real else real
    result = evaluate_model(settings, model, evaluation, real, losses=data is not None)
    if data is not None:
        assert settings.batch_size is not None
        module = training_module(trained.config, trained.parts).to(model.device)
        losses = measure_held_out(module, data, batch_size=settings.batch_size, repeats=16)
        held_out = Numbers()
        for name, total in losses.total.items():
            ends = None if total.low is None or total.high is None else (total.low, total.high)
            held_out.add(f"validation_{name}", total.mean, ends)
        held_out.add("held_out_examples", len(data.held_out))
        result = Result(result.numbers | held_out, result.details, result.sweep)
    return result


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
    losses: bool = False,
) -> Result:
    """Draw pictures and measure them: with the command's own settings, and at every point of a sweep.

    Args:
        losses: whether the result gets the losses of held-out examples, which need no pictures.

    Raises:
        ValueError: a point cannot be drawn, or there is nothing to measure; both are checked before anything is drawn.
    """
    out, measures = Path(settings.out), open_measures(settings, real, model.device)
    evaluation_prompts = evaluation.prompts()
    if evaluation_prompts:
        check_file(out.with_suffix(".png"), is_overview, setting="out")
    captions = [] if real is None or not measures.any else real.captions
    prompts = evaluation_prompts or choose_prompts(settings, captions, count=settings.samples)
    if not evaluation_prompts and not (prompts and measures.any_of(prompts)) and (has_sweep(settings) or not losses):
        refuse_nothing(settings, compares=real is not None)
    for line in model.warn_of_cuts(prompts):
        warn(line)
    jobs = [
        DrawingJob(point, prompts, model.identity | model.recipe(point), model.opener)
        for point in list_points(settings, model.device)
    ]
    for job in jobs:
        model.paint(job.settings)  # raises if it cannot be drawn
    results = []
    for job in jobs if prompts else []:
        files = draw_pictures(job, out, model.paint(job.settings), devices=count_processes(settings, model.device))
        numbers = Numbers({"pictures": len(files)})
        if evaluation_prompts:
            pictures = torch.cat(list(read_picture_batches(files, len(files))))
            drawn = DrawnPictures(pictures, model.autoencoder, model.device)
            numbers |= evaluation(drawn, measures.resampling)
            if job is jobs[0] and (overview := evaluation.overview(drawn)) is not None:
                save_png(overview, out.with_suffix(".png"), OVERVIEW)
        results.append(numbers | measures(files, prompts))
    remove_other_pictures(out, jobs)
    sweep = [(model.describe(job.settings), numbers) for job, numbers in zip(jobs[1:], results[1:], strict=True)]
    details = model.describe(jobs[0].settings) | measures.describe()
    return Result(results[0] if results else Numbers(), details, sweep)


def open_measures(settings: EvaluateSettings, real: RealPictures | None, device: torch.device) -> Measures:
    """Build the feature extractors that the settings name, on a device."""
    extractor = None if settings.features is None or real is None else build(settings.features, "features")
    clip = None if settings.clip_score is None else build(settings.clip_score, "clip_score")
    return Measures(real, extractor, clip, Resampling(settings.resamples, settings.seed), device)
