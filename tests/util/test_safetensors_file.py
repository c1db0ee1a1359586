"""The safetensors files that are written have the bytes of safetensors' own writer, and nothing else is left at a kill."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from ldm_train.data.cache.shards import save_rows
from ldm_train.util.files import temporary_path
from ldm_train.util.safetensors_file import save_tensors

MIXED = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.arange(5, dtype=torch.uint8),
    "ä/long": torch.ones(2, 2, dtype=torch.bfloat16),
    "half": torch.ones(3, dtype=torch.float16),
    "double": torch.tensor(3.5, dtype=torch.float64),
    "empty": torch.zeros(0, 4),
    "truth": torch.tensor([True, False]),
    "int64": torch.arange(4),
    "int32": torch.arange(4, dtype=torch.int32),
    "int16": torch.arange(4, dtype=torch.int16),
    "int8": torch.arange(4, dtype=torch.int8),
}


@pytest.mark.parametrize("tensors", [MIXED, {"x": torch.ones(1)}, {}], ids=["mixed", "one", "none"])
@pytest.mark.parametrize("metadata", [None, {"reported": '{"é": 1}'}])
def test_the_bytes_are_those_of_safetensors(tensors: dict[str, Tensor], metadata: dict | None, tmp_path: Path) -> None:
    save_tensors(tmp_path / "a", tensors, metadata)
    assert (tmp_path / "a").read_bytes() == save(tensors, metadata)
    save_rows(tensors, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == save(tensors)


def test_channels_last_is_written_in_the_order_of_its_shape(tmp_path: Path) -> None:
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4)
    save_tensors(tmp_path / "a", {"x": tensor.to(memory_format=torch.channels_last)})
    assert (tmp_path / "a").read_bytes() == save({"x": tensor})


@pytest.mark.slow
def test_a_kill_leaves_the_one_temporary_file(tmp_path: Path) -> None:
    """safetensors' own writer leaves another file, of a random name."""
    path = tmp_path / "a.safetensors"
    code = (
        "import os, torch; from pathlib import Path; from ldm_train.util.safetensors_file import *\n"
        "def content(name):\n    os._exit(9)\n"
        f"write_safetensors(Path({str(path)!r}), {{'x': TensorLayout('float32', [4])}}, content)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert list(tmp_path.iterdir()) == [temporary_path(path)]
