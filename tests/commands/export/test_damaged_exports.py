"""A flipped bit of what an export or train_autoencoder wrote is named wherever that is loaded; other files are read."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm_train.assembly.parts import choose_device
from ldm_train.assembly.published_scheduler import read_scheduler
from ldm_train.assembly.trained_for import read_purpose
from ldm_train.autoencoders.autoencoder import NewKLAutoencoder, pretrained
from ldm_train.commands.evaluate.published_pipeline import open_pipeline
from ldm_train.conditioners.clip_tower import check_padding
from ldm_train.run_dir.stored_settings import read_trained
from ldm_train.weights.exported_files import check_exported_folder
from ldm_train.weights.published_parts import find_text_encoder, find_unet
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


@pytest.fixture(scope="module")
def exported(run_1: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in diffusers' layout, to copy."""
    out = tmp_path_factory.mktemp("exported") / "out"
    assert ldm_train("export", f"run_dir={run_1}", f"out={out}", "layout=diffusers").code == 0
    return out


def change_digit(path: Path) -> Path:
    """Change the last digit of a JSON file, which leaves it JSON."""
    content = path.read_text()
    place = max(place for place, letter in enumerate(content) if letter.isdigit())
    path.write_text(content[:place] + ("7" if content[place] != "7" else "5") + content[place + 1 :])
    return path


READERS: dict[str, Callable[[Path], object]] = {
    "unet/config.json": lambda out: find_unet(out),
    "vae/config.json": lambda out: pretrained(str(out)),
    "text_encoder/config.json": lambda out: find_text_encoder(out),
    "scheduler/scheduler_config.json": lambda out: read_scheduler(out / "unet"),
    "tokenizer/tokenizer_config.json": lambda out: check_padding(find_text_encoder(out), 0),
    "export.json": lambda out: read_purpose(out),
}


@pytest.mark.parametrize("name", READERS)
def test_a_changed_config_is_named_by_its_reader(name: str, exported: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    with suppress(ValueError):  # of padding with another token
        READERS[name](out)
    file = change_digit(out / name)
    with pytest.raises(ValueError, match="is damaged") as refused:
        READERS[name](out)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize("name", ["tokenizer/vocab.json", "tokenizer/merges.txt", "scheduler/scheduler_config.json"])
def test_a_changed_file_of_a_pipeline_is_named(name: str, exported: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    (out / "README.md").write_text("my own words")
    open_pipeline(str(out), choose_device("cpu"))
    file = change_digit(out / name)
    with pytest.raises(ValueError, match="is damaged") as refused:
        open_pipeline(str(out), choose_device("cpu"))
    assert str(file) in str(refused.value)
    (out / "export.json").unlink()  # as the message says for changes on purpose
    check_exported_folder(out)


def test_a_trained_autoencoders_changed_scale_is_named(tmp_path: Path) -> None:
    NewKLAutoencoder([8, 16], groups=4).initialise(0).save(tmp_path, shift=0.0, scale=1.25)
    assert pretrained(str(tmp_path)).scale == 1.25
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("1.25", "1.35"))
    with pytest.raises(ValueError, match="is damaged") as refused:
        pretrained(str(tmp_path))
    assert str(config) in str(refused.value)


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
