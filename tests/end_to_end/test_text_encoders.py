"""Text encoders of `transformers`, and several at once, from the command line: what is stored, drawn and refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.api.cache_loops import load_conditioner
from ldm_train.data.cache.reader import LatentCache
from ldm_train.types import CaptionBatch
from tests.conditioners.tiny_text_models import write_bert, write_t5

ENCODE = ["autoencoder=identity", "image_size=16", "dtype=float32"]
SMALL = "{small:{width:16,layers:1,heads:2}}"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_t5(folder / "t5")
    write_bert(folder / "bert")
    return folder


def several(models: Path, *more: str, join: str = "tokens") -> list[str]:
    """The words for a T5 and a BERT, and further encoders."""
    first = f"{{transformers:{{weights:{models / 't5'},max_length:20}}}}"
    second = f"{{transformers:{{weights:{models / 'bert'},max_length:20,pooled:true}}}}"
    encoders = ",".join([first, second, *more])
    return ["text_encoder=several", f"text_encoder.encoders=[{encoders}]", f"text_encoder.join={join}"]


@pytest.fixture(scope="module")
def two(pictures: Path, models: Path, ldm_train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("caches") / "two"
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={cache}", *ENCODE, *several(models))
    assert answer.code == 0, answer.err
    return cache


def test_a_cache_conditions_as_its_captions_do(two: Path) -> None:
    cache = LatentCache(two)
    conditioner = load_conditioner(cache)
    batch = cache.numbered(torch.arange(len(cache.caption_texts)))
    assert torch.equal(batch.tokens, conditioner.tokenize(cache.caption_texts))
    stored, computed = conditioner(batch), conditioner(CaptionBatch(batch.tokens))
    assert torch.equal(stored.mask, computed.mask)
    assert_close(stored.tokens, computed.tokens, rtol=2e-3, atol=2e-3)  # stored as float16
    assert_close(stored.vector, computed.vector, rtol=2e-3, atol=2e-3)


def test_encoding_again_and_elsewhere_encodes_nothing(
    two: Path, pictures: Path, models: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    words = ["encode", f"source.path={pictures}", f"cache={two}", *ENCODE]
    assert "nothing to encode" in ldm_train(*words, *several(models)).out
    moved = shutil.copytree(models, tmp_path / "moved")
    cache = shutil.copytree(two, tmp_path / "cache")
    before = LatentCache(cache).manifest
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={cache}", *ENCODE, *several(moved, join="width"))
    assert answer.code == 0, answer.err
    after = LatentCache(cache).manifest
    assert after.fingerprint == before.fingerprint
    assert after.text_encoder != before.text_encoder


def test_another_tokenizer_embeds_captions_anew(pictures: Path, models: Path, ldm_train: Callable, tmp_path: Path) -> None:
    own, cache = shutil.copytree(models / "t5", tmp_path / "t5"), tmp_path / "cache"
    encoder = ["text_encoder=transformers", f"text_encoder.weights={own}", "text_encoder.max_length=20"]
    words = ["encode", f"source.path={pictures}", f"cache={cache}", *ENCODE, *encoder]
    assert ldm_train(*words).code == 0
    rules = own / "tokenizer.json"
    rules.write_text(rules.read_text().replace('"blue"', '"bleu"'))
    answer = ldm_train(*words)
    assert answer.code == 0, answer.err
    assert "encoding.captions.tokenizer" in answer.out


@pytest.mark.parametrize("join", ["tokens", "width"])
def test_several_encoders_train_and_draw(
    two: Path, models: Path, train: Callable, ldm_train: Callable, tmp_path: Path, join: str
) -> None:
    run_dir, out = tmp_path / "run", tmp_path / "pictures"
    answer = train(two, run_dir, "max_steps=2", *several(models, join=join))
    assert answer.code == 0, answer.err
    words = [f"run_dir={run_dir}", "steps=2", "device=cpu", "prompts=[a black circle on a red background,a blue fox]"]
    answer = ldm_train("sample", *words, f"out={out}")
    assert answer.code == 0, answer.err
    drawn = np.asarray(Image.open(out / "0000.png"))
    assert drawn.shape == (16, 16, 3)
    moved = shutil.move(models, tmp_path / "moved")
    try:
        found = ldm_train("sample", *words, f"out={tmp_path / 'again'}", f"moved={{{models}:{moved}}}")
        assert found.code == 0, found.err
        assert (np.asarray(Image.open(tmp_path / "again" / "0000.png")) == drawn).all()
    finally:
        shutil.move(moved, models)
    for refused in (["tokens", "text=red"], ["sample", "attention=true", f"out={out}", *words[1:]]):
        answer = ldm_train(refused[0], words[0], *refused[1:])
        assert answer.code == 1
        assert "SeveralEncoders" in answer.err


def test_a_trained_encoder_among_them_learns(
    pictures: Path, models: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    cache, words = tmp_path / "cache", several(models, SMALL)
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={cache}", *ENCODE, *words)
    assert answer.code == 0, answer.err
    answer = train(cache, tmp_path / "run", "max_steps=2", "parameter_groups.text_encoder_lr=1e-2")
    assert answer.code == 0, answer.err
    drawn = ldm_train(
        "sample", f"run_dir={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "steps=2", "device=cpu", "prompts=[a red fox]"
    )
    assert drawn.code == 0, drawn.err


def test_settings_of_a_listed_encoder_are_checked(pictures: Path, models: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["encode", f"source.path={pictures}", f"cache={tmp_path / 'cache'}", *ENCODE, "text_encoder=several"]
    weights = f"weights:{models / 't5'}"
    for encoders, named in (
        ("[{transformers:{}}]", "weights"),
        (f"[{{transformers:{{{weights},max_lenght:8}}}}]", "max_length"),
        (f"[{{transformers:{{{weights},max_length:many}}}}]", "encoders[0].max_length=many"),
        ("[{clipp:{}}]", "clipp"),
        (f"[{{transformers:{{{weights}}}}},class_labels]", "classes"),
        ("[{_target_:os.system,command:ls}]", "os.system"),
        ("[]", "encoders"),
    ):
        answer = ldm_train(*words, f"text_encoder.encoders={encoders}")
        assert answer.code in (1, 2), encoders
        assert named in answer.err, answer.err
