"""Features of true pictures that are kept next to a cache: read only where they are whole and of the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from ldm_train.features.extractors import EfficientNetLite0, Pixels
from ldm_train.training.validation.real_features import FeatureStore


def spoil_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)


def leave_out_a_row(path: Path) -> None:
    save_file({"features": load_file(path)["features"][:-1]}, path)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:99])


def of_others(path: Path) -> None:
    save_file({"others": torch.zeros(3, 2)}, path)


@pytest.mark.parametrize("damage", [spoil_a_bit, leave_out_a_row, cut_off, of_others, Path.unlink])
def test_what_is_damaged_is_not_read(damage: Callable[[Path], None], tmp_path: Path) -> None:
    kept, extractor = FeatureStore(tmp_path / "features", "content"), Pixels()
    path = kept.path(extractor, torch.arange(3), torch.device("cpu"))
    features = torch.rand(3, 2, generator=torch.Generator().manual_seed(0))
    assert kept.read(path, (3, 2)) is None
    assert kept.write(path, features) is None
    assert_close(kept.read(path, (3, 2)), features, rtol=0, atol=0)
    damage(path)
    assert kept.read(path, (3, 2)) is None


def test_a_file_is_named_by_all_that_its_content_depends_on(tmp_path: Path) -> None:
    extractor, other = EfficientNetLite0(), EfficientNetLite0()
    other.model._bn0.bias.data[0] += 1
    kept, examples, cpu = FeatureStore(tmp_path, "content"), torch.arange(3), torch.device("cpu")
    paths = [
        kept.path(extractor, examples, cpu),
        kept.path(extractor, examples + 1, cpu),
        kept.path(other, examples, cpu),
        kept.path(extractor, examples, torch.device("meta")),
        FeatureStore(tmp_path, "other content").path(extractor, examples, cpu),
    ]
    assert len(set(paths)) == len(paths)
    assert kept.path(EfficientNetLite0(), torch.arange(3), cpu) == paths[0]
