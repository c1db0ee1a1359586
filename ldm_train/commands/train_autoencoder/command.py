"""`ldm-train train_autoencoder`: train a KL autoencoder on pictures, and write it in diffusers' layout with its scale.

It is a new one (`architecture`), or a trained one that goes on with other pictures (`autoencoder.weights`).
"""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from ldm_train.assembly.arithmetic import resolve_arithmetic
from ldm_train.assembly.limits import read_limits, record_ending
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.own_part_probes import refuse_image_channels
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.assembly.trainer import (
    build_loggers,
    refuse_fused_scaling,
    refuse_processes,
    silence_lightning,
    trainer_options,
)
from ldm_train.autoencoders.autoencoder import KLAutoencoder
from ldm_train.commands.train_autoencoder.trained_autoencoder import save_autoencoder
from ldm_train.commands.train_autoencoder.training_pictures import describe_pictures, hold_out_share, select_usable
from ldm_train.data.batches.picture_batches import PictureBatches
from ldm_train.data.pictures.pixel_values import PixelFormat
from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import note_saved, prepare_run, set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import AutoencoderTrainingSettings
from ldm_train.training.autoencoder_module import AutoencoderTraining, LossWeights
from ldm_train.training.callbacks.reconstructions import Reconstructions
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import Power
from ldm_train.training.fit import Limits
from ldm_train.training.fit import run as fit
from ldm_train.training.optimization.parameter_groups import SINGLE_GROUP
from ldm_train.util.messages import note_all
from ldm_train.util.processes import launched_rank
from ldm_train.weights.fingerprint import digest_tensors


def run(settings: AutoencoderTrainingSettings) -> int:
    """Train, and return the exit code: 0 for a finished run, INTERRUPTED for one that was saved before its end."""
    settings, arithmetic = resolve_arithmetic(settings)
    refuse_fused_scaling(settings)
    refuse_processes(settings)
    limits, keeping = read_limits(settings), Keeping(**dict(settings.checkpoint))
    refuse_optimization(settings)
    set_threads(settings.threads)
    silence_lightning()
    if launched_rank() == 0:
        print(arithmetic)
    with hold_run_directory(settings):
        return record_ending(settings, train_autoencoder(settings, limits, keeping))


def train_autoencoder(settings: AutoencoderTrainingSettings, limits: Limits, keeping: Keeping) -> str | None:
    """Train in the run directory and write the autoencoder at the end; return why training stopped early, or None.

    Raises:
        ValueError: `image_size` does not fit the architecture.
    """
    loggers = build_loggers(settings)
    pixels = read_pixel_format(settings.pixels)
    autoencoder = build_autoencoder(settings, pixels)
    if settings.image_size % autoencoder.factor:
        raise ValueError(
            f"image_size={settings.image_size} must be a multiple of {autoencoder.factor}, the factor of this architecture"
        )
    items, digests = select_usable(build(settings.source, "source"), most_unusable=settings.max_unusable, pixels=pixels)
    items = hold_out_share(items, digests, settings.held_out)
    data = PictureBatches(
        items,
        size=settings.image_size,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        seed=settings.seed,
        workers=settings.workers,
        flip=settings.flip,
        pixels=pixels,
    )
    module = AutoencoderTraining(
        autoencoder,
        optimizer=build(settings.optimizer, "optimizer"),
        parameter_groups=replace(SINGLE_GROUP, adamw_for=settings.optimizer.get("adamw_for")),
        lr_schedule=build(settings.lr_schedule, "lr_schedule"),
        weights=LossWeights(
            mse=settings.mse_weight,
            kl=settings.kl_weight,
            gradient=settings.gradient_weight,
            equivariance=settings.equivariance_weight,
            equivariance_share=settings.equivariance_share,
        ),
        seed=settings.seed,
    )
    start = None if settings.autoencoder is None else str(settings.autoencoder.get("weights"))
    base = None if start is None else digest_tensors(autoencoder.state_dict())
    resumed = prepare_run(settings, content=describe_pictures(items, digests), base=base)
    run_dir, spent = Path(settings.run_dir), TimeSpent()
    ema = None if settings.ema_length is None else EMA([Power(settings.ema_length)])
    shown = Reconstructions(run_dir, every=settings.pictures.every, ema=ema, before=start is not None, spent=spent)
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[*([ema] if ema else []), shown],
        loggers=loggers,
        settings=settings.as_plain(),
        log_every=settings.trainer.log_every_n_steps,
        health_every=settings.health.every,
        spent=spent,
        options=trainer_options(settings.trainer),
        first_rank=launched_rank() == 0,
        resumed=resumed,
        saved=partial(note_saved, run_dir),
    )
    if reason is None and module.global_rank == 0:
        with ema.swapped(module) if ema else nullcontext():
            save_autoencoder(module, data, run_dir, start=start)
    return reason


def build_autoencoder(settings: AutoencoderTrainingSettings, pixels: PixelFormat | None) -> KLAutoencoder:
    """Return the autoencoder to train: the trained one of `autoencoder`, or a new one of `architecture`.

    Raises:
        ValueError: there is neither, or the autoencoder has no weights, or is for pictures of other channels.
    """
    if settings.autoencoder is None:
        if settings.architecture is None:
            raise ValueError("there is no autoencoder to train; give architecture=kl_f4, or autoencoder.weights=…")
        given = {} if pixels is None else {"image_channels": pixels.channels}
        return build(settings.architecture, "architecture", **given).initialise(settings.seed)
    autoencoder = build(settings.autoencoder, "autoencoder")
    if not isinstance(autoencoder, KLAutoencoder):
        raise ValueError(
            f"{settings.autoencoder.target.rpartition('.')[2]} is no KL autoencoder, and train_autoencoder trains no other; "
            "give autoencoder.weights=… of one, or leave out autoencoder to train a new one"
        )
    refuse_image_channels(autoencoder, pixels)
    if launched_rank() == 0:
        note_all(autoencoder.notes)
    return autoencoder.requires_grad_(True).train()
