"""What training an autoencoder leaves: the autoencoder with its scale, and how well it reconstructs, before and after."""

import json
from pathlib import Path

import torch

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.batches.picture_batches import PictureBatches
from ldm_train.run_dir.record import list_commands
from ldm_train.training.autoencoder_module import AutoencoderTraining
from ldm_train.training.callbacks.reconstructions import HELD_OUT, TRAINED, choose_evenly
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write
from ldm_train.util.messages import warn
from ldm_train.util.safe_json import numbers_of, parse_json

SCALE_SAMPLE = 256  # training pictures whose latents decide the scale
LABELS = {HELD_OUT: "held-out pictures", TRAINED: "trained pictures"}


@torch.no_grad()
def save_autoencoder(module: AutoencoderTraining, data: PictureBatches, run_dir: Path, *, start: str | None) -> None:
    """Write the autoencoder with its measured scale, and `training.json`: commands, PSNR in dB, curve.

    Args:
        start: the name of the trained weights that it started from, which the PSNR is compared with; None for none.
    """
    module.eval().cpu().float()
    sample = choose_evenly(data.train_items, SCALE_SAMPLE)
    means = [module.autoencoder.encode(data.images(sample[i : i + 32])).mean for i in range(0, len(sample), 32)]
    scaling = Scaling.measured(torch.cat(means))
    module.autoencoder.save(run_dir / "autoencoder", shift=scaling.shift, scale=scaling.scale)
    curve = read_psnr_curve(run_dir)
    report: dict[str, object] = {"scale": scaling.scale, "shift": scaling.shift, **select_psnr(curve[-1])}
    if start is not None:
        report |= {"start": start, "before": select_psnr(curve[0])}
    record = {"commands": list_commands(run_dir), **report, "curve": curve}
    atomic_write(run_dir / "autoencoder" / "training.json", json.dumps(record, indent=2) + "\n")
    print(f"wrote the autoencoder to {run_dir / 'autoencoder'}: {report}")
    if start is not None:
        compare_with_start(curve[0], curve[-1], start)


def compare_with_start(before: dict[str, float], after: dict[str, float], start: str) -> None:
    """Print by how many dB training changed reconstructions, and warn if the start was better."""
    for name in select_psnr(after):
        print(
            f"reconstructions of the {LABELS[name]}: {before[name]:.1f} dB before, {after[name]:.1f} dB after "
            f"({after[name] - before[name]:+.1f} dB)"
        )
    decisive = HELD_OUT if HELD_OUT in after else TRAINED
    if not after[decisive] > before[decisive]:  # also if it is NaN
        warn(
            f"training did not improve the reconstructions of the {LABELS[decisive]}: go on using "
            f"autoencoder.weights={start}, or train again with a lower optimizer.lr or more pictures"
        )


def select_psnr(line: dict[str, float]) -> dict[str, float]:
    """Return the PSNR in a line of the curve, by name."""
    return {name: line[name] for name in LABELS if name in line}


def read_psnr_curve(run_dir: Path) -> list[dict[str, float]]:
    """Return the lines of `metrics.jsonl` with a PSNR, without the learning rate, the gradient norm and grouped metrics."""
    lines = [numbers_of(parse_json(line)) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    measured = [line for line in lines if any(name.endswith("_psnr") for name in line)]
    kept = [[name for name in line if name not in ("lr", "grad_norm") and "/" not in name] for line in measured]
    return [{name: round(line[name], 5) for name in names} for line, names in zip(measured, kept, strict=True)]
