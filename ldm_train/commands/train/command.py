"""`ldm-train train`: latents, of caches or encoded on the fly, to a trained noise predictor."""

from functools import partial
from pathlib import Path

import torch

from ldm_train.assembly.limits import ending, told_ending
from ldm_train.assembly.new_word_files import write_words
from ldm_train.assembly.new_words import check_new_words, training_captions, untrained_words
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.prior import given_caches, join_prior, with_given_caches
from ldm_train.assembly.stored_weights import load_base, load_start
from ldm_train.assembly.trained_for import describe_purpose, refuse_other_purpose
from ldm_train.assembly.trained_part import refuse_part
from ldm_train.assembly.trainer import build_loggers, options, quiet, refuse_fused_scaling, refuse_processes
from ldm_train.assembly.training_data import open_data
from ldm_train.assembly.training_module import compile_network, list_sampling_warnings, training_module
from ldm_train.assembly.watching import Watching
from ldm_train.conditioners.text_encoder import TextEncoder
from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import note_saved, prepare, set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.snapshot_callback import SnapshotCallback
from ldm_train.training.fit import Limits
from ldm_train.training.fit import run as fit
from ldm_train.util.processes import launched_rank


def run(config: TrainSettings) -> int:
    """Train; the exit code is 0 for a finished run, and INTERRUPTED for one that was saved before."""
    refuse_fused_scaling(config)
    refuse_processes(config, shardable=True)
    limits, keeping = ending(config), Keeping(**dict(config.checkpoint))
    set_threads(config.threads)
    quiet()
    refuse_optimization(config)
    refuse_part(config)
    with hold_run_directory(config):
        return told_ending(config, train(config, limits, keeping))


def train(config: TrainSettings, limits: Limits, keeping: Keeping) -> str | None:
    """Why the run was left before its end, if it was."""
    loggers = build_loggers(config)
    given, config = config, join_prior(config)
    torch.manual_seed(config.seed)
    config, parts, data, content = open_data(config)
    captions = training_captions(parts.text_encoder, data, caches=len(given_caches(given)))
    warnings = check_new_words(config, parts.text_encoder, captions)
    stored = with_given_caches(config, given)
    watching = Watching.of(config, parts, data)
    ema: EMA = build(config.ema, "ema")
    base = load_base(config, parts)
    check = partial(refuse_other_purpose, Path(config.run_dir), config, parts)
    resumed = prepare(
        stored,
        content=content,
        base=base,
        trained_for=describe_purpose(config, parts),
        check=check,
        first_weights=partial(load_start, config, parts),
    )
    if config.cache is not None and isinstance(parts.text_encoder, TextEncoder) and not parts.text_encoder.trained:
        parts.text_encoder.keep_only(watching.captions(data))  # the cache has the embeddings of all others
    module = training_module(config, parts)
    if config.channels_last:
        module.to(memory_format=torch.channels_last)
    if config.compile is not None:
        compile_network(module.network, backend=config.compile)
    for warning in [*warnings, *list_sampling_warnings(module.objective), *untrained_words(module.text_encoder)]:
        print(f"warning: {warning}")
    run_dir, spent = Path(config.run_dir), TimeSpent()
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[ema, SnapshotCallback(run_dir, ema), *watching.callbacks(config, ema, content=content, spent=spent)],
        loggers=loggers,
        settings=stored.as_plain(),
        log_every=config.trainer.log_every_n_steps,
        health_every=config.health.every,
        spent=spent,
        options=options(config.trainer, shares=config.checkpoint.shares),
        first_rank=launched_rank() == 0,
        resumed=resumed,
        saved=partial(note_saved, run_dir),
    )
    assert config.text_encoder is not None
    if launched_rank() == 0 and config.text_encoder.get("new_words"):
        with ema.swapped(module):
            print(*write_words(run_dir, module.text_encoder))
    return reason
