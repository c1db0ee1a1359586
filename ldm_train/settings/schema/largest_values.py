"""The largest values of settings that sizes and times follow: one zero too many is refused before anything is built.

Each is far above what anybody trains with, and low enough that what it asks for can be counted.
"""

from collections.abc import Iterator

MODELS = ("network", "text_encoder", "architecture", "adapter")  # groups of which every whole number is a size
WIDEST, DEEPEST, LARGEST_SIDE = 2**16, 1000, 2**15
DEPTHS = ("layers", "blocks", "layers_per_block", "transformer_layers_per_block", "patch_size", "expansion", "chunks")
LONGEST = 4096  # tokens of a text encoder's one pass
MOST_STEPS = 100_000  # of a sampler; a schedule is divided into a thousand

LIMITS: dict[str, int] = {
    **dict.fromkeys(("batch_size", "encode_batch_size", "micro_batch_size", "evaluation.batch_size"), 10**6),
    **dict.fromkeys(("image_size", "size", "tile", "crop.areas", "crop.step"), LARGEST_SIDE),
    **dict.fromkeys(("steps", "pictures.steps", "metrics.steps", "prior.steps", "x.steps", "y.steps"), MOST_STEPS),
    "sweep.steps": MOST_STEPS,
    **dict.fromkeys(("count", "first_number", "pictures.count", "metrics.count", "interpolate", "resamples"), 10**6),
    **dict.fromkeys(("prior.count", "samples", "validation.examples", "validation.repeats"), 10**8),
    **dict.fromkeys(("validation.bins", "evaluation.seeds", "crop.views", "tags.keep"), 10**4),
    **dict.fromkeys(("max_steps", "max_pixels", "checkpoint.keep"), 10**12),
    **dict.fromkeys(("lr_schedule.warmup_steps", "lr_schedule.cooldown_steps", "ema.start_step"), 10**12),
    **dict.fromkeys(("workers", "threads", "devices", "trainer.devices"), 4096),
    **dict.fromkeys(("trainer.num_nodes", "cache_repeats"), 10**5),
    "schedule.num_steps": 10**6,
    "text_encoder.context_length": LONGEST,
    "text_encoder.chunks": 100,
}


def largest(name: str) -> int | None:
    """Return the largest value of a setting, or of the numbers in its list; None if it has no limit."""
    group, _, setting = name.partition(".")
    if name in LIMITS or group not in MODELS:
        return LIMITS.get(name)
    return DEEPEST if setting in DEPTHS else WIDEST


def too_large(leaves: Iterator[tuple[str, object]]) -> Iterator[str]:
    """Yield a message for each number that is above its setting's limit."""
    for name, value in leaves:
        limit = largest(name)
        if limit is not None and isinstance(value, int | float) and limit < value < float("inf"):
            yield f"{name}={value} is too large; at most {limit:,} is accepted"
