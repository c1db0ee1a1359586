"""A picture as the condition, through a vision tower: encoded once, trained, and given for drawing."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from ldm_train.conditioners.picture import Picture
from ldm_train.conditioners.vision_tower import open_vision_tower
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import read_image, to_signed

TINY = "ViT-S-32-alt"
ENCODE = ["autoencoder=identity", "image_size=16", "dtype=float32", "text_encoder.width=16", "text_encoder.heads=2"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a small open_clip model."""
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(TINY, pretrained_text=False).state_dict(), path)
    return path


def word(weights: Path, settings: str = "tokens:2") -> str:
    return f"conditions=[{{picture:{{model:{TINY},weights:{weights},{settings}}}}}]"


def test_the_tower_sees_what_open_clip_sees(weights: Path) -> None:
    model = open_clip.create_model(TINY, pretrained=str(weights)).eval()
    config = open_clip.get_model_preprocess_cfg(model)
    images = torch.rand(2, 3, model.visual.image_size[0], model.visual.image_size[1]) * 2 - 1
    mean, deviation = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        expected = model.encode_image(((images + 1) / 2 - mean) / deviation)
    assert_close(open_vision_tower(TINY, str(weights))(images), expected)


def test_the_embedding_becomes_tokens_or_a_vector_and_nothing_without_it(weights: Path) -> None:
    kept = torch.tensor([True, False])
    tokens = Picture(model=TINY, weights=str(weights), tokens=3, context_width=16)
    values = torch.randn(2, tokens.embedding_width, 1, 1)
    found = tokens(values, kept)
    assert found.tokens.shape == (2, 3, 16)
    assert found.vector is None
    assert found.tokens[0].std() > 0.1
    assert not found.tokens[1].any()
    vector = Picture(model=TINY, weights=str(weights), tokens=0, width=8)
    assert vector(values, kept).vector.shape == (2, 8)
    assert vector.absent(2, size=(16, 16), latent_size=(4, 4)).values.shape == values.shape
    assert not any("tower" in name for name in tokens.state_dict())


def test_tokens_need_a_text_encoder_with_tokens(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"tokens=4 of the condition picture.*tokens: 0"):
        Picture(model=TINY, weights=str(weights))
    with pytest.raises(ValueError, match="model=ViT-Z"):
        Picture(model="ViT-Z", weights=str(weights), tokens=0)


def test_a_cache_has_the_embeddings_and_variations_are_drawn(
    pictures: Path, weights: Path, train: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    cache, run_dir = tmp_path / "cache", tmp_path / "run"
    answer = ldm_train("encode", f"source.path={pictures}", f"cache={cache}", *ENCODE, word(weights))
    assert answer.code == 0, answer.err
    stored = LatentCache(cache)
    examples = torch.arange(len(stored))
    images = torch.stack([read_image(pictures / stored.name(number), 16) for number in range(len(stored))])
    expected = open_vision_tower(TINY, str(weights))(to_signed(images))
    assert_close(stored.maps("picture", examples, torch.zeros_like(examples))[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)
    answer = train(cache, run_dir, "max_steps=8", "optimizer.lr=0.01", "pictures.every=8", word(weights))
    assert answer.code == 0, answer.err
    out, words = tmp_path / "out", [f"run_dir={run_dir}", "steps=2", "device=cpu", "prompts=[a,a]"]
    given = f"map.picture={pictures / 'circle-red.png'}"
    for number, more in enumerate(([given], [])):
        answer = ldm_train("sample", *words, f"out={out}/{number}", *more)
        assert answer.code == 0, answer.err
    with_it, without = (np.asarray(Image.open(out / number / "0000.png")) for number in ("0", "1"))
    assert (with_it != without).any()
    answer = train(cache, tmp_path / "other", "max_steps=1", f"conditions=[{{picture:{{model:{TINY},weights:openai}}}}]")
    assert answer.code == 1


def test_another_picture_is_read_where_the_source_has_it(
    pictures: Path, weights: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    cache, source = tmp_path / "cache", shutil.copytree(pictures, tmp_path / "source")
    (source / "other").mkdir()
    for file in pictures.glob("*.png"):
        shutil.copyfile(file, source / "other" / file.name)
    other = ["source.maps={picture:other/{name}}", word(weights, "tokens:0,own:false")]
    answer = ldm_train("encode", f"source.path={source}", f"cache={cache}", *ENCODE, *other)
    assert answer.code == 0, answer.err
    own = tmp_path / "own"
    assert ldm_train("encode", f"source.path={pictures}", f"cache={own}", *ENCODE, word(weights, "tokens:0")).code == 0
    examples = torch.arange(4)
    found, same = (LatentCache(one).maps("picture", examples, torch.zeros_like(examples)) for one in (cache, own))
    assert_close(found, same, rtol=0.05, atol=0.05)  # its file is the picture, read as a map
