"""Conditions on the figures of a run under which its pictures may be noise or blobs.

Each returns the values that its figure has, for a sentence about it, or None if it does not apply.
"""

from collections.abc import Mapping

import numpy as np

from ldm_train.data.cache.quality import LOW_PSNR
from ldm_train.run_dir.reading import RunRead

Values = Mapping[str, object] | None

TRUE_DEVIATION = (0.4, 2.5)  # of latents, as `autoencoders/scaling.py` has it, which imports torch
MOST_NONFINITE = 0.01  # share of the steps
FIRST_STEPS = 200  # before which a loss says little
NO_LEARNING = 0.7  # of the loss of a network that always predicts zero
ZERO_LOSS = {
    "Noise": 1.0,
    "Velocity": 1.0,
    "Flow": 2.0,
}  # of such a network: the targets' mean square for latents of deviation 1
RECOGNISED, DRAWN = 0.5, 0.7  # retrieval at 1 from which on some, and most, pictures show what was asked for
FEW_SEEN = 200  # examples per picture, before which the captions of small sets were not recognised
MANY_SEEN = 1000
SMALL_SET = 10_000  # pictures; a larger set teaches a subject by several pictures
SLOW_RATE = 3e-4
STRONG_GUIDANCE = 6.0
LAG = 1.1
CUT_AWAY = 0.2
ALIKE, FEWEST_ALIKE = 0.5, 10


def has_lossy_latents(run: RunRead) -> Values:
    psnr = read_number(run, "psnr")
    return None if psnr is None or psnr >= LOW_PSNR else {"psnr": psnr, "low": LOW_PSNR}


def has_wrong_scale(run: RunRead) -> Values:
    deviation, (low, high) = read_number(run, "deviation"), TRUE_DEVIATION
    return None if deviation is None or low < deviation < high else {"deviation": deviation}


def has_nonfinite_steps(run: RunRead) -> Values:
    share = len(run.nonfinite) / max(1, run.step)
    return {"count": len(run.nonfinite), "share": share} if share > MOST_NONFINITE else None


def has_high_loss(run: RunRead) -> Values:
    kind, weighting = get_class(run, "prediction"), get_class(run, "weighting")
    loss = read_recent(run, "loss")
    if loss is None or weighting != "UniformWeight" or kind not in ZERO_LOSS or run.step < FIRST_STEPS:
        return None
    return {"loss": loss, "zero": ZERO_LOSS[kind]} if loss > NO_LEARNING * ZERO_LOSS[kind] else None


def has_captions_alike(run: RunRead) -> Values:
    share, pictures = read_number(run, "share_of_commonest_caption"), read_number(run, "pictures")
    if share is None or pictures is None or pictures < FEWEST_ALIKE or share <= ALIKE or starts_from_weights(run):
        return None
    return {"share": share, "pictures": int(pictures)}


def draws_taught_only(run: RunRead) -> Values:
    taught, held_out = read_last(run, "metrics/taught_retrieval_at_1"), read_last(run, "metrics/retrieval_at_1")
    if taught is None or held_out is None or taught < DRAWN or held_out > taught / 2:
        return None
    return {"taught": taught, "held_out": held_out}


def has_few_examples(run: RunRead) -> Values:
    seen, pictures = count_seen(run), read_number(run, "pictures") or 0
    best = max(taught(run) or 0, read_last(run, "metrics/retrieval_at_1") or 0)
    if seen is None or seen >= FEW_SEEN or pictures > SMALL_SET or starts_from_weights(run) or best >= RECOGNISED:
        return None
    return {
        "seen": seen,
        "needed": FEW_SEEN,
        "pictures": int(pictures),
        "steps": round(FEW_SEEN * pictures / batch_size(run)),
    }


def is_not_taught(run: RunRead) -> Values:
    seen, value = count_seen(run), taught(run)
    return {"seen": seen, "taught": value} if seen and seen >= MANY_SEEN and is_weak(run) else None


def predicts_noise(run: RunRead) -> Values:
    if get_class(run, "prediction") != "Noise" or starts_from_weights(run) or not is_weak(run):
        return None
    return {"taught": taught(run)}


def has_low_rate(run: RunRead) -> Values:
    rate = run.settings.get("optimizer.lr")
    if not isinstance(rate, float) or rate >= SLOW_RATE or starts_from_weights(run) or not is_weak(run):
        return None
    return {"rate": rate, "taught": taught(run)}


def has_lagging_average(run: RunRead) -> Values:
    average, raw = read_last(run, "validation_loss"), read_last(run, "validation_loss_raw")
    return {"average": average, "raw": raw} if average is not None and raw is not None and average > LAG * raw else None


def has_wrong_guidance(run: RunRead) -> Values:
    scale, dropout = run.settings.get("guidance.scale"), run.settings.get("caption_dropout")
    if not isinstance(scale, int | float) or scale == 1 or starts_from_weights(run):
        return None
    if get_class(run, "guidance") != "classifier_free":
        return None
    return {"scale": scale, "dropout": dropout} if scale > STRONG_GUIDANCE or dropout == 0 else None


def has_large_cuts(run: RunRead) -> Values:
    share = read_number(run, "cut_away")
    return {"share": share} if share is not None and share > CUT_AWAY else None


def is_weak(run: RunRead) -> bool:
    """Return whether a metric says that few of the trained captions are recognised."""
    value = taught(run)
    return value is not None and value < RECOGNISED


def taught(run: RunRead) -> float | None:
    """Return the share of trained captions of which the drawn picture is recognised; None if it was not measured."""
    return read_last(run, "metrics/taught_retrieval_at_1")


def count_seen(run: RunRead) -> float | None:
    """Return how often each picture was trained on so far; None if it is unknown."""
    pictures = read_number(run, "pictures")
    return None if not pictures or not run.step else run.step * batch_size(run) / pictures


def batch_size(run: RunRead) -> int:
    size = run.settings.get("batch_size")
    return size if isinstance(size, int) and size > 0 else 1


def starts_from_weights(run: RunRead) -> bool:
    return run.settings.get("network.weights") is not None


def get_class(run: RunRead, group: str) -> str:
    """Return the name of the class or function of a group of settings."""
    return str(run.settings.get(f"{group}._target_")).rpartition(".")[2]


def read_number(run: RunRead, name: str) -> float | None:
    """Return a number of what the run is trained on; None if it is unknown."""
    value = run.data.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_last(run: RunRead, name: str) -> float | None:
    """Return the last finite value of a series, or None without one."""
    values = run.series[name].finite.values if name in run.series else np.array([])
    return float(values[-1]) if len(values) else None


def read_recent(run: RunRead, name: str) -> float | None:
    """Return the mean of the last twentieth of a series, or None without finite values."""
    values = run.series[name].finite.values if name in run.series else np.array([])
    return float(values[-max(1, len(values) // 20) :].mean()) if len(values) else None
