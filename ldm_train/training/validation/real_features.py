"""Features of the true pictures, stored on disk next to the cache that has the pictures.

A file's name is a hash of everything that its content depends on, so another cache, extractor, choice of examples or device
has another file. A file with a wrong checksum is computed again. The folder can be removed at any time.
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
from ldm_train.training.validation.compared import ComparisonSet, compute_over_ranks
from ldm_train.types import FeatureExtractor
from ldm_train.weights.fingerprint import fingerprint_module

FEATURES_FORMAT = 1


@dataclass(frozen=True)
class FeatureStore:
    """A folder with features of a cache's pictures.

    Args:
        folder: next to the cache, because a cache holds nothing but its own files.
        content: the fingerprint of the cache, or of several.
    """

    folder: Path
    content: str

    @classmethod
    def next_to(cls, caches: str | Sequence[str], content: str) -> "FeatureStore":
        """Return the store next to a cache, or to the first of several."""
        first = Path(caches if isinstance(caches, str) else caches[0])
        return cls(first.with_name(f"{first.name}.features"), content)

    def path(self, extractor: FeatureExtractor, examples: Tensor, device: torch.device) -> Path:
        """Return the file of these examples' features (N, size) by this extractor on this device."""
        assert isinstance(extractor, nn.Module)
        settings = {
            "format": FEATURES_FORMAT,
            "content": self.content,
            "examples": hashlib.sha256(examples.numpy().tobytes()).hexdigest(),
            "extractor": [extractor.name, fingerprint_module(extractor)],
            "machine": [device.type, *describe_gpu(device), torch.__version__],
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{extractor.name}-{digest[:32]}.safetensors"

    def read(self, path: Path, shape: tuple[int, int]) -> Tensor | None:
        """Return the features in a file; None if there is no file or it is damaged."""
        if not path.is_file():
            return None
        try:
            metadata, features = read_row_metadata(path), load_rows(path).get("features")
        except ValueError:
            return None
        sound = features is not None and features.shape == shape and features.dtype == torch.float32
        return features.clone() if sound and metadata.get("sha256") == _digest(features) else None  # type: ignore[arg-type, union-attr]

    def write(self, path: Path, features: Tensor) -> str | None:
        """Store features, and return the problem if that failed; a run goes on without."""
        try:
            self.folder.mkdir(exist_ok=True)
            save_rows({"features": features}, path, metadata={"sha256": _digest(features), "content": self.content})
        except OSError as error:
            return str(error).partition(";")[0]
        return None


def load_or_compute_features(
    compared: ComparisonSet,
    extractors: Sequence[FeatureExtractor],
    images: Callable[[int], Tensor],
    kept: FeatureStore | None,
    trainer: pl.Trainer,
) -> tuple[dict[str, Tensor], set[str]]:
    """Return each extractor's features (N, size) of the true pictures on every rank, and why they could not be stored.

    They are from the store, or computed and stored.

    Args:
        images: maps a portion's number to its true pictures (B, 3, H, W).
    """
    stored: dict[str, Tensor] = {}
    paths: dict[str, Path] = {}
    if kept is not None and trainer.is_global_zero:
        paths = {e.name: kept.path(e, compared.examples, trainer.strategy.root_device) for e in extractors}
        read = {e.name: kept.read(paths[e.name], (len(compared.captions), e.size)) for e in extractors}
        stored = {name: features for name, features in read.items() if features is not None}
    stored = trainer.strategy.broadcast(stored)  # all ranks must compute the same features
    missing = [extractor for extractor in extractors if extractor.name not in stored]
    if not missing:
        return stored, set()

    def compute(number: int) -> dict[str, Tensor]:
        pictures = images(number)
        return {extractor.name: extractor(pictures) for extractor in missing}

    new = compute_over_ranks(compared, {e.name: e.size for e in missing}, compute, trainer)
    problems = {kept.write(path, new[name]) for name, path in paths.items() if name in new} if kept is not None else set()
    return stored | new, {problem for problem in problems if problem is not None}


def describe_gpu(device: torch.device) -> list[str | bool]:
    """Return what of a GPU decides how it rounds: its name, and whether its convolutions use TF32; nothing for a CPU."""
    return [torch.cuda.get_device_name(device), torch.backends.cudnn.allow_tf32] if device.type == "cuda" else []


def _digest(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()
