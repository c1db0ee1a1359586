"""Pictures that are not 8-bit RGB, from files to files: encoded, trained on, drawn, and refused where they do not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_train.data.cache.reader import LatentCache

KINDS = {
    "grey": ["pixels.channels=1"],
    "deep": ["pixels.channels=1", "pixels.bits=16", "dtype=float32"],
    "five": ["pixels.channels=5", "pixels.bits=32", "dtype=float32"],
}
SIDE, COUNT = 16, 12


def make_values(number: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    return (np.sin(3 * x + number) + np.cos(2 * y + number)) / 2


def read_mode(path: Path) -> str:
    with Image.open(path) as picture:
        return picture.mode


def write_pictures(folder: Path, kind: str) -> None:
    folder.mkdir()
    for number in range(COUNT):
        values = make_values(number)
        if kind == "five":
            channels = [values, -values, values**2, values / 2, values / 3]
            np.save(folder / f"{number:02d}.npy", np.stack(channels, -1).astype(np.float32))
        else:
            largest, name = (255, np.uint8) if kind == "grey" else (65535, np.uint16)
            Image.fromarray(((values + 1) / 2 * largest).round().astype(name)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text("waves")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_trained_on_and_drawn_as_they_are_stored(
    kind: str, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", kind)
    cache, run = tmp_path / "cache", tmp_path / "run"
    made = [
        f"source.path={tmp_path / 'pictures'}",
        "autoencoder=identity",
        f"image_size={SIDE}",
        "text_encoder=unconditional",
    ]
    answer = ldm_train("encode", *made, f"cache={cache}", *KINDS[kind])
    assert answer.code == 0, answer.err
    stored = LatentCache(cache)
    mean = stored.moments(torch.tensor([3]), torch.tensor([0])).mean[0, 0].double()
    tolerance = {"grey": 1 / 255 + 2**-11, "deep": 1 / 65000, "five": 1e-6}[kind]  # grey is stored as float16
    assert (mean - torch.from_numpy(make_values(3))).abs().max() <= tolerance

    words = [word for word in train_words if not word.startswith("text_encoder")]
    answer = ldm_train("train", f"cache={cache}", f"run_dir={run}", *words, "max_steps=2")
    assert answer.code == 0, answer.err
    answer = ldm_train(
        "sample", f"run_dir={run}", "prompts=['']", f"out={tmp_path / 'drawn'}", "steps=2", "guidance.scale=1"
    )
    assert answer.code == 0, answer.err
    if kind == "five":
        drawn = np.load(tmp_path / "drawn" / "0000.npy", allow_pickle=False)
        assert (drawn.shape, drawn.dtype) == ((SIDE, SIDE, 5), np.float32)
    else:
        assert read_mode(tmp_path / "drawn" / "0000.png") == {"grey": "L", "deep": "I;16"}[kind]
    assert read_mode(tmp_path / "drawn" / "grid.png") == "RGB"
    enlarged = ["prompts=['']", f"out={tmp_path / 'large'}", f"upscaler={run}"]
    answer = ldm_train("sample", f"run_dir={run}", *enlarged)  # would be cut to 8 bits, and to one of three colours
    assert answer.code == 1
    assert "pixels.channels" in answer.err
    measured = [f"run_dir={run}", f"out={tmp_path / 'out.json'}", "features=null", "steps=2", "guidance.scale=1"]
    answer = ldm_train("evaluate", *measured)
    assert (answer.code == 0) == (kind != "five"), answer.err


@pytest.mark.slow
def test_an_own_autoencoder_is_trained_on_two_channels_and_used(ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(COUNT):
        values = make_values(number)
        np.save(tmp_path / "pictures" / f"{number}.npy", np.stack([values, -values], -1).astype(np.float32))
        (tmp_path / "pictures" / f"{number}.txt").write_text("waves")
    source = [f"source.path={tmp_path / 'pictures'}", f"image_size={SIDE}", "pixels.channels=2", "pixels.bits=32"]
    short = ["max_steps=2", "batch_size=2", "trainer.accelerator=cpu", "threads=1", "architecture.channels=[8,16]"]
    answer = ldm_train("train_autoencoder", *source, f"run_dir={tmp_path / 'run'}", *short)
    assert answer.code == 0, answer.err
    trained = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path / 'run' / 'autoencoder'}", "scale_check=false"]
    answer = ldm_train("encode", *source, f"cache={tmp_path / 'cache'}", *trained)
    assert answer.code == 0, answer.err
    assert read_mode(tmp_path / "cache" / "reconstructions.png") == "RGB"
    answer = ldm_train("encode", *source, f"cache={tmp_path / 'other'}", "autoencoder=general")
    assert answer.code == 1
    assert "pixels.channels=2" in answer.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["pixels.bits=16"], "pixels.channels"),
        (["pixels.channels=1", "pixels.bits=16"], "dtype=float32"),
        (["pixels.channels=1", "pixels.range=[3,1]"], "[3,1]"),
        (["pixels.channels=1", "pixels.range=[-1,1]"], "pixels.bits=32"),
        (["pixels.channels=1", "conditions=[inpaint]"], "inpaint"),
        (["pixels.channels=0"], "pixels.channels=0"),
        (["pixels.channels=1", "pixels.bits=12"], "pixels.bits=12"),
    ],
)
def test_settings_that_contradict_each_other_are_named(
    words: list[str], named: str, ldm_train: Callable, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures", "grey")
    made = [f"source.path={tmp_path / 'pictures'}", "autoencoder=identity", f"image_size={SIDE}"]
    answer = ldm_train("encode", *made, f"cache={tmp_path / 'cache'}", *words)
    assert answer.code != 0
    assert named in answer.err
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_pictures_that_did_not_fit_are_encoded_once_the_settings_do(ldm_train: Callable, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", "deep")
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "pictures" / "11.png")
    made = [
        f"source.path={tmp_path / 'pictures'}",
        "autoencoder=identity",
        f"image_size={SIDE}",
        "text_encoder=unconditional",
    ]
    cache = [f"cache={tmp_path / 'cache'}", "pixels.channels=1", "dtype=float32", "max_unusable=1"]
    answer = ldm_train("encode", *made, *cache)
    assert answer.code == 0, answer.err
    assert len(LatentCache(tmp_path / "cache")) == 1
    answer = ldm_train("encode", *made, *cache, "pixels.bits=16")
    assert answer.code == 0, answer.err
    assert len(LatentCache(tmp_path / "cache")) == COUNT
