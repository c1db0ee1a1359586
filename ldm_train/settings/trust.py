"""What only the command line can grant: `trust=PACKAGE`, after which its code may run, and commands as sources (`pipe:`).

A grant holds for the process, is never stored in a run's config, and no file can give it. `trust=.` grants every module and
package in the current folder. Python then finds modules there too, after everything that is installed, so that no file in
the folder can replace a library. A Python program grants the objects that it passes: their code is in its process already.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path

from ldm_train.settings.shipped import ConfigError

TRUST, HERE = "trust", "."
FROM_PYTHON = "from_python"  # begins the name, in a config, of an object that cannot be imported by a name
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# Through these any command could be run or any file be written, and none of them holds code of one's own.
LIBRARIES = (
    *("torch", "torchvision", "torchmetrics", "pytorch_lightning", "lightning_fabric", "hydra", "omegaconf", "numpy", "PIL"),
    *("datasets", "webdataset", "pyarrow", "pandas", "fsspec", "huggingface_hub", "transformers", "diffusers", "accelerate"),
    *(
        "open_clip",
        "peft",
        "safetensors",
        "wandb",
        "mlflow",
        "trackio",
        "filelock",
        "yaml",
        "pip",
        "setuptools",
        "pytest",
        "__main__",
    ),
)
REFUSED = {*sys.stdlib_module_names, "ldm_train", FROM_PYTHON, *LIBRARIES}
MEANING = "which lets the code of {package} run with your rights: grant it only if you know who wrote that code"


@dataclass(frozen=True)
class PassedObject:
    """An object that a Python program passed for a setting.

    Args:
        make: returns the object, or a new one, for the arguments that the config and the run give.
        code: the class or function that the object is of.
    """

    make: Callable[..., object]
    code: object


@dataclass(frozen=True)
class Grants:
    """What the command line of this process granted, or the Python program that called.

    Args:
        packages: a config may name their classes and functions.
        commands: whether the source's path was typed, and so may be a command (`pipe:…`).
        folder: where Python looks for modules after all other places; None for nowhere else.
        objects: what a Python program passed, by the name that a config has for it.
    """

    packages: tuple[str, ...] = ()
    commands: bool = False
    folder: str | None = None
    objects: Mapping[str, PassedObject] = field(default_factory=dict)

    def cover(self, name: str) -> bool:
        """Return whether a full name lies in a trusted package, or is that of a passed object."""
        return name in self.objects or any(name.startswith(f"{package}.") for package in self.packages)


# Of each thread, so that none keeps the grants of another one.
_current: ContextVar[Grants] = ContextVar("grants", default=Grants())  # noqa: B039 - never changed in place


def current_grants() -> Grants:
    return _current.get()


@contextmanager
def granted(grants: Grants) -> Iterator[None]:
    """Let these grants hold until the block ends."""
    before = _current.set(grants)
    added = [] if grants.folder in (None, *sys.path) else [str(grants.folder)]
    sys.path += added
    try:
        yield
    finally:
        _current.reset(before)
        for folder in added:
            with suppress(ValueError):  # own code removed it
                sys.path.remove(folder)


def read_grants(words: Sequence[str]) -> Grants:
    """Return what the words of a command line grant.

    Raises:
        ConfigError: `trust` is no name of a package, or one that is never trusted.
    """
    values = [word.partition("=")[2] for word in words if is_trust(word)]
    named = [name.strip(" '\"") for value in values for name in value.strip("[] ").split(",")]
    packages = [name for one in named for name in (list_modules(Path.cwd()) if one == HERE else [one])]
    for package in packages:
        if not NAME.fullmatch(package):
            raise ConfigError(
                f"trust={package} is no package; give its name in Python, trust=PACKAGE or trust=[A,B], or trust=. for the "
                "code in the folder you stand in"
            )
        if package.partition(".")[0] in REFUSED:
            raise ConfigError(f"trust={package} is refused: through it any command could be run; name your own package")
    typed = any(word.lstrip("+").startswith("source.path=") for word in words)
    local = HERE in named or any(is_only_in(Path.cwd(), package) for package in packages)
    return Grants(tuple(packages), commands=typed, folder=str(Path.cwd()) if local else None)


def list_modules(folder: Path) -> list[str]:
    """Return the modules and packages in a folder that Python would import from there; nothing is imported.

    Raises:
        ConfigError: there are none.
    """
    files = [path.stem for path in folder.glob("*.py")]
    folders = [path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.py"))]
    names = {name for name in (*files, *folders) if NAME.fullmatch(name) and name not in REFUSED}
    if found := sorted(name for name in names if _is_below(folder, name, [*sys.path, str(folder)])):
        return found
    raise ConfigError(f"trust=. grants the code in the folder you stand in, and {folder} holds no Python module of its own")


def is_only_in(folder: Path, package: str) -> bool:
    """Return whether a package is in a folder, and Python finds it nowhere else."""
    top = package.partition(".")[0]
    return PathFinder.find_spec(top) is None and _is_below(folder, top, [str(folder)])


def _is_below(folder: Path, name: str, path: Sequence[str]) -> bool:
    spec = PathFinder.find_spec(name, path)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    return any(place is not None and Path(place).resolve().is_relative_to(folder.resolve()) for place in places)


def is_trust(word: str) -> bool:
    """Return whether a word of the command line is `trust=…`."""
    return word.lstrip("+~").partition("=")[0] == TRUST


class UntrustedCodeError(ValueError):
    """A config names code that only the command line can allow.

    Args:
        refusal: the message without what to do.
        packages: those that the code belongs to.
    """

    def __init__(self, refusal: str, packages: Sequence[str]) -> None:
        super().__init__(refusal + _advise(packages))
        self.refusal = refusal


def may_be_granted(target: object) -> bool:
    """Return whether a name is in a package that `trust` accepts."""
    return isinstance(target, str) and NAME.fullmatch(target) is not None and target.partition(".")[0] not in REFUSED


def is_from_python(target: object) -> bool:
    """Return whether a name in a config stands for an object that only a Python program can pass."""
    return isinstance(target, str) and target.startswith(f"{FROM_PYTHON}.")


def raised_in_own_code(error: BaseException) -> bool:
    """Return whether trusted code raised an error, or a library that it called, and nothing of this package after it."""
    own, frame = False, error.__traceback__
    while frame is not None:
        module = str(frame.tb_frame.f_globals.get("__name__", ""))
        if current_grants().cover(f"{module}."):
            own = True
        elif module.startswith("ldm_train."):
            own = False
        frame = frame.tb_next
    return own


def _advise(packages: Sequence[str]) -> str:
    """Return how to grant what own code of these packages needs, as the end of a message."""
    word = packages[0] if len(packages) == 1 else f"[{','.join(packages)}]"
    meaning = MEANING.format(package=", ".join(packages))
    return f". Code of your own needs trust={word} on the command line or from Python, {meaning}"
