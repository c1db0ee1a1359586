"""Named tensors on disk that are read one at a time, and never run code: safetensors files, and pickles of plain tensors.

A file is opened again after every so many bytes, so that what was read of it leaves the memory.
"""

import math
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Size, Tensor

from ldm_train.util.text import list_names
from ldm_train.weights.tensor_files import check_tensor, read_checksums, read_told

OPEN_FOR = 2**27  # bytes
CONVERT = (
    "take the same weights as .safetensors where they are to be had; else convert the file where it can do no harm, such as "
    'in a container without network: python -c "import torch; from safetensors.torch import save_file; '
    "f = torch.load('{name}', map_location='cpu', weights_only=False); "
    "f = f.get('string_to_param', f.get('state_dict', f)); "
    "save_file({{k: v.detach().clone() for k, v in f.items() if torch.is_tensor(v)}}, '{stem}.safetensors')\""
)


class Tensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is asked for.

    Args:
        shapes: of each, known beforehand.
        read: a tensor by the name that it was given here.
    """

    def __init__(self, shapes: Mapping[str, Size], read: Callable[[str], Tensor]) -> None:
        self.shapes = dict(shapes)
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.shapes:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """Those of the names that are keys, under the new ones.

        Raises:
            ValueError: two would have the same name.
        """
        before = {new: old for old, new in names.items()}
        if len(before) < len(names):
            twice = sorted(old for old, new in names.items() if before[new] != old)
            raise ValueError(f"it holds the same weight under two names: {list_names(twice)}")
        return Tensors({new: self.shapes[old] for old, new in names.items()}, lambda name: self[before[name]])


class TensorFile(ABC):
    """A file of named tensors.

    Raises:
        ValueError: it cannot be read, or is not what it says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._left: float = OPEN_FOR
        self.shapes = self._open()

    @abstractmethod
    def _open(self) -> dict[str, Size]:
        """Open the file, again where it was; the shapes of its tensors."""

    @abstractmethod
    def _get(self, name: str) -> Tensor:
        """A tensor of the open file."""

    def tensors(self) -> Tensors:
        return Tensors(self.shapes, self.read)

    def read(self, name: str) -> Tensor:
        """A tensor in the file's own type, which is to be copied before many others are read.

        Raises:
            ValueError: it is not of floating-point numbers, or cannot be read.
        """
        if self._left <= 0:
            self._left = OPEN_FOR
            self._open()
        tensor = self._get(name)
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(
                f"{self.path} holds {name} as {tensor.dtype}, {tensor.layout}; weights are floating-point numbers"
            )
        self._left -= tensor.nbytes
        return tensor


class SafetensorsFile(TensorFile):
    """A safetensors file, whose header is checked against its length before anything is read.

    If `ldm-train` wrote it, each tensor is compared with its checksum when it is read for the first time.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        read_told(path)  # which is compared with its checksum too
        self._known = read_checksums(path)
        self._unchecked = set(self.shapes) if self._known else set()

    def _open(self) -> dict[str, Size]:
        try:
            self._file = safe_open(self.path, "pt")
            return {name: Size(self._file.get_slice(name).get_shape()) for name in self._file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{self.path} cannot be read as a safetensors file ({error})") from error

    def _get(self, name: str) -> Tensor:
        try:
            tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ValueError(f"{self.path} cannot be read as a safetensors file ({error})") from error
        if name in self._unchecked:
            check_tensor(self.path, name, tensor, self._known)
            self._unchecked.discard(name)
        return tensor


class PickledFile(TensorFile):
    """A file of torch.save (.ckpt, .pt, .bin) with nothing in it but plain tensors, as they are or as its `state_dict`."""

    def _open(self) -> dict[str, Size]:
        content = unpickled(self.path)
        # What was written before 2020 is in memory as a whole.
        self._left = OPEN_FOR if zipfile.is_zipfile(self.path) else math.inf
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
            raise ValueError(f"{self.path} holds no tensors by name")
        if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
            raise ValueError(f"{self.path} holds more than tensors under {list_names(strange)}; " + convert(self.path))
        self._content = content
        return {name: tensor.shape for name, tensor in content.items()}

    def _get(self, name: str) -> Tensor:
        return self._content[name]


def open_file(path: Path) -> TensorFile:
    """The tensors of a file, by its ending.

    Raises:
        ValueError: it is none that is read here.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not there")
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return PickledFile(path)
    raise ValueError(f"{path} is no file of weights: .safetensors, .ckpt, .pt, .pth and .bin are read")


def unpickled(path: Path) -> object:
    """What a file of torch.save holds, which is nothing but plain values and tensors.

    Raises:
        ValueError: it holds more, or cannot be read.
    """
    refuse_inflated(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # unpickling reports damage, and code, by many classes
        raise ValueError(refusal(path, error)) from error


def refuse_inflated(path: Path) -> None:
    """Refuse an archive that would grow on unpacking: torch.save packs nothing.

    Raises:
        ValueError: it does, or it is TorchScript, a program.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a file of torch.save ({error})") from error
    grown = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    size, full = path.stat().st_size, sum(entry.file_size for entry in entries)
    if grown or full > size:
        raise ValueError(
            f"{path} would unpack from {size:,} to {full:,} bytes"
            f"{' (' + grown[0].filename + ' is packed)' if grown else ''}; "
            "torch.save packs nothing, so that this is no file of its, and nothing was unpacked"
        )
    if any(re.search(r"(^|/)(constants\.pkl|code/)", entry.filename) for entry in entries):
        raise ValueError(f"{path} is a TorchScript archive, a program that holds weights; " + convert(path))


def refusal(path: Path, error: Exception) -> str:
    """What is wrong with a pickle, by the class in it that would have to be trusted where that is it."""
    named = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if named:
        return f"{path} holds {named[1]}, whose code would run on loading: refused, and nothing was run; " + convert(path)
    told = str(error).rpartition("WeightsUnpickler error:")[2] if "weights_only" in str(error) else str(error)
    return f"{path} cannot be read as a file of plain tensors ({(told.strip() or 'empty').splitlines()[0][:200]})"


def convert(path: Path) -> str:
    """How to get a file of tensors from one that may hold more."""
    return CONVERT.format(name=path.name, stem=path.stem)
