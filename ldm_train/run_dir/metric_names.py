"""The names of what a run logs: titles for people, and which values are better."""

from ldm_train.run_dir.reading import RunRead, Series
from ldm_train.util.held_out_figures import TAUGHT, held_out_name, say_if_few

LIMITS = ("_low", "_high")  # of a confidence interval, after a metric's name


METRICS = {
    "kid": "KID",
    "fid": "FID",
    "precision": "Precision",
    "recall": "Recall",
    "clip_score": "CLIP score",
    "clip_retrieval_at_1": "CLIP retrieval at 1",
}


AUTOENCODER = {
    "l1": "L1 error",
    "mse": "Squared error",
    "kl": "KL divergence",
    "held_out_psnr": "PSNR of held-out pictures, dB",
    "train_psnr": "PSNR of training pictures, dB",
}


BINS = "validation_bins"  # begins the names of what `validation.jsonl` has whole


def metric_title(name: str) -> str:
    """Return the title of a metric for people, followed by the network that extracted the features."""
    own = name.removeprefix("metrics/")
    if own.startswith(TAUGHT):
        return f"{metric_title(held_out_name(own))} (trained)"
    if own in AUTOENCODER:
        return AUTOENCODER[own]
    for short in sorted(METRICS, key=len, reverse=True):
        if own.startswith(f"{short}_"):
            return f"{METRICS[short]} ({own.removeprefix(short)[1:]})"
    return plain_title(own)


def lower_is_better(name: str) -> bool:
    """Return whether the lowest value of a metric is its best."""
    return any(word in name for word in ("loss", "mse", "kid", "fid", "distance", "error", "kl"))


def best_value(name: str, series: Series) -> tuple[int, float] | None:
    """Return the step and the value of the best finite value, or None without one."""
    kept = series.finite
    if not len(kept.values):
        return None
    at = int(kept.values.argmin() if lower_is_better(name) else kept.values.argmax())
    return int(kept.steps[at]), float(kept.values[at])


def say_if_few_held_out(run: RunRead) -> str:
    """Return that a run's held-out figures are of too few pictures, or nothing."""
    counts = [line.get("examples") for line in run.bins[-1:]]
    counts += [line.get("pictures") for line in run.sets[-1:] if line.get("held_out")]
    few = next((text for count in counts if (text := say_if_few(count))), "")
    return f"held-out figures are {few}" if few else ""


def plain_title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")
