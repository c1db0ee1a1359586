"""`ldm-train train`: train a noise predictor on latents from caches or encoded on the fly.

Stages: reject settings that cannot be trained with (`run`), open the data and build the parts, prepare the run directory,
build the Lightning module, and fit (`train_network`).
"""

from functools import partial
from pathlib import Path

import torch

from ldm_train.assembly.arithmetic import draws_ahead, resolve_arithmetic
from ldm_train.assembly.control_start import load_first_control
from ldm_train.assembly.data_record import record_data
from ldm_train.assembly.drawn_tags import describe_tag_cost
from ldm_train.assembly.limits import read_limits, record_ending
from ldm_train.assembly.new_word_files import write_words
from ldm_train.assembly.new_words import check_new_words, training_captions, warn_of_untrained_words
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.prior import given_caches, join_prior, with_given_caches
from ldm_train.assembly.quality_warnings import warn_of_lossy_latents
from ldm_train.assembly.stored_weights import load_base, load_start
from ldm_train.assembly.trained_for import describe_purpose, refuse_other_purpose
from ldm_train.assembly.trained_part import refuse_part
from ldm_train.assembly.trainer import (
    build_loggers,
    refuse_fused_scaling,
    refuse_processes,
    silence_lightning,
    trainer_options,
)
from ldm_train.assembly.training_data import open_data
from ldm_train.assembly.training_module import compile_network, list_sampling_warnings, training_module
from ldm_train.assembly.watching import Watching
from ldm_train.conditioners.caption_encoder import CaptionEncoder, count_stored
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.holding_out import warn_of_few_held_out
from ldm_train.diffusion.drawn_noise import draw_step_noise
from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import note_saved, prepare_run, set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.snapshot_callback import SnapshotCallback
from ldm_train.training.fit import Limits
from ldm_train.training.fit import run as fit
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.util.messages import note, note_all, warn
from ldm_train.util.processes import launched_rank


def run(settings: TrainSettings) -> int:
    """Train, and return the exit code: 0 for a finished run, INTERRUPTED for one that was saved before its end."""
    settings, arithmetic = resolve_arithmetic(settings)
    refuse_fused_scaling(settings)
    refuse_processes(settings, shardable=True)
    limits, keeping = read_limits(settings), Keeping(**dict(settings.checkpoint))
    set_threads(settings.threads)
    silence_lightning()
    refuse_optimization(settings)
    refuse_part(settings)
    if launched_rank() == 0:
        note(arithmetic)
    with hold_run_directory(settings):
        return record_ending(settings, train_network(settings, limits, keeping))


def train_network(settings: TrainSettings, limits: Limits, keeping: Keeping) -> str | None:
    """Train in the run directory; return why training stopped before its end, or None."""
    loggers = build_loggers(settings)
    original, settings = settings, join_prior(settings)
    torch.manual_seed(settings.seed)
    settings, parts, data, content = open_data(settings)
    captions = training_captions(parts.text_encoder, data, caches=len(given_caches(original)))
    warnings = check_new_words(settings, parts.text_encoder, captions)
    if settings.held_out != 0:
        warnings += warn_of_few_held_out(len(data.held_out), len(data.latents.index), share=settings.held_out)
    warnings += warn_of_lossy_latents(settings, data.latents.quality.psnr)
    stored = with_given_caches(settings, original)
    watching = Watching.of(settings, parts, data)
    ema: EMA = build(settings.ema, "ema")
    base = load_base(settings, parts)
    check = partial(refuse_other_purpose, Path(settings.run_dir), settings, parts)
    resumed = prepare_run(
        stored,
        content=content,
        base=base,
        trained_for=describe_purpose(settings, parts),
        check=check,
        first_weights=partial(load_start, settings, parts),
    )
    record_data(Path(settings.run_dir), data)
    module = training_module(settings, parts)
    first_control = [] if resumed else load_first_control(settings, parts)
    note_all(first_control if launched_rank() == 0 else [])
    if isinstance(parts.text_encoder, CaptionEncoder) and count_stored(parts.text_encoder):
        spare_text_encoder(settings, parts.text_encoder, data, watching)
    draw_ahead(settings, module, data)
    if settings.channels_last:
        module.to(memory_format=torch.channels_last)
    if settings.compile is not None:
        compile_network(module.network, backend=settings.compile, shapes=len(data.order.buckets))
    for warning in [
        *warnings,
        *watching.warnings,
        *list_sampling_warnings(module.objective),
        *warn_of_untrained_words(module.text_encoder),
    ]:
        warn(warning)
    run_dir, spent = Path(settings.run_dir), TimeSpent()
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[ema, SnapshotCallback(run_dir, ema), *watching.callbacks(settings, ema, content=content, spent=spent)],
        loggers=loggers,
        settings=stored.as_plain(),
        log_every=settings.trainer.log_every_n_steps,
        health_every=settings.health.every,
        spent=spent,
        options=trainer_options(settings.trainer, shares=settings.checkpoint.shares),
        first_rank=launched_rank() == 0,
        resumed=resumed,
        saved=partial(note_saved, run_dir),
    )
    write_new_words(settings, module, ema)
    return reason


def write_new_words(settings: TrainSettings, module: NoisePredictorTraining, ema: EMA) -> None:
    assert settings.text_encoder is not None
    if launched_rank() == 0 and settings.text_encoder.get("new_words"):
        with ema.swapped(module):
            print(*write_words(Path(settings.run_dir), module.text_encoder))


def draw_ahead(settings: TrainSettings, module: NoisePredictorTraining, data: CachedLatents) -> None:
    """Have the loader draw the noise of each step with its batch, if a step on this device would wait for it."""
    if draws_ahead(settings):
        data.draw_ahead(partial(draw_step_noise, seed=module.seed, perturbations=module.perturbations))


def spare_text_encoder(settings: TrainSettings, frozen: CaptionEncoder, data: CachedLatents, watching: Watching) -> None:
    """Free a frozen text encoder that no step needs, since a cache has the embeddings of captions; or say why one does."""
    if data.tagged is not None:
        if launched_rank() == 0:
            note(describe_tag_cost(frozen, batch_size=settings.batch_size))
    elif settings.cache is not None:
        frozen.keep_only(watching.captions(data))
