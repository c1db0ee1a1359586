"""What holds of values whatever their setting: numbers are finite, and lists are lists of what is asked for."""

import math
from collections.abc import Iterator

from omegaconf import DictConfig, ListConfig, OmegaConf

# Where several texts are meant, a single one is a list of one.
SEVERAL_TEXTS = (
    *("trained", "text_encoder.new_words", "text_encoder.classes", "adapter.targets", "adapter.text_targets"),
    "logger.tags",
)
# Settings without a default by which one would see that one text is meant; of a verb, or of all.
ONE_TEXT = {
    *("out", "dir", "picture", "mask", "pipeline", "pictures", "real", "network.weights", "guidance.weak", "max_time"),
    *("compile", "checkpoint.best", "encode.cache"),
    *(f"{verb}.run_dir" for verb in ("train", "check", "sample", "evaluate", "export", "train_autoencoder")),
}
# Settings without a default by which one would see that numbers are meant: how many, and what they look like.
NUMBERS: dict[str, tuple[int | None, str]] = {
    "size": (2, "[HEIGHT,WIDTH], such as [512,768]"),
    "cache_repeats": (None, "a number for each cache, such as [1,3]"),
    "cache_shares": (None, "a number for each cache, such as [0.8,0.2]"),
    "crop.areas": (None, "sides in pixels, such as [512,768]"),
}
# Settings that name what is read: an empty one would be taken for the current folder.
READ = (
    *("run_dir", "dir", "picture", "mask", "pipeline", "pictures", "real", "source.path", "source.root", "guidance.weak"),
    *(f"{part}.weights" for part in ("network", "autoencoder", "text_encoder")),
)
INFINITE = {"guidance.interval"}  # up to the noise alone, where sigma / alpha is infinite


def make_lists(config: DictConfig) -> None:
    """Turn a single text into a list of one where a setting takes several."""
    for name in SEVERAL_TEXTS:
        value = OmegaConf.select(config, name)
        if isinstance(value, str):
            OmegaConf.update(config, name, [value])


def wrong_numbers(config: DictConfig) -> Iterator[str]:
    """Yield a message for each number that is NaN or infinite, and for each list of numbers that is something else."""
    for name, value in leaves(config):
        if isinstance(value, float) and (math.isnan(value) or (math.isinf(value) and name not in INFINITE)):
            yield f"{name}={value} must be a finite number; quote it if it is meant as text"
    for name, (count, accepted) in NUMBERS.items():
        value = OmegaConf.select(config, name)
        if value is not None and not _are_numbers(value, count):
            yield f"{name}={value} must be a list: {accepted}"


def empty_paths(config: DictConfig) -> Iterator[str]:
    """Yield a message for each path to read that is an empty text."""
    for name in READ:
        value = OmegaConf.select(config, name)
        if isinstance(value, str) and not value.strip():
            yield f"{name} is empty; give it a name (is a variable of the shell unset?)"


def _are_numbers(value: object, count: int | None) -> bool:
    if not isinstance(value, ListConfig) or count not in (None, len(value)):
        return False
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)


def leaves(config: DictConfig) -> Iterator[tuple[str, object]]:
    """All values that are neither lists nor mappings, by the setting's name; those of a list have the list's."""
    yield from _leaves(OmegaConf.to_container(config, resolve=True))


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, nested in value.items():
            yield from _leaves(nested, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for nested in value:
            yield from _leaves(nested, name)
    else:
        yield name, value
