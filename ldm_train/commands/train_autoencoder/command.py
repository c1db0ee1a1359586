"""`ldm-train train_autoencoder`: pictures to a KL autoencoder in diffusers' layout, with its measured scale."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from ldm_train.assembly.limits import ending, told_ending
from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.assembly.trainer import build_loggers, options, quiet, refuse_fused_scaling, refuse_processes
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.datamodules import PictureBatches
from ldm_train.data.pictures.decoding import MAX_PIXELS
from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.items import Item, format_name
from ldm_train.metrics.drawings import psnr
from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import commands, note_saved, prepare, set_threads
from ldm_train.settings.composition import build
from ldm_train.settings.schema.training import AutoencoderTrainingSettings
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.callbacks.reconstructions import Reconstructions
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.checkpoints.checkpoint_callback import Keeping
from ldm_train.training.fit import Limits
from ldm_train.training.fit import run as fit
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write
from ldm_train.util.processes import launched_rank
from ldm_train.util.safe_json import numbers_of, parse_json


def run(config: AutoencoderTrainingSettings) -> int:
    """Train; the exit code is 0 for a finished run, and INTERRUPTED for one that was saved before."""
    refuse_fused_scaling(config)
    refuse_processes(config)
    limits, keeping = ending(config), Keeping(**dict(config.checkpoint))
    refuse_optimization(config)
    set_threads(config.threads)
    quiet()
    with hold_run_directory(config):
        return told_ending(config, train(config, limits, keeping))


def train(config: AutoencoderTrainingSettings, limits: Limits, keeping: Keeping) -> str | None:
    """Why the run was left before its end, if it was; its autoencoder is written at its end."""
    loggers = build_loggers(config)
    autoencoder = build(config.architecture, "architecture").initialise(config.seed)
    if config.image_size % autoencoder.factor:
        raise ValueError(f"image_size={config.image_size} must be a multiple of {autoencoder.factor} for this architecture")
    items, digests = usable(build(config.source, "source"))
    data = PictureBatches(
        items,
        size=config.image_size,
        batch_size=config.batch_size,
        micro_batch_size=config.micro_batch_size,
        seed=config.seed,
        workers=config.workers,
        flip=config.flip,
    )
    module = AutoencoderTraining(
        autoencoder,
        optimizer=build(config.optimizer, "optimizer"),
        lr_schedule=build(config.lr_schedule, "lr_schedule"),
        mse_weight=config.mse_weight,
        kl_weight=config.kl_weight,
        seed=config.seed,
    )
    resumed = prepare(config, content=describe_pictures(items, digests))
    run_dir, spent = Path(config.run_dir), TimeSpent()
    reason = fit(
        module,
        data,
        run_dir=run_dir,
        limits=limits,
        keeping=keeping,
        callbacks=[Reconstructions(run_dir, every=config.pictures.every, spent=spent)],
        loggers=loggers,
        settings=config.as_plain(),
        log_every=config.trainer.log_every_n_steps,
        health_every=config.health.every,
        spent=spent,
        options=options(config.trainer),
        first_rank=launched_rank() == 0,
        resumed=resumed,
        saved=partial(note_saved, run_dir),
    )
    if reason is None and module.global_rank == 0:
        save(module, data, run_dir)
    return reason


def usable(items: Iterable[Item]) -> tuple[list[Item], dict[str, str]]:
    """Return the items with pictures whose headers can be read, and their digests by key; print why others are left out."""
    listed = list(items)
    found = survey_items(listed, max_pixels=MAX_PIXELS)
    for key, problem in sorted(found.problems.items()):
        print(f"left out {format_name(key)}: {problem}")
    return [item for item in listed if item.key not in found.problems], {
        seen.item.key: seen.digest for seen in found.scanned
    }


def describe_pictures(items: Sequence[Item], digests: Mapping[str, str]) -> str:
    """Return one name for the pictures that are trained on: how many, and a checksum of their bytes in their order."""
    lines = "".join(f"{digests[item.key]} {item.held_out}\n" for item in items)
    checksum = hashlib.sha256(lines.encode()).hexdigest()
    return f"{len(items)} pictures ({sum(item.held_out for item in items)} held out) with the checksum {checksum}"


@torch.no_grad()
def save(module: AutoencoderTraining, data: PictureBatches, run_dir: Path) -> None:
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
    told = {"commands": commands(run_dir), **report, "curve": curve(run_dir)}
    atomic_write(run_dir / "autoencoder" / "training.json", json.dumps(told, indent=2) + "\n")
    print(f"autoencoder in {run_dir / 'autoencoder'}: {report}")


def curve(run_dir: Path) -> list[dict[str, float]]:
    """The lines of `metrics.jsonl` with a PSNR, without the rate, the gradient and what is told of the weights."""
    lines = [numbers_of(parse_json(line)) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if any(name.endswith("_psnr") for name in line)]
    shown = [[name for name in line if name not in ("lr", "grad_norm") and "/" not in name] for line in measured]
    return [{name: round(line[name], 5) for name in names} for line, names in zip(measured, shown, strict=True)]
