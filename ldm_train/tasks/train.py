"""`ldm-train train`: latents, of caches or encoded on the fly, to a trained noise predictor."""

from pathlib import Path

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from ldm_train.data.datamodules import CachedLatents
from ldm_train.diffusion.objective import Objective
from ldm_train.diffusion.perturbations import Perturbations
from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.encoders.latents import Scaling
from ldm_train.tasks.assemble import Parts, build_recipe, build_weak, choose_device, start
from ldm_train.tasks.config import build
from ldm_train.tasks.ending import ending, told_ending
from ldm_train.tasks.lightning import launched_rank, options, quiet, refuse_fused_scaling, refuse_processes
from ldm_train.tasks.optimization import refuse_optimization
from ldm_train.tasks.run_directory import locked, prepare, set_threads
from ldm_train.tasks.train_data import open_data
from ldm_train.tasks.trained_part import choose_trained, load_base, refuse_part
from ldm_train.training.callbacks.checkpoints import Keeping
from ldm_train.training.callbacks.samples import Drawing, Samples
from ldm_train.training.callbacks.snapshots import Snapshots
from ldm_train.training.callbacks.validation import Validation
from ldm_train.training.ema import EMA
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.parameter_groups import ParameterGroups
from ldm_train.training.run import Limits
from ldm_train.training.run import run as fit


def run(config: DictConfig) -> int:
    """Train; the exit code is 0 for a finished run, and INTERRUPTED for one that was saved before."""
    refuse_fused_scaling(config)
    refuse_processes(config, shardable=True)
    limits, keeping = ending(config), Keeping(**config.checkpoint)
    set_threads(config.threads)
    quiet()
    refuse_optimization(config)
    refuse_part(config)
    with locked(config):
        return told_ending(config, train(config, limits, keeping))


def train(config: DictConfig, limits: Limits, keeping: Keeping) -> str | None:
    """Why the run was left before its end, if it was."""
    torch.manual_seed(config.seed)
    parts, data, content = open_data(config)
    shown = drawing(config, data)
    weak = build_weak(config, parts, choose_device("cpu" if config.trainer.accelerator == "cpu" else "auto"))
    for recipe in shown.recipes.values():
        parts.generation(parts.network, parts.text_encoder, torch.device("cpu"), weak).check(shown.captions, recipe)
    ema: EMA = build(config.ema)
    base = load_base(config, parts, start)
    resumed = prepare(config, content=content, base=base)
    if config.network.weights is not None and base is None and not resumed:
        for line in start(config, parts):
            print(line)
    if config.cache is not None and isinstance(parts.text_encoder, TextEncoder) and not parts.text_encoder.trained:
        parts.text_encoder.keep_only(shown.captions)  # the cache has the embeddings of all others
    module = training_module(config, parts)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)
    if config.compile is not None:
        compile_network(module.network, backend=config.compile)
    warn_of_the_end(module.objective)
    run_dir = Path(config.run_dir)
    return fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[
            ema,
            Snapshots(run_dir, ema),
            Validation(ema, **config.validation),
            Samples(
                run_dir,
                ema,
                lambda trained: parts.generation(trained.network, trained.text_encoder, trained.device, weak),
                shown,
                every=config.pictures.every,
            ),
        ],
        loggers=[] if config.get("logger") is None else [build(config.logger, save_dir=config.run_dir)],
        log_every=config.trainer.log_every_n_steps,
        options=options(config.trainer, shares=config.checkpoint.shares),
        first_rank=launched_rank() == 0,
    )


def compile_network(network: torch.nn.Module, *, backend: str) -> None:
    """In place, so that its parameters keep their names, and as one graph: what breaks it would cost its speed unseen."""
    if backend not in torch.compiler.list_backends(exclude_tags=()):
        known = ", ".join(torch.compiler.list_backends())
        raise ValueError(f"compile={backend} is no backend of torch.compile; there are: {known}")
    network.compile(fullgraph=True, backend=backend)


def warn_of_the_end(objective: Objective) -> None:
    """Say what trains well and then draws badly: errors that grow, or that do not count, where sampling starts."""
    denoiser = objective.denoiser
    amplification = denoiser.terminal_amplification()
    if amplification > 1000:
        print(
            "warning: with this prediction and schedule, sampling starts where a network's error counts "
            f"{amplification:.0f} times in the picture; not so with prediction=velocity, nor with schedule=scaled_linear"
        )
    end = torch.tensor([denoiser.schedule.end])
    if objective.weighting.weights(denoiser.schedule.snr(end), denoiser.clean_error_per_output_error(end)).item() == 0:
        print(
            "warning: this weighting gives no weight to the end of this schedule, where sampling starts; "
            "not so weighting=uniform"
        )


def training_module(config: DictConfig, parts: Parts) -> NoisePredictorTraining:
    """The Trainer's view of these parts, of which what the config does not train is frozen."""
    choose_trained(config, parts)
    return NoisePredictorTraining(
        parts.network,
        parts.text_encoder,
        scaling=Scaling.of(parts.autoencoder),
        schedule=parts.schedule,
        prediction=parts.prediction,
        timesteps=build(config.timesteps),
        weighting=parts.weighting,
        perturbations=Perturbations(config.offset_noise, config.input_perturbation),
        optimizer=build(config.optimizer),
        parameter_groups=ParameterGroups(**config.parameter_groups),
        lr_schedule=build(config.lr_schedule),
        batch_size=config.batch_size,
        seed=config.seed,
        fused_backward=config.fused_backward,
    )


def drawing(config: DictConfig, data: CachedLatents) -> Drawing:
    """The pictures to draw while training: of the config's prompts, or of held-out (else training) captions."""
    pictures = config.pictures
    scales = guidance_scales(config)
    settings = [OmegaConf.merge(config, {"guidance": {"scale": scale}}) for scale in scales]
    recipes = {
        scale: build_recipe(one, steps=pictures.steps, seed=pictures.seed)  # type: ignore[arg-type]
        for scale, one in zip(scales, settings, strict=True)
    }
    examples = data.held_out if len(data.held_out) else torch.cat(data.train)
    examples = examples[:: max(1, len(data.held_out) // pictures.count)][: pictures.count]
    captions = {example: data.latents.first_caption(example) for example in examples.tolist()}
    prompts = list(captions.values()) if pictures.prompts is None else list(pictures.prompts)
    return Drawing(prompts, recipes, captions if len(data.held_out) else {})


def guidance_scales(config: DictConfig) -> list[float]:
    """At which the prompts' pictures are drawn.

    Raises:
        ValueError: no list of numbers, or one twice.
    """
    scales = config.pictures.guidance
    if scales is None:
        return [float(config.guidance.scale)]
    numbers = [float(scale) for scale in scales if type(scale) in (int, float)] if isinstance(scales, ListConfig) else []
    if not numbers or len(set(numbers)) != len(scales):
        raise ValueError(f"pictures.guidance={scales} must be a list of different guidance scales, such as [1,2,4], or null")
    return numbers
