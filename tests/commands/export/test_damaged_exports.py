"""A flipped bit of what an export or train_autoencoder wrote is named wherever that is loaded; other files are read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm_train.assembly.parts import choose_device
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder, pretrained
from ldm_train.commands.evaluate.published_pipeline import open_pipeline
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.weights.tensor_files import METADATA_KEY, check_tensor_file
from tests.commands.export.shaped import SHAPE
from tests.training.checkpoints.test_checkpoint_damage import flip

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


def flip_last(path: Path) -> Path:
    """Flip a bit of the last tensor."""
    flip(path, path.stat().st_size - 3)
    return path


@pytest.mark.parametrize("layout", ["diffusers", "single_file"])
def test_training_from_a_damaged_export_is_refused(
    layout: str, run_1: Path, train: Callable, export: Callable, tmp_path: Path
) -> None:
    out = export(run_1, f"layout={layout}")
    weights, damaged = (out, out / UNET) if layout == "diffusers" else (out / "out.safetensors",) * 2
    check_tensor_file(damaged)
    content = damaged.read_bytes()
    # of a network's tensor that both layouts have; the last bytes of a single file may belong to the text encoder
    flip(damaged, content.index(load_file(damaged)[network_name(layout)].numpy().tobytes()))
    words = (*SHAPE, "network.heads=4", "scale_check=false", f"network.weights={weights}")
    answer = train(read_trained(run_1).cache, tmp_path / "next", *words)
    assert answer.code == 1
    assert f"{damaged} is damaged" in answer.err


def network_name(layout: str) -> str:
    return "conv_in.weight" if layout == "diffusers" else "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_damaged_adapter_is_refused(
    form: str, adapter: Path, run_1: Path, ldm_train: Callable, export: Callable, tmp_path: Path
) -> None:
    out = export(adapter, "layout=lora", f"lora_format={form}")
    file = flip_last(next(out.glob("*.safetensors")))
    words = ("prompts=[x]", "steps=1", "device=cpu", f"out={tmp_path / 'drawn'}")
    answer = ldm_train("sample", f"run_dir={run_1}", f"adapters=[{file}]", *words)
    assert answer.code == 1
    assert f"{file} is damaged" in answer.err


@pytest.mark.parametrize("name", [UNET, VAE, TEXT])
def test_a_damaged_pipeline_is_not_measured(name: str, run_1: Path, export: Callable) -> None:
    out = export(run_1, "layout=diffusers", "dtype=float16")
    open_pipeline(str(out), choose_device("cpu"))
    file = flip_last(out / name)
    with pytest.raises(ValueError, match="is damaged") as refused:
        open_pipeline(str(out), choose_device("cpu"))
    assert str(file) in str(refused.value)


def test_a_trained_autoencoder_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    NewKLAutoencoder([8, 16], groups=4).initialise(0).save(tmp_path, shift=0.0, scale=1.0)
    pretrained(str(tmp_path))
    file = flip_last(tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="is damaged") as refused:
        pretrained(str(tmp_path))
    assert str(file) in str(refused.value)


def test_files_of_others_have_no_checksums(tmp_path: Path) -> None:
    NewKLAutoencoder([8, 16], groups=4).initialise(0).save(tmp_path, shift=0.0, scale=1.0)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    name = "encoder.conv_in.weight"
    save_file(tensors | {name: tensors[name] + 1}, file, {"format": "pt"})
    assert (pretrained(str(tmp_path)).model.state_dict()[name] == tensors[name] + 1).all()


def test_a_tensor_renamed_or_left_out_is_named(run_1: Path, export: Callable, tmp_path: Path) -> None:
    file = export(run_1, "layout=diffusers") / VAE
    tensors = load_file(file)
    metadata = metadata_of(file)
    copy = Path(shutil.copyfile(file, tmp_path / "copy.safetensors"))
    check_tensor_file(copy)
    name = min(tensors)
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, copy, metadata)
    with pytest.raises(ValueError, match=name):
        check_tensor_file(copy)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        metadata: dict[str, str] = file.metadata()
    assert metadata["format"] == "pt"
    assert METADATA_KEY in metadata
    return metadata
