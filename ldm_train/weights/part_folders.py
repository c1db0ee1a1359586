"""Read a part's folder as diffusers and transformers write it: `config.json`, and weights in one file or several."""

import zlib
from pathlib import Path
from typing import Any

from ldm_train.util.safe_json import read_object
from ldm_train.util.text import list_names
from ldm_train.weights.exported_files import check_exported_file
from ldm_train.weights.lazy_tensors import LazyTensors, SafetensorsFile, open_tensor_file
from ldm_train.weights.tensor_files import read_metadata

CONFIG = "config.json"
CONFIG_CHECKSUM = "config"  # in the metadata of a trained autoencoder's weights
VARIANTS = ("", "fp16", "bf16")


def find_part_folder(path: Path, subfolder: str) -> Path:
    """Return a part's folder: `subfolder` if `path` is a pipeline's folder, else `path`."""
    return path / subfolder if (path / subfolder).is_dir() and not (path / "config.json").is_file() else path


def open_part_folder(
    folder: Path, *, name: str, classes: tuple[str, ...], variants: tuple[str, ...] = VARIANTS
) -> tuple[LazyTensors, dict[str, Any]]:
    """Open the weights of the first variant in a folder, safetensors before pickles; return them and the `config.json`.

    Args:
        name: what its weight files are called, "diffusion_pytorch_model" or "model".
        classes: which classes its `config.json` may name.

    Raises:
        ValueError: the folder has no weights, a config of another class, or an index that names files outside it.
    """
    config = read_part_config(folder, classes)
    for variant in variants:
        dotted = f".{variant}" if variant else ""
        file, index = folder / f"{name}{dotted}.safetensors", folder / f"{name}.safetensors.index{dotted}.json"
        if file.is_file():
            check_config_checksum(folder / CONFIG, file)
            return SafetensorsFile(file).tensors(), config
        for path in (index, folder / f"{name}{dotted}.safetensors.index.json"):
            if path.is_file():
                return open_indexed_files(path), config
    for variant in variants:
        file = folder / (f"{name}.{variant}.bin" if variant else f"{name}.bin")
        if file.is_file():
            return open_tensor_file(file).tensors(), config
    raise ValueError(
        f"{folder} contains no weights: neither {name}.safetensors or .bin, nor a variant ({name}.fp16.safetensors), nor an "
        f"index of several files ({name}.safetensors.index.json)"
    )


def read_part_config(folder: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of a part's `config.json`.

    Raises:
        ValueError: it does not exist, cannot be read, or names a class that is not accepted.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a folder in diffusers' layout")
    check_exported_file(path)
    config: dict[str, Any] = {**read_object(path)}
    named = [config["_class_name"]] if "_class_name" in config else config.get("architectures") or []
    if strange := [one for one in named if one not in classes]:
        raise ValueError(f"{path} names the class {strange[0]}; accepted here: {', '.join(classes)}. Nothing was loaded")
    return config


def check_config_checksum(config: Path, weights: Path) -> None:
    """Raise if the metadata of weights has a checksum of the config next to them, and the config has another.

    Raises:
        ValueError: it has, or the weights cannot be read.
    """
    expected = read_metadata(weights).get(CONFIG_CHECKSUM)
    if expected is not None and zlib.crc32(config.read_bytes()) != expected:
        raise ValueError(
            f"{config} is damaged, or was changed since it was written with {weights.name}: its checksum differs. "
            "Train again from the last checkpoint, or restore it from a copy"
        )


def open_indexed_files(index: Path) -> LazyTensors:
    """Open the tensors of the files that an index (`….safetensors.index.json`) names.

    Raises:
        ValueError: a file is outside the index's folder, does not exist, or contains other tensors than the index says.
    """
    weight_map = read_object(index).get("weight_map")
    places = {k: v for k, v in weight_map.items() if isinstance(v, str)} if isinstance(weight_map, dict) else {}
    if not places or places != weight_map:
        raise ValueError(f"{index} has no weight_map from tensors to files; download it again")
    files = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name}, which is not a safetensors file in its own folder; it was not opened")
        if not (index.parent / name).is_file():
            raise ValueError(f"{index.parent / name} does not exist, and {index.name} names it; download it too")
        files[name] = SafetensorsFile(index.parent / name)
    for name, file in files.items():
        own = {tensor for tensor, place in places.items() if place == name}
        if wrong := sorted(own ^ file.shapes.keys()):
            raise ValueError(
                f"{file.path} does not contain what {index.name} says: {list_names(wrong)}; download both again"
            )
    shapes = {tensor: files[place].shapes[tensor] for tensor, place in places.items()}
    return LazyTensors(shapes, lambda name: files[places[name]].read(name))
