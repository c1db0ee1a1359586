"""`ldm-train train`: latents, of caches or encoded on the fly, to a trained noise predictor."""

from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig

from ldm_train.diffusion.objective import Objective
from ldm_train.diffusion.perturbations import Perturbations
from ldm_train.encoders.conditioner import TextEncoder
from ldm_train.encoders.latents import Scaling
from ldm_train.tasks.parts.assemble import Parts
from ldm_train.tasks.parts.embeddings import write_words
from ldm_train.tasks.parts.optimization import refuse_optimization
from ldm_train.tasks.parts.published import start
from ldm_train.tasks.parts.trained_for import describe_purpose, refuse_other_purpose
from ldm_train.tasks.parts.trained_part import choose_trained, load_base, load_first_weights, refuse_part
from ldm_train.tasks.running.directory import note_saved, prepare, set_threads
from ldm_train.tasks.running.ending import ending, told_ending
from ldm_train.tasks.running.holding import hold_run_directory
from ldm_train.tasks.running.lightning import (
    build_loggers,
    launched_rank,
    options,
    quiet,
    refuse_fused_scaling,
    refuse_processes,
)
from ldm_train.tasks.settings.config import build, plain
from ldm_train.tasks.training.data import open_data
from ldm_train.tasks.training.prior import given_caches, join_prior, with_given_caches
from ldm_train.tasks.training.watching import Watching
from ldm_train.tasks.training.words import check_new_words, training_captions, untrained_words
from ldm_train.training.callbacks.checkpoints import Keeping
from ldm_train.training.callbacks.snapshots import Snapshots
from ldm_train.training.callbacks.spent import Spent
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
    with hold_run_directory(config):
        return told_ending(config, train(config, limits, keeping))


def train(config: DictConfig, limits: Limits, keeping: Keeping) -> str | None:
    """Why the run was left before its end, if it was."""
    loggers = build_loggers(config)
    given = config.copy()
    join_prior(config)
    torch.manual_seed(config.seed)
    parts, data, content = open_data(config)
    captions = training_captions(parts.text_encoder, data, caches=len(given_caches(given)))
    told = check_new_words(config, parts.text_encoder, captions)
    stored = with_given_caches(config, given)
    watching = Watching.of(config, parts, data)
    ema: EMA = build(config.ema, "ema")
    base = load_base(config, parts, start)
    check = partial(refuse_other_purpose, Path(config.run_dir), config, parts)
    resumed = prepare(
        stored,
        content=content,
        base=base,
        trained_for=describe_purpose(config, parts),
        check=check,
        first_weights=partial(load_first_weights, config, parts, start),
    )
    if config.cache is not None and isinstance(parts.text_encoder, TextEncoder) and not parts.text_encoder.trained:
        parts.text_encoder.keep_only(watching.captions(data))  # the cache has the embeddings of all others
    module = training_module(config, parts)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)
    if config.compile is not None:
        compile_network(module.network, backend=config.compile)
    warn_of_the_end(module.objective)
    for line in [*told, *untrained_words(module.text_encoder)]:
        print(f"warning: {line}")
    run_dir, spent = Path(config.run_dir), Spent()
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[ema, Snapshots(run_dir, ema), *watching.callbacks(config, ema, content=content, spent=spent)],
        loggers=loggers,
        settings=plain(stored),
        log_every=config.trainer.log_every_n_steps,
        health_every=config.health.every,
        spent=spent,
        options=options(config.trainer, shares=config.checkpoint.shares),
        first_rank=launched_rank() == 0,
        resumed=resumed,
        saved=partial(note_saved, run_dir),
    )
    if launched_rank() == 0 and config.text_encoder.get("new_words"):
        with ema.swapped(module):
            print(*write_words(run_dir, module.text_encoder))
    return reason


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
        timesteps=build(config.timesteps, "timesteps"),
        weighting=parts.weighting,
        perturbations=Perturbations(config.offset_noise, config.input_perturbation),
        optimizer=build(config.optimizer, "optimizer"),
        parameter_groups=ParameterGroups(**config.parameter_groups),
        lr_schedule=build(config.lr_schedule, "lr_schedule"),
        batch_size=config.batch_size,
        seed=config.seed,
        fused_backward=config.fused_backward,
    )
