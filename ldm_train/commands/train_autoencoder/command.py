"""`ldm-train train_autoencoder`: train a KL autoencoder on pictures, and write it in diffusers' layout with its scale."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from ldm_train.assembly.arithmetic import resolve_arithmetic
from ldm_train.assembly.limits import read_limits, record_ending
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.trainer import (
    build_loggers,
    refuse_fused_scaling,
    refuse_processes,
    silence_lightning,
    trainer_options,
)
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import PictureBatches
from ldm_train.data.pictures.decoding import MAX_PIXELS
from ldm_train.data.scan.source_review import group_problems
from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.items import Item
from ldm_train.data.sources.source import Source
from ldm_train.metrics.pixel_distance import psnr
from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import list_commands, note_saved, prepare_run, set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import AutoencoderTrainingSettings
from ldm_train.training.autoencoder_module import AutoencoderTraining, LossWeights
from ldm_train.training.callbacks.reconstructions import Reconstructions
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.fit import Limits
from ldm_train.training.fit import run as fit
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write
from ldm_train.util.messages import Caution, note_all
from ldm_train.util.processes import launched_rank
from ldm_train.util.safe_json import numbers_of, parse_json


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
    autoencoder = build(settings.architecture, "architecture").initialise(settings.seed)
    if settings.image_size % autoencoder.factor:
        raise ValueError(
            f"image_size={settings.image_size} must be a multiple of {autoencoder.factor}, the factor of this architecture"
        )
    items, digests = select_usable(build(settings.source, "source"))
    data = PictureBatches(
        items,
        size=settings.image_size,
        batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size,
        seed=settings.seed,
        workers=settings.workers,
        flip=settings.flip,
    )
    module = AutoencoderTraining(
        autoencoder,
        optimizer=build(settings.optimizer, "optimizer"),
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
    resumed = prepare_run(settings, content=describe_pictures(items, digests))
    run_dir, spent = Path(settings.run_dir), TimeSpent()
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[Reconstructions(run_dir, every=settings.pictures.every, spent=spent)],
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
        save_autoencoder(module, data, run_dir)
    return reason


def select_usable(items: Iterable[Item]) -> tuple[list[Item], dict[str, str]]:
    """Return the items with readable picture headers, and their digests by key; print why the others are left out."""
    all_items = list(items)
    survey = survey_items(all_items, max_pixels=MAX_PIXELS)
    if isinstance(items, Source):
        note_all([*items.notes, *map(Caution, items.warnings)])
    for line in group_problems(survey.problems):
        print(f"left out {line}")
    usable = [item for item in all_items if item.key not in survey.problems]
    return usable, {scanned.item.key: scanned.digest for scanned in survey.scanned}


def describe_pictures(items: Sequence[Item], digests: Mapping[str, str]) -> str:
    """Return a description of the training pictures: their number, and a checksum of their bytes in order."""
    lines = "".join(f"{digests[item.key]} {item.held_out}\n" for item in items)
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    return f"{len(items)} pictures ({sum(item.held_out for item in items)} held out) with the checksum {checksum}"


@torch.no_grad()
def save_autoencoder(module: AutoencoderTraining, data: PictureBatches, run_dir: Path) -> None:
    """Write the autoencoder with its measured scale, and `training.json`: commands, PSNR in dB, curve."""
    module.eval().cpu().float()
    sample = data.train_items[:: max(1, len(data.train_items) // 256)]
    means = [module.autoencoder.encode(data.images(sample[i : i + 32])).mean for i in range(0, len(sample), 32)]
    scaling = Scaling.measured(torch.cat(means))
    module.autoencoder.save(run_dir / "autoencoder", shift=scaling.shift, scale=scaling.scale)
    report = {"scale": scaling.scale, "shift": scaling.shift}
    for name, items in {"train_psnr": sample, "held_out_psnr": data.held_out_items}.items():
        if items:
            batches = [data.images(items[i : i + 32]) for i in range(0, len(items), 32)]
            report[name] = torch.cat([psnr(module.reconstruct(images), images) for images in batches]).mean().item()
    record = {"commands": list_commands(run_dir), **report, "curve": read_psnr_curve(run_dir)}
    atomic_write(run_dir / "autoencoder" / "training.json", json.dumps(record, indent=2) + "\n")
    print(f"wrote the autoencoder to {run_dir / 'autoencoder'}: {report}")


def read_psnr_curve(run_dir: Path) -> list[dict[str, float]]:
    """Return the lines of `metrics.jsonl` with a PSNR, without the learning rate, the gradient norm and grouped metrics."""
    lines = [numbers_of(parse_json(line)) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if any(name.endswith("_psnr") for name in line)]
    kept = [[name for name in line if name not in ("lr", "grad_norm") and "/" not in name] for line in measured]
    return [{name: round(line[name], 5) for name in names} for line, names in zip(measured, kept, strict=True)]
