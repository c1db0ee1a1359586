"""`ldm-train evaluate`: a trained run, a folder of pictures or a pipeline to numbers, as JSON and Markdown."""

from pathlib import Path

import torch

from ldm_train.assembly.parts import choose_device
from ldm_train.assembly.stored_run import fill_from_run
from ldm_train.assembly.training_module import training_module
from ldm_train.commands.evaluate.drawing_models import Model, RunModel
from ldm_train.commands.evaluate.drawn_pictures import Order, draw, forget_others, in_batches, processes
from ldm_train.commands.evaluate.evaluations import Drawn, Evaluation, HeldOut
from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.commands.evaluate.measured import Numbers, Resampling
from ldm_train.commands.evaluate.measures import Measures
from ldm_train.commands.evaluate.output_files import check_outputs, is_sheet
from ldm_train.commands.evaluate.real_pictures import Real, held_out_data, of_cache, of_folder, of_run
from ldm_train.commands.evaluate.requests import choose_prompts, has_sweep, points, refuse_contradictions, refuse_nothing
from ldm_train.commands.evaluate.result_files import Result, write
from ldm_train.settings.composition import build
from ldm_train.settings.schema.using import EvaluateSettings
from ldm_train.training.validation.held_out import measure_held_out
from ldm_train.util.files import hidden_path, make_folder
from ldm_train.util.locks import hold_lock
from ldm_train.util.ownership import check_file


def run(config: EvaluateSettings) -> None:
    refuse_contradictions(config)
    out = Path(config.out)
    check_outputs(out, draws=config.pictures is None, sweeps=has_sweep(config))
    make_folder(out.parent)
    busy = f"out={out} is being written by another process; wait for it, or choose another out"
    with hold_lock(hidden_path(out, ".ldm-train-lock"), busy=busy, remove=True):
        if config.pictures is not None:
            result = of_gallery(config)
        elif config.pipeline is not None:
            result = of_pipeline(config)
        else:
            result = of_run_dir(config)
        write(config, result)


def of_gallery(config: EvaluateSettings) -> Result:
    """Pictures that are there already."""
    assert config.pictures is not None
    gallery = open_gallery("pictures", config.pictures)
    captions = choose_prompts(config, gallery.captions, count=len(gallery.files))
    measures = open_measures(config, of_folder(config.real) if config.real else None, choose_device(config.device))
    if not measures.any_of(captions):
        refuse_nothing(config, compares=config.real is not None)
    numbers = measures(gallery.files, captions)
    return Result(Numbers({"pictures": len(gallery.files)}) | numbers, measures.told())


def of_pipeline(config: EvaluateSettings) -> Result:
    """A pipeline in diffusers' layout."""
    from ldm_train.commands.evaluate.published_pipeline import PipelineModel  # which takes seconds to import

    model, real = PipelineModel(config), None
    if config.real or config.cache:
        real = of_folder(config.real) if config.real else of_cache(config.cache or [], model.device)
    evaluation = HeldOut() if config.evaluation is None else build(config.evaluation, "evaluation")
    return of_model(config, model, evaluation, real)


def of_run_dir(config: EvaluateSettings) -> Result:
    """A trained run, whose held-out examples have losses too."""
    model = RunModel(config)
    config = fill_from_run(config, model.trained.config)
    trained, data = model.trained, held_out_data(config, model.trained.config, model.trained.parts)
    if data is None:
        print("the run was encoded on the fly: without cache=… there is no validation loss")
    elif len(data.held_out) == 0:
        data = None
    evaluation = build(trained.config.evaluation if config.evaluation is None else config.evaluation, "evaluation")
    real = None if data is None else of_run(data, trained.parts.autoencoder, model.device)
    real = of_folder(config.real) if config.real else real
    result = of_model(config, model, evaluation, real, losses=data is not None)
    if data is not None:
        module = training_module(trained.config, trained.parts).to(model.device)
        losses = measure_held_out(module, data, batch_size=64, repeats=16)
        held_out = Numbers()
        for name, total in losses.total.items():
            ends = None if total.low is None or total.high is None else (total.low, total.high)
            held_out.add(f"validation_{name}", total.mean, ends)
        held_out.add("held_out_examples", len(data.held_out))
        result = Result(result.numbers | held_out, result.told, result.sweep)
    return result


def of_model(
    config: EvaluateSettings, model: Model, evaluation: Evaluation, real: Real | None, *, losses: bool = False
) -> Result:
    """Measure drawn pictures: by the command's own recipe, and at every point of a sweep.

    Args:
        losses: whether the result gets the losses of held-out examples, which need no pictures.

    Raises:
        ValueError: something cannot be drawn, or there is nothing to measure; nothing was drawn, then.
    """
    out, measures = Path(config.out), open_measures(config, real, model.device)
    asked = evaluation.prompts()
    if asked:
        check_file(out.with_suffix(".png"), is_sheet, setting="out")
    known = [] if real is None or not measures.any else real.captions
    prompts = asked or choose_prompts(config, known, count=config.samples)
    if not asked and not (prompts and measures.any_of(prompts)) and (has_sweep(config) or not losses):
        refuse_nothing(config, compares=real is not None)
    orders = [
        Order(point, prompts, model.identity | model.recipe(point), model.opener) for point in points(config, model.device)
    ]
    for order in orders:
        model.paint(order.config)
    measured = []
    for order in orders if prompts else []:
        files = draw(order, out, model.paint(order.config), devices=processes(config, model.device))
        numbers = Numbers({"pictures": len(files)})
        if asked:
            sheet = out.with_suffix(".png") if order is orders[0] else None
            pictures = torch.cat(list(in_batches(files, len(files))))
            numbers |= evaluation(Drawn(pictures, model.autoencoder, model.device, sheet), measures.resampling)
        measured.append(numbers | measures(files, prompts))
    forget_others(out, orders)
    sweep = [(model.told(order.config), numbers) for order, numbers in zip(orders[1:], measured[1:], strict=True)]
    return Result(measured[0] if measured else Numbers(), model.told(orders[0].config) | measures.told(), sweep)


def open_measures(config: EvaluateSettings, real: Real | None, device: torch.device) -> Measures:
    """The extractors that a config names, on a device."""
    extractor = None if config.features is None or real is None else build(config.features, "features")
    clip = None if config.clip_score is None else build(config.clip_score, "clip_score")
    return Measures(real, extractor, clip, Resampling(config.resamples, config.seed), device)
