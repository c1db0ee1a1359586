"""Files made to harm: each is refused by name, nothing in it is run, and nothing is written."""

import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ldm_train.autoencoders.autoencoder import pretrained
from ldm_train.conditioners.text_encoder import clip
from ldm_train.weights.hub import locate_weights
from ldm_train.weights.lazy_tensors import open_tensor_file
from ldm_train.weights.published_parts import find_autoencoder, find_text_encoder, find_unet

FINDERS = [find_unet, find_autoencoder, find_text_encoder]
EACH_FINDER = pytest.mark.parametrize("find", FINDERS, ids=["unet", "autoencoder", "text encoder"])


class Runs:
    """What would make a file where it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.fixture(autouse=True)
def untouched(tmp_path, monkeypatch):
    """Whatever a file does, the folder that it lies in holds nothing new afterwards, nor does the one above."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "mark").exists()


def with_code(path: Path, kind: str) -> Path:
    state = {"state_dict": {"conv_in.weight": torch.zeros(2)}, "callbacks": Runs(path.parent / "mark")}
    if kind == "zip":
        torch.save(state, path)
    elif kind == "before zip":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(state))
    return path


@EACH_FINDER
@pytest.mark.parametrize("kind", ["zip", "before zip", "plain pickle"])
def test_code_in_a_pickle_is_refused_by_its_name_and_not_run(find, kind, tmp_path):
    path = with_code(tmp_path / "model.ckpt", kind)
    with pytest.raises(ValueError, match=r"model\.ckpt") as refused:
        find(path)
    reported = str(refused.value)
    if kind != "plain pickle":
        assert "system" in reported
        assert "safetensors" in reported


def test_a_class_in_a_pickle_is_named_with_the_way_to_safetensors(tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"conv_in.weight": torch.zeros(2)}, "config": Path("x")}, path)
    with pytest.raises(ValueError, match=r"model\.ckpt .*pathlib\.\w*Path.*without network.*save_file"):
        find_unet(path)


def test_a_pickle_with_more_than_tensors_is_refused(tmp_path):
    torch.save({"state_dict": {"conv_in.weight": torch.zeros(2), "note": "words"}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"model\.ckpt .*\bnote\b"):
        find_unet(tmp_path / "model.ckpt")


def test_torchscript_is_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/code/__torch__.py", "class Model: pass")
    with pytest.raises(ValueError, match=r"model\.pt .*TorchScript"):
        find_text_encoder(tmp_path / "model.pt")


@EACH_FINDER
def test_a_zip_bomb_is_not_unpacked(find, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"conv_in.weight": torch.zeros(2)}, tmp_path / "honest.ckpt")
    with zipfile.ZipFile(tmp_path / "honest.ckpt") as honest, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in honest.infolist():
            bomb.writestr(entry.filename, honest.read(entry))
        bomb.writestr("honest/data/1", b"\0" * 50_000_000)
    with pytest.raises(ValueError, match=r"model.ckpt would unpack from [\d,]+ to 5\d,\d+,\d+ bytes"):
        find(path)


def test_entries_that_lie_upon_each_other_are_a_bomb(tmp_path):
    """All entries of the directory name the same bytes, none of them packed."""
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data/0", b"\0" * 4096)
        for number in range(1, 40):
            info = zipfile.ZipInfo(f"model/data/{number}")
            first = archive.filelist[0]
            info.header_offset, info.file_size, info.compress_size, info.CRC = 0, 4096, 4096, first.CRC
            archive.filelist.append(info)
            archive.NameToInfo[info.filename] = info
            archive._didModify = True
    with pytest.raises(ValueError, match="would unpack from"):
        find_unet(path)


def lying(header: object, *, length: int | None = None, data: bytes = b"\0" * 16) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict:
    return {"conv_in.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


LIES = {
    "offsets beyond the end": lying(entry([4], [0, 10_000])),
    "offsets that go back": lying(entry([4], [16, 0])),
    "a shape that is larger than its bytes": lying(entry([4096], [0, 16])),
    "a shape that is smaller than its bytes": lying(entry([2], [0, 16])),
    "a shape of 2^63": lying(entry([2**63], [0, 16])),
    "a shape whose product overflows": lying(entry([2**32, 2**32], [0, 16])),
    "a shape whose product overflows to the size": lying(entry([2**62, 4, 4], [0, 0]), data=b""),
    "offsets of 2^63": lying(entry([4], [2**63, 2**63 + 16])),
    "negative offsets": lying(entry([4], [-16, 0])),
    "a header of 2^63 bytes": lying(entry([4], [0, 16]), length=2**63),
    "a header longer than the file": lying(entry([4], [0, 16]), length=10**6),
    "a header that is no JSON": lying(b"\xff\xfe not JSON"),
    "an unknown type": lying(entry([4], [0, 16], "OBJECT")),
    "bytes that belong to nothing": lying(entry([4], [0, 16]), data=b"\0" * 64),
    "nothing": b"",
    "deep nesting": lying(b"[" * 200_000),
    "two tensors in one place": lying(entry([4], [0, 16]) | {"b": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
}


@EACH_FINDER
@pytest.mark.parametrize("lie", LIES)
def test_a_safetensors_header_that_lies_is_refused(find, lie, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(LIES[lie])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read as a safetensors file"):
        find(tmp_path / "model.safetensors")


def folder(path: Path, *, name: str = "UNet2DConditionModel", weight_map: object = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"_class_name": name}))
    index = {"weight_map": weight_map}
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "{tmp}/secret.safetensors", "sub/x.safetensors", "..\\x.safetensors", "..", ""]
)
def test_an_index_that_leaves_its_folder_is_refused(name, tmp_path):
    save_file({"conv_in.weight": torch.zeros(2)}, tmp_path / "secret.safetensors")
    name = name.replace("{tmp}", str(tmp_path))
    path = folder(tmp_path / "unet", weight_map={"conv_in.weight": name})
    with pytest.raises(ValueError, match=rf"names {re.escape(name)}"):
        find_unet(path)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, {"a": None}])
def test_an_index_without_a_map_is_refused(weight_map, tmp_path):
    with pytest.raises(ValueError, match=r"index\.json .*weight_map"):
        find_unet(folder(tmp_path / "unet", weight_map=weight_map))


def test_an_index_that_is_not_true_is_refused(tmp_path):
    path = folder(tmp_path / "unet", weight_map={"a": "x.safetensors"})
    with pytest.raises(ValueError, match=r"x\.safetensors .*index\.json"):
        find_unet(path)
    save_file({"b": torch.zeros(2)}, path / "x.safetensors")
    with pytest.raises(ValueError, match=r"index\.json says: a"):
        find_unet(path)


@pytest.mark.parametrize(("find", "accepted"), [(find_unet, "UNet2D"), (find_autoencoder, "AutoencoderKL")])
@pytest.mark.parametrize("name", ["os.system", "EvilModel", ["posix", "system"], "StableDiffusionPipeline"])
def test_a_class_outside_the_allowed_ones_is_refused(find, accepted, name, tmp_path):
    with pytest.raises(ValueError, match=rf"config\.json .*{accepted}"):
        find(folder(tmp_path / "part", name=name, weight_map={}))


def test_a_text_encoder_with_code_of_its_own_is_refused(tmp_path):
    content = {"architectures": ["EvilModel"], "auto_map": {"AutoModel": "evil.EvilModel"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    with pytest.raises(ValueError, match=r"EvilModel.*CLIPTextModel"):
        clip(model="ViT-L-14", weights=str(tmp_path), pad_token=0)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "{", "\x00", '{"_class_name": "AutoencoderKL", "a": ' + "9" * 10_000 + "}"]
)
def test_a_config_that_is_no_mapping_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json|no weights"):
        find_autoencoder(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [{"block_out_channels": [2**40]}, {"block_out_channels": []}, {"layers_per_block": "x"}, {"act_fn": "os.system"}],
)
def test_a_config_that_makes_no_autoencoder_is_refused_before_memory_is_taken(settings, tmp_path):
    content = {"_class_name": "AutoencoderKL", "norm_num_groups": 1} | settings
    (tmp_path / "config.json").write_text(json.dumps(content))
    save_file({"encoder.conv_in.weight": torch.zeros(2)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match=r"autoencoder\.weights=.*(AutoencoderKL|do not fit this network)"):
        pretrained(str(tmp_path))


@pytest.mark.parametrize(
    "weights", ["../../etc/passwd", "a/b/c", "file:///etc/passwd", "https://example.org/model.ckpt", "~/x", "a b/c"]
)
def test_what_is_no_name_of_the_hub_is_not_looked_up(weights):
    with pytest.raises(ValueError, match=f"network.weights={re.escape(weights)} .*owner/name"):
        locate_weights(weights, setting="network.weights", subfolder="unet", name="diffusion_pytorch_model")


def test_offline_a_name_of_the_hub_is_reported_with_the_way_out():
    with pytest.raises(ValueError, match=r"network\.weights=owner/name .*`hf download owner/name`"):
        locate_weights("owner/name", setting="network.weights", subfolder="unet", name="diffusion_pytorch_model")


def test_other_endings_are_not_opened(tmp_path):
    (tmp_path / "model.h5").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"model\.h5 .*\.safetensors, \.ckpt"):
        open_tensor_file(tmp_path / "model.h5")
