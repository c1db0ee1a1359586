"""A part's folder as diffusers and transformers write it: `config.json`, weights in one file or several with an index."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_train.util.safe_json import read_object
from ldm_train.weights.lazy_tensors import SafetensorsFile, Tensors, open_file

MOST = 2**24  # bytes of a file of settings
VARIANTS = ("", "fp16", "bf16")


@dataclass(frozen=True)
class Stored:
    """Weights as they are found, under their file's own names.

    Args:
        path: the file or folder.
        config: what a folder's `config.json` says; None for a file.
    """

    path: Path
    tensors: Tensors
    config: Mapping[str, Any] | None = None


def part_of(path: Path, subfolder: str) -> Path:
    """The folder of a part, in a pipeline's folder or by itself."""
    return path / subfolder if (path / subfolder).is_dir() and not (path / "config.json").is_file() else path


def open_folder(folder: Path, *, name: str, classes: tuple[str, ...], variants: tuple[str, ...] = VARIANTS) -> Stored:
    """The weights in a folder, of the first variant that is there.

    Args:
        name: of its files, "diffusion_pytorch_model" or "model".
        classes: whose `config.json` is accepted.

    Raises:
        ValueError: nothing to read there, a class outside the accepted ones, or an index that leaves the folder.
    """
    config = read_config(folder, classes)
    for variant in variants:
        dotted = f".{variant}" if variant else ""
        file, index = folder / f"{name}{dotted}.safetensors", folder / f"{name}.safetensors.index{dotted}.json"
        if file.is_file():
            return Stored(folder, SafetensorsFile(file).tensors(), config)
        for path in (index, folder / f"{name}{dotted}.safetensors.index.json"):
            if path.is_file():
                return Stored(folder, open_shards(path), config)
    for variant in variants:
        file = folder / (f"{name}.{variant}.bin" if variant else f"{name}.bin")
        if file.is_file():
            return Stored(folder, open_file(file).tensors(), config)
    raise ValueError(
        f"{folder} has no weights: neither {name}.safetensors nor a variant (fp16) nor an index of several files"
    )


def read_config(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """A part's `config.json`.

    Raises:
        ValueError: it is not there, unreadable, or of a class that is not accepted.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder in diffusers' layout: it has no config.json")
    config = read_json(path)
    named = [config["_class_name"]] if "_class_name" in config else config.get("architectures") or []
    if strange := [one for one in named if one not in classes]:
        raise ValueError(f"{path} is of the class {strange[0]}; accepted here: {', '.join(classes)}; nothing was loaded")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of settings holds.

    Raises:
        OSError: it is not there, or cannot be read.
        ValueError: it is too large, or holds no JSON object.
    """
    return read_object(path, limit=MOST)


def open_shards(index: Path) -> Tensors:
    """The tensors of the several files that an index names.

    Raises:
        ValueError: a file outside the index's folder, one that is not there, or one without the tensors that it should have.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files")
    files = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name}, which is no safetensors file of its own folder; it was not opened")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index.parent / name} is not there, and {index.name} names it")
        files[name] = SafetensorsFile(index.parent / name)
    for name, file in files.items():
        own = {tensor for tensor, place in places.items() if place == name}
        if wrong := sorted(own ^ file.shapes.keys()):
            raise ValueError(f"{file.path} does not hold what {index.name} says: {wrong[0]}")
    shapes = {tensor: files[place].shapes[tensor] for tensor, place in places.items()}
    return Tensors(shapes, lambda name: files[places[name]].read(name))
