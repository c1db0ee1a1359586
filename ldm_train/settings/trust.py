"""What only the command line can grant: `trust=PACKAGE`, whose code may then run, and commands as sources (`pipe:`).

A grant holds for the process, is never stored in a run's config, and no file can give it.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ldm_train.settings.shipped import ConfigError

TRUST = "trust"
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Through these any command could be run or any file be written, and none of them holds code of one's own.
LIBRARIES = (
    *("torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "numpy", "PIL"),
    *("datasets", "webdataset", "pyarrow", "pandas", "fsspec", "huggingface_hub", "transformers", "diffusers", "accelerate"),
    *("open_clip", "peft", "safetensors", "wandb", "filelock", "yaml", "pip", "setuptools", "pytest", "__main__"),
)
REFUSED = {*sys.stdlib_module_names, "ldm_train", *LIBRARIES}
MEANING = "which lets the code of {package} run with your rights: grant it only if you know who wrote that code"


@dataclass(frozen=True)
class Grants:
    """What the command line of this process granted.

    Args:
        packages: whose classes and functions a config may name.
        commands: whether the source's path was typed, and so may be a command (`pipe:…`).
    """

    packages: tuple[str, ...] = ()
    commands: bool = False

    def cover(self, name: str) -> bool:
        """Return whether a full name lies in a trusted package."""
        return any(name.startswith(f"{package}.") for package in self.packages)


_current = Grants()


def current_grants() -> Grants:
    return _current


@contextmanager
def granted(grants: Grants) -> Iterator[None]:
    """Let these grants hold in this process until the block ends."""
    global _current
    before, _current = _current, grants
    try:
        yield
    finally:
        _current = before


def read_grants(words: Sequence[str]) -> Grants:
    """Return what the words of a command line grant.

    Raises:
        ConfigError: `trust` is no name of a package, or one that is never trusted.
    """
    values = [word.partition("=")[2] for word in words if is_trust(word)]
    packages = [name.strip(" '\"") for value in values for name in value.strip("[] ").split(",")]
    for package in packages:
        if not NAME.fullmatch(package):
            raise ConfigError(f"trust={package} is no package; give its name in Python, trust=PACKAGE or trust=[A,B]")
        if package.partition(".")[0] in REFUSED:
            raise ConfigError(f"trust={package} is refused: through it any command could be run; name your own package")
    typed = any(word.lstrip("+").startswith("source.path=") for word in words)
    return Grants(tuple(packages), commands=typed)


def is_trust(word: str) -> bool:
    """Return whether a word of the command line is `trust=…`."""
    return word.lstrip("+~").partition("=")[0] == TRUST


def advice(target: str) -> str:
    """Return how to grant what an unlisted name needs; nothing where no grant would do."""
    package = target.partition(".")[0]
    if package in REFUSED or not NAME.fullmatch(target):
        return ""
    return f". Code of your own needs trust={package} on the command line, {MEANING.format(package=package)}"
