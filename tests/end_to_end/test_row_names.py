"""Rows of a cache are kept where they would be computed again alike, and encoded anew where they would not."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from ldm_train.autoencoders.autoencoder import NewKLAutoencoder
from ldm_train.conditioners.clip_tower import build_tower, read_text_settings
from ldm_train.data.cache.manifest import Provenance, read_manifest
from ldm_train.data.cache.reader import LatentCache
from ldm_train.training.encoding import Encoding, Loaded

EXACT = "dtype=float32"
FROZEN = "text_encoder.trained=false"
MODEL = "rows-of-a-cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of the rows that are encoded: "picture" and "caption"."""
    found: list[str] = []
    original = Encoding.predict_step

    def step(self: Encoding, batch: Loaded, batch_idx: int) -> dict[str, torch.Tensor]:
        found.extend(["caption" if batch.images is None else "picture"] * len(batch.names))
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Encoding, "predict_step", step)
    return found


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The words for a small text encoder of open_clip's, with its weights in a file."""
    folder = tmp_path_factory.mktemp("models")
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    content = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 16},
        "text_cfg": text,
    }
    (folder / f"{MODEL}.json").write_text(json.dumps(content))
    open_clip.add_model_config(folder)
    state = build_tower(MODEL, read_text_settings(MODEL)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "text.safetensors")
    yield ["text_encoder=clip_vit_h_14", f"text_encoder.model={MODEL}", f"text_encoder.weights={folder}/text.safetensors"]
    from open_clip import factory

    factory._MODEL_CONFIGS.pop(MODEL)
    factory._MODEL_CONFIG_PATHS.remove(folder)


@pytest.fixture(scope="module")
def frozen(pictures: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with embeddings, to be copied."""
    folder = tmp_path_factory.mktemp("frozen") / "cache"
    assert encode(pictures, folder, EXACT, FROZEN).code == 0
    return folder


@pytest.fixture
def own(frozen: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(frozen, tmp_path / "cache"))


def embeddings(cache: Path) -> torch.Tensor:
    read = LatentCache(cache)
    order = sorted(range(len(read.caption_texts)), key=lambda number: read.caption_texts[number])
    found = read.numbered(torch.tensor(order)).embeddings
    assert found is not None
    return found


def test_another_number_of_heads_embeds_captions_anew_and_training_refuses_the_old_ones(
    pictures: Path, own: Path, frozen: Path, encode: Callable, train: Callable, counted: list[str], tmp_path: Path
) -> None:
    heads = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=2", FROZEN]
    answer = train(own, tmp_path / "run", "max_steps=1", *heads)
    assert answer.code == 1
    assert "text_encoder.heads: the cache has 4, this run expects 2" in answer.err
    answer = encode(pictures, own, EXACT, FROZEN, "text_encoder.heads=2")
    assert answer.code == 0, answer.err
    assert "encoding.captions.heads: 4 -> 2" in answer.out
    assert counted == ["caption"] * 14
    assert not torch.equal(embeddings(own), embeddings(frozen))
    assert train(own, tmp_path / "run", "max_steps=1", *heads).code == 0


def test_another_layer_embeds_captions_anew_and_training_refuses_the_old_ones(
    pictures: Path, tower: list[str], ldm_train: Callable, train: Callable, counted: list[str], tmp_path: Path
) -> None:
    cache, last, penultimate = tmp_path / "cache", "text_encoder.layer=last", "text_encoder.layer=penultimate"
    words = ["encode", f"source.path={pictures}", f"cache={cache}", "autoencoder=identity", "image_size=16", EXACT, *tower]
    answer = ldm_train(*words, last)
    assert answer.code == 0, answer.err
    before = embeddings(cache)
    counted.clear()
    answer = train(cache, tmp_path / "run", "max_steps=1", *tower, penultimate)
    assert answer.code == 1
    assert "text_encoder.layers: the cache has 2, this run expects 1" in answer.err
    answer = ldm_train(*words, penultimate)
    assert answer.code == 0, answer.err
    assert counted == ["caption"] * 14
    assert not torch.equal(embeddings(cache), before)


def test_what_a_new_word_begins_as_is_in_the_name_of_embeddings_and_not_of_tokens(
    pictures: Path, tmp_path: Path, encode: Callable, counted: list[str]
) -> None:
    for frozen, work in ((FROZEN, 14), ("text_encoder.trained=true", 0)):
        cache = tmp_path / frozen
        assert encode(pictures, cache, EXACT, frozen, 'text_encoder.new_words=["<toy>=wooden toy"]').code == 0
        counted.clear()
        assert encode(pictures, cache, EXACT, frozen, 'text_encoder.new_words=["<toy>=red apple"]').code == 0
        assert len(counted) == work


@pytest.mark.parametrize(
    "word", ['background="#FFF"', "background=WHITE", "crop.mirrored=false", "text_encoder.new_words=[]"]
)
def test_another_way_to_say_the_same_encodes_nothing(
    word: str, pictures: Path, own: Path, encode: Callable, counted: list[str]
) -> None:
    answer = encode(pictures, own, EXACT, FROZEN, word)
    assert answer.code == 0, answer.err
    assert counted == []


def test_a_constructor_that_moved_to_another_file_encodes_nothing(
    pictures: Path, own: Path, encode: Callable, counted: list[str]
) -> None:
    """A cache that was made when the classes were elsewhere."""
    manifest = json.loads((own / "manifest.json").read_text())
    for part in ("autoencoder", "text_encoder"):
        manifest[part]["config"]["_target_"] = "ldm_train.once.elsewhere.Part"
    (own / "manifest.json").write_text(json.dumps(manifest))
    answer = encode(pictures, own, EXACT, FROZEN)
    assert answer.code == 0, answer.err
    assert counted == []
    assert read_manifest(own).autoencoder["config"]["_target_"].startswith("ldm_train.autoencoders.")  # type: ignore[index, call-overload, union-attr]


def test_no_path_is_in_what_rows_are_named_by_nor_in_the_name_of_the_content(own: Path) -> None:
    manifest = read_manifest(own)
    assert "ldm_train" not in json.dumps(manifest.encoding)
    before = manifest.fingerprint
    manifest.autoencoder["config"]["_target_"] = "ldm_train.once.elsewhere.Part"  # type: ignore[index, call-overload]
    assert manifest.fingerprint == before
    manifest.encoding["captions"]["heads"] = 2  # type: ignore[index, call-overload]
    assert manifest.fingerprint != before
    names = {Provenance(manifest.encoding[kind]).name("a") for kind in ("pictures", "captions")}  # type: ignore[arg-type]
    assert len(names) == 2


def test_a_run_is_not_measured_on_latents_of_another_autoencoder(
    trained: Path, pictures: Path, encode: Callable, ldm_train: Callable, tmp_path: Path
) -> None:
    NewKLAutoencoder([8], latent_channels=3, groups=4).save(tmp_path / "kl", shift=0.0, scale=1.0)
    words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl", "scale_check=false"]
    assert encode(pictures, tmp_path / "cache", EXACT, *words).code == 0
    answer = ldm_train(
        "evaluate", f"run_dir={trained}", f"cache={tmp_path}/cache", f"out={tmp_path}/numbers.json", "device=cpu"
    )
    assert answer.code == 1
    assert f"cache {tmp_path}/cache" in answer.err
    assert "autoencoder.kind: the cache has kl_autoencoder, this run expects identity" in answer.err
    assert not (tmp_path / "numbers.json").exists()
