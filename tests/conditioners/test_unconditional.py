"""No condition at all: whatever the captions, the same network sees nothing of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.conditioners.unconditional import Unconditional
from ldm_train.data.cache.reader import LatentCache
from ldm_train.types import CaptionBatch, Conditioning


def test_captions_are_not_read() -> None:
    none = Unconditional()
    tokens = none.tokenize(["a fox", ""])
    assert torch.equal(tokens, torch.zeros(2, 1, dtype=torch.int64))
    assert none.count(["a fox", ""]) == [0, 0]
    assert none(CaptionBatch(tokens)) == Conditioning()


def test_pictures_need_no_captions(encode: Callable, ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for number in range(5):
        Image.new("RGB", (16, 16), (40 * number, 0, 0)).save(tmp_path / "bare" / f"{number}.png")
    answer = encode(tmp_path / "bare", tmp_path / "cache")
    assert answer.code == 1
    assert "fit needs captions; `ldm-train encode` and `ldm-train train` with text_encoder=unconditional" in answer.err
    words = [f"source.path={tmp_path / 'bare'}", "image_size=16", "autoencoder=identity", "text_encoder=unconditional"]
    answer = ldm_train("encode", *words, f"cache={tmp_path / 'cache'}")
    assert answer.code == 0, answer.err
    assert "caption of" not in answer.out
    assert LatentCache(tmp_path / "cache").captions_of(4) == [""]


@pytest.mark.slow
def test_a_run_without_conditions_is_trained_drawn_and_measured(
    pictures: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    made = [f"source.path={pictures}", "autoencoder=identity", "image_size=16", "text_encoder=unconditional"]
    answer = ldm_train("encode", *made, f"cache={tmp_path / 'cache'}")
    assert answer.code == 0, answer.err
    words = [word for word in train_words if not word.startswith("text_encoder")]
    answer = ldm_train("train", f"cache={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}", *words)
    assert answer.code == 0, answer.err
    drawn = ["steps=2", "guidance.scale=1"]
    for prompt in ("a fox", "''"):
        answer = ldm_train(
            "sample", f"run_dir={tmp_path / 'run'}", f"prompts=[{prompt}]", f"out={tmp_path / prompt}", *drawn
        )
        assert answer.code == 0, answer.err
    one, other = (Image.open(tmp_path / prompt / "0000.png").tobytes() for prompt in ("a fox", "''"))
    assert one == other
    answer = ldm_train("evaluate", f"run_dir={tmp_path / 'run'}", f"out={tmp_path / 'out.json'}", "features=null", *drawn)
    assert answer.code == 0, answer.err
