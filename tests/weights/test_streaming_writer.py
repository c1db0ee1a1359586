"""What is written tensor by tensor is a safetensors file as others write and read it, whole or absent."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from ldm_train.weights.streaming_writer import stream_tensors
from ldm_train.weights.tensor_files import METADATA_KEY, read_metadata, read_tensor_file
from ldm_train.weights.tensor_mapping import get_shapes
from tests.training.checkpoints.test_checkpoint_damage import flip

STATE = {
    "b.weight": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).T,
    "a": torch.tensor(2.0),
    "empty": torch.zeros(0, 4),
    "c.bias": torch.arange(7.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_it_is_read_as_written(dtype, tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    stream_tensors(path, get_shapes(STATE), STATE.__getitem__, dtype=dtype, metadata={"step": 3}, texts={"format": "pt"})
    assert_close(load_file(path), {name: tensor.to(dtype) for name, tensor in STATE.items()}, rtol=0, atol=0)
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"format", METADATA_KEY}
    assert read_metadata(path) == {"step": 3}
    assert read_tensor_file(path).keys() == STATE.keys()  # each compared with its checksum
    flip(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="is damaged"):
        read_tensor_file(path)


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"c.bias .*\(7,\).*\(8,\)"):
        stream_tensors(path, get_shapes(STATE) | {"c.bias": torch.Size([8])}, STATE.__getitem__)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_each_tensor_is_asked_for_once_when_it_is_written(tmp_path):
    asked = []

    def make(name):
        asked.append(name)
        return STATE[name]

    stream_tensors(tmp_path / "model.safetensors", get_shapes(STATE), make)
    assert asked == sorted(STATE)
