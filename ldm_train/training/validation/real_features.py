"""Features of true pictures, kept on the disk beside the cache that they are of.

A file is named by all that its content depends on, so a changed cache, extractor, choice of examples or device has another
one; what a file holds is compared with its checksum, and computed anew where it differs. Nothing relies on the folder: it
may be removed at any time.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm_train.data.cache.shards import load_rows, read_row_metadata, save_rows
from ldm_train.training.validation.compared import Compared, over_ranks, say
from ldm_train.types import FeatureExtractor
from ldm_train.weights.fingerprint import fingerprint_module

FORMAT = 1


@dataclass(frozen=True)
class KeptFeatures:
    """Where features of a cache's pictures are kept.

    Args:
        folder: beside the cache, which holds nothing but what made it.
        content: the fingerprint of the cache, or of several.
    """

    folder: Path
    content: str

    @classmethod
    def beside(cls, caches: str | Sequence[str], content: str) -> "KeptFeatures":
        first = Path(caches if isinstance(caches, str) else caches[0])
        return cls(first.with_name(f"{first.name}.features"), content)

    def path(self, extractor: FeatureExtractor, examples: Tensor, device: torch.device) -> Path:
        """The file of these examples' features (N, size) by this extractor on this device."""
        assert isinstance(extractor, nn.Module)
        settings = {
            "format": FORMAT,
            "content": self.content,
            "examples": hashlib.sha256(examples.numpy().tobytes()).hexdigest(),
            "extractor": [extractor.name, fingerprint_module(extractor)],
            "machine": [device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else "", torch.__version__],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{extractor.name}-{digest[:32]}.safetensors"

    def read(self, path: Path, shape: tuple[int, int]) -> Tensor | None:
        """The features of a file; None where it is not there, or not as it was written."""
        if not path.is_file():
            return None
        try:
            told, features = read_row_metadata(path), load_rows(path).get("features")
        except ValueError:
            return None
        sound = features is not None and features.shape == shape and features.dtype == torch.float32
        return features.clone() if sound and told.get("sha256") == _digest(features) else None  # type: ignore[arg-type, union-attr]

    def write(self, path: Path, features: Tensor) -> str | None:
        """Keep features; why they could not be kept, if so, which ends nothing."""
        try:
            self.folder.mkdir(exist_ok=True)
            save_rows({"features": features}, path, metadata={"sha256": _digest(features), "content": self.content})
        except OSError as error:
            return str(error).partition(";")[0]
        return None


def real_features(
    compared: Compared,
    extractors: Sequence[FeatureExtractor],
    images: Callable[[int], Tensor],
    kept: KeptFeatures | None,
    trainer: pl.Trainer,
) -> dict[str, Tensor]:
    """Each extractor's features (N, size) of the true pictures, on every rank: as they are kept, else computed and kept.

    Args:
        images: the true pictures (B, 3, H, W) of a portion by its number.
    """
    found: dict[str, Tensor] = {}
    paths: dict[str, Path] = {}
    if kept is not None and trainer.is_global_zero:
        paths = {e.name: kept.path(e, compared.examples, trainer.strategy.root_device) for e in extractors}
        read = {e.name: kept.read(paths[e.name], (len(compared.captions), e.size)) for e in extractors}
        found = {name: features for name, features in read.items() if features is not None}
    found = trainer.strategy.broadcast(found)  # all ranks must compute the same, whatever each could read
    missing = [extractor for extractor in extractors if extractor.name not in found]
    if not missing:
        return found

    def compute(number: int) -> dict[str, Tensor]:
        pictures = images(number)
        return {extractor.name: extractor(pictures) for extractor in missing}

    new = over_ranks(compared, {e.name: e.size for e in missing}, compute, trainer)
    problems = {kept.write(path, new[name]) for name, path in paths.items() if name in new} if kept is not None else set()
    for problem in problems - {None}:
        say(trainer, f"note: the next run will compute the true pictures' features again: {problem}")
    return found | new


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
