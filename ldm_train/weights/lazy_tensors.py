"""Read tensors of safetensors files, and of pickles that contain only tensors, one at a time and without running code.

Memory-mapped pages stay in memory while a file is open, so a file is opened again after every `REOPEN_AFTER` bytes.
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

from ldm_train.util.text import first_line, list_names, shorten
from ldm_train.weights.tensor_files import check_tensor, read_checksums, read_metadata

REOPEN_AFTER = 2**27  # bytes
CONVERT = (
    "use the same weights as .safetensors if they are published; otherwise convert the file where it can do no harm, "
    'such as in a container without network: python -c "import torch; from safetensors.torch import save_file; '
    "f = torch.load('{name}', map_location='cpu', weights_only=False); "
    "f = f.get('string_to_param', f.get('state_dict', f)); "
    "save_file({{k: v.detach().clone() for k, v in f.items() if torch.is_tensor(v)}}, '{stem}.safetensors')\""
)


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by name, each read when it is accessed.

    Args:
        shapes: each tensor's shape.
        read: returns a tensor by its name.
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

    def rename(self, names: Mapping[str, str]) -> "LazyTensors":
        """Return the tensors that are keys of `names` under the new names, which are its values.

        Raises:
            ValueError: two tensors get the same name.
        """
        before = {new: old for old, new in names.items()}
        if len(before) < len(names):
            twice = sorted(old for old, new in names.items() if before[new] != old)
            raise ValueError(f"it contains the same weight under two names: {list_names(twice)}")
        return LazyTensors({new: self.shapes[old] for old, new in names.items()}, lambda name: self[before[name]])


class TensorFile(ABC):
    """A file of named tensors.

    Raises:
        ValueError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._left: float = REOPEN_AFTER
        self.shapes = self._open()

    @abstractmethod
    def _open(self) -> dict[str, Size]:
        """Open the file, or open it again, and return the shapes of its tensors."""

    @abstractmethod
    def _get(self, name: str) -> Tensor:
        """Return a tensor of the open file."""

    def tensors(self) -> LazyTensors:
        """Return all tensors, none of which is read yet."""
        return LazyTensors(self.shapes, self.read)

    def read(self, name: str) -> Tensor:
        """Return a tensor in the file's type. It may be memory-mapped: copy it before reading many others.

        Raises:
            ValueError: it does not hold floating-point numbers, or cannot be read.
        """
        if self._left <= 0:
            self._left = REOPEN_AFTER
            self._open()
        tensor = self._get(name)
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(
                f"{self.path} contains {name} as {tensor.dtype}, {tensor.layout}; expected floating-point numbers, strided"
            )
        self._left -= tensor.nbytes
        return tensor


class SafetensorsFile(TensorFile):
    """A safetensors file. If `ldm-train` wrote it, each tensor's checksum is compared when it is first read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        read_metadata(path)  # raises if it is damaged
        self._checksums = read_checksums(path)
        self._unchecked = set(self.shapes) if self._checksums else set()

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
            check_tensor(self.path, name, tensor, self._checksums)
            self._unchecked.discard(name)
        return tensor


class PickledFile(TensorFile):
    """A torch.save file (.ckpt, .pt, .bin) that contains only tensors by name, directly or under "state_dict"."""

    def _open(self) -> dict[str, Size]:
        content = load_pickle(self.path)
        # Files written before 2020 are no zip archives: they cannot be memory-mapped, so opening them again frees nothing.
        self._left = REOPEN_AFTER if zipfile.is_zipfile(self.path) else math.inf
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
            raise ValueError(f"{self.path} does not contain tensors by name, or a state_dict of them; use a file of weights")
        if strange := [name for name, value in content.items() if not isinstance(value, Tensor)]:
            raise ValueError(
                f"{self.path} contains more than tensors, under {list_names(strange)}; " + suggest_conversion(self.path)
            )
        self._content = content
        return {name: tensor.shape for name, tensor in content.items()}

    def _get(self, name: str) -> Tensor:
        return self._content[name]


def open_tensor_file(path: Path) -> TensorFile:
    """Open a file of weights in the format that its suffix names.

    Raises:
        ValueError: it does not exist, cannot be read, or has another suffix.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist, or is not a file")
    if path.suffix == ".safetensors":
        return SafetensorsFile(path)
    if path.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        return PickledFile(path)
    raise ValueError(f"{path} is not a file of weights: only .safetensors, .ckpt, .pt, .pth and .bin are read")


def load_pickle(path: Path) -> object:
    """Return the content of a torch.save file of plain values and tensors.

    Raises:
        ValueError: it contains anything else, or cannot be read.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # unpickling reports damage, and code, by many classes
        raise ValueError(describe_pickle_error(path, error)) from error


def check_archive(path: Path) -> None:
    """Raise for an archive that is larger when unpacked, since torch.save compresses nothing, and for TorchScript.

    Raises:
        ValueError: it is one of these, or cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read as a torch.save file ({error})") from error
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    size, full = path.stat().st_size, sum(entry.file_size for entry in entries)
    if packed or full > size:
        raise ValueError(
            f"{path} would unpack from {size:,} to {full:,} bytes"
            f"{' (' + packed[0].filename + ' is compressed)' if packed else ''}; torch.save compresses nothing, so it "
            "did not write this file. Nothing was unpacked"
        )
    if any(re.search(r"(^|/)(constants\.pkl|code/)", entry.filename) for entry in entries):
        raise ValueError(f"{path} is a TorchScript archive, which contains a program; " + suggest_conversion(path))


def describe_pickle_error(path: Path, error: Exception) -> str:
    """Return why a pickle was not loaded: the class in it whose code would have to run, or damage."""
    class_in_file = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
    if class_in_file:
        reason = f"contains {class_in_file[1]}, code that would run when it is loaded: refused, and nothing was run"
        return f"{path} {reason}; {suggest_conversion(path)}"
    reason = str(error).rpartition("WeightsUnpickler error:")[2] if "weights_only" in str(error) else str(error)
    return f"{path} cannot be read as a file of tensors ({shorten(first_line(reason) or 'it is empty', 200)})"


def suggest_conversion(path: Path) -> str:
    """Return the advice for getting a file of tensors from one that may contain code."""
    return CONVERT.format(name=path.name, stem=path.stem)
