"""The names of what a run logs: titles for people, and which values are better."""

from ldm_train.run_dir.reading import Series

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
    """As people call it, with what extracted the features or embedded the pictures behind it."""
    own = name.removeprefix("metrics/")
    if own in AUTOENCODER:
        return AUTOENCODER[own]
    for short in sorted(METRICS, key=len, reverse=True):
        if own.startswith(f"{short}_"):
            return f"{METRICS[short]} ({own.removeprefix(short)[1:]})"
    return plain_title(own)


def lower_is_better(name: str) -> bool:
    """Whether the lowest value of this metric is its best."""
    return any(word in name for word in ("loss", "mse", "kid", "fid", "distance", "error", "kl"))


def best(name: str, series: Series) -> tuple[int, float] | None:
    """The step and the value that are best, of those that are finite."""
    kept = series.finite
    if not len(kept.values):
        return None
    at = int(kept.values.argmin() if lower_is_better(name) else kept.values.argmax())
    return int(kept.steps[at]), float(kept.values[at])


def plain_title(name: str) -> str:
    return name[:1].upper() + name[1:].replace("_", " ")
