"""What is written tensor by tensor is a safetensors file as others write and read it, whole or absent."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from ldm_train.weights.streaming_writer import stream
from ldm_train.weights.tensor_files import TOLD, read, read_told
from ldm_train.weights.tensor_mapping import shapes_of
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
    stream(path, shapes_of(STATE), STATE.__getitem__, dtype=dtype, told={"step": 3}, metadata={"format": "pt"})
    assert_close(load_file(path), {name: tensor.to(dtype) for name, tensor in STATE.items()}, rtol=0, atol=0)
    with safe_open(path, "pt") as file:
        assert file.metadata().keys() == {"format", TOLD}
    assert read_told(path) == {"step": 3}
    assert read(path).keys() == STATE.keys()  # each compared with its checksum
    flip(path, path.stat().st_size - 1)
    with pytest.raises(ValueError, match="is damaged"):
        read(path)


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"c.bias is \(7,\), and was to be \(8,\)"):
        stream(path, shapes_of(STATE) | {"c.bias": torch.Size([8])}, STATE.__getitem__)
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_each_tensor_is_asked_for_once_when_it_is_written(tmp_path):
    asked = []

    def make(name):
        asked.append(name)
        return STATE[name]

    stream(tmp_path / "model.safetensors", shapes_of(STATE), make)
    assert asked == sorted(STATE)
