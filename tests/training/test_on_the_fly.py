"""Encoding at every step: bit for bit the run that a cache of the same source gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ldm_train.assembly.watching import choose_examples
from ldm_train.autoencoders.autoencoder import IdentityAutoencoder, NewKLAutoencoder
from ldm_train.conditioners.inpaint import Inpaint
from ldm_train.conditioners.text_encoder import small
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.data.pictures.maps import MapSpec
from ldm_train.data.scan.survey import survey_items
from ldm_train.data.sources.folder import Folder
from ldm_train.training.encoding import Encoding
from ldm_train.training.on_the_fly import LivePictures, OnTheFly
from ldm_train.training.rendering import Rendering
from ldm_train.types import LatentBatch

PARTS = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
QUICK = ["max_steps=2", "pictures.steps=1", "pictures.count=1", "pictures.every=100", "validation.every=100"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for a frozen text encoder of a published kind, with weights in a file."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-of-tests.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder / "tiny-of-tests.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model("tiny-of-tests").state_dict(), folder / "weights.pt")
    return ["text_encoder=clip_vit_l_14", "text_encoder.model=tiny-of-tests", f"text_encoder.weights={folder}/weights.pt"]


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for an autoencoder with a posterior."""
    folder = tmp_path_factory.mktemp("kl")
    NewKLAutoencoder([8, 8], groups=4).initialise(0).save(folder, shift=0.0, scale=3.0)
    return ["autoencoder=pretrained", f"autoencoder.weights={folder}"]


def losses(run_dir: Path) -> str:
    return (run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["crop=random", "crop.views=3", "batch_size=3"],
        ["{kl}", "dtype=float32", "crop.mirrored=true"],
        ["{kl}", "batch_size=3", "micro_batch_size=1"],
        ["{clip}", "batch_size=5"],
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_the_run_is_that_of_the_cache(
    words: list[str],
    pictures: Path,
    ldm_train: Callable,
    train_words: list[str],
    kl: list[str],
    clip: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = ["image_size=16", *(kl if "{kl}" in words else ["autoencoder=identity"]), *(clip if "{clip}" in words else PARTS)]
    made += [
        word for word in words if word[0] != "{" and not word.endswith(("batch_size=3", "batch_size=1", "batch_size=5"))
    ]
    run = [*train_words, *QUICK, "scale_check=false", *(w for w in words if "batch_size" in w)]
    encoded = ldm_train("encode", f"source.path={pictures}", f"cache={tmp_path}/cache", "scale_check=false", *made)
    assert encoded.code == 0, encoded.err
    answer = ldm_train("train", f"cache={tmp_path}/cache", f"run_dir={tmp_path}/one", *run)
    assert answer.code == 0, answer.err
    live = ["cache=null", "source=folder", f"source.path={pictures}", f"run_dir={tmp_path}/other", *made, *run]
    answer = ldm_train("train", *live)
    assert answer.code == 0, answer.err
    assert losses(tmp_path / "one") == losses(tmp_path / "other")
    if "crop.mirrored=true" not in words:
        return
    monkeypatch.chdir(tmp_path)  # a run is continued from anywhere
    continued = ldm_train("train", *live, "max_steps=3")
    assert continued.code == 0, continued.err
    assert "at step 2" in continued.out


# The batches


def live(source: Path, *, masks: int = 0, **settings: float) -> OnTheFly:
    specs = [MapSpec("inpaint", encoded=True, masks=masks)] if masks else []
    conditions = [Inpaint(masks=masks, latent_channels=3)] if masks else []
    found = survey_items(Folder(str(source)), max_pixels=10**6)
    plan = CachePlan(found, CentreCrop(16), pictures=Provenance({}), captions=Provenance({}), bad={})
    items = {s.item.key: s.item for s in plan.scanned}
    rendering = Rendering(items, plan.crop, background="white", max_pixels=10**6, specs=specs)
    encoding = Encoding(IdentityAutoencoder(), small(width=32, layers=1, heads=4), dtype=torch.float32, specs=specs)
    data = OnTheFly(LivePictures(plan, rendering, encoding), batch_size=4, conditions=conditions, **settings)  # type: ignore[arg-type]
    from ldm_train.data.batches.positions import BatchGeometry

    data.geometry = BatchGeometry(4, 1, 0, None)
    return data


def assert_same(one: LatentBatch, other: LatentBatch) -> None:
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(one.moments.mean, other.moments.mean)
    assert torch.equal(one.captions.tokens, other.captions.tokens)


def test_batches_are_the_caches_in_any_order(cache: Path, pictures: Path) -> None:
    stored, data = CachedLatents(LatentCache(cache), batch_size=4), live(pictures)
    for step in (0, 1, 7, 2, 2, 0):
        positions = torch.arange(4 * step, 4 * step + 4)
        assert_same(stored.fetch(positions), data.fetch(positions))
    assert torch.equal(stored.held_out, data.held_out)
    assert torch.equal(stored.latents.shapes, data.latents.shapes)
    for field in ("background", "absent"):
        assert list(stored.latents.column(field)) == list(data.latents.column(field))
    assert_same(stored.fixed_batch(stored.held_out, torch.arange(3)), data.fixed_batch(data.held_out, torch.arange(3)))


def test_of_several_masks_the_drawn_one_is_encoded(pictures: Path) -> None:
    data, encoded = live(pictures, masks=3), []
    pictures_of = data.latents.encoding.pictures
    data.latents.encoding.pictures = lambda images: encoded.append(len(images)) or pictures_of(images)  # type: ignore[assignment,func-returns-value]
    batch = data.fetch(torch.arange(4))
    assert encoded == [4, 4]  # the pictures, and what one mask leaves of each
    assert batch.conditions["inpaint"].values.shape == (4, 4, 16, 16)


def test_what_was_decoded_is_let_go(pictures: Path) -> None:
    data = live(pictures)
    for step in range(20):
        data.fetch(torch.arange(4 * step, 4 * step + 4))
        assert len(data.latents._ahead) <= 4
    for step in range(3):
        data.names(torch.arange(4 * step, 4 * step + 4))
        assert len(data.latents._ahead) <= 4


def test_maps_are_of_the_pictures_that_were_decoded_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, decoded = live(pictures, masks=2), []
    render = data.latents._render
    monkeypatch.setattr(data.latents, "_render", lambda row: decoded.append(row.key) or render(row))
    for step in range(20):
        batch = data.fetch(torch.arange(4 * step, 4 * step + 4))
        assert batch.conditions["inpaint"].values.shape == (4, 4, 16, 16)
        assert len(data.latents._ahead) <= 4
    assert len(decoded) <= 4 * 21
    alone = data.given(data.train[0][:1], torch.zeros(1, dtype=torch.int64))["inpaint"]
    assert alone.values.shape == (1, 4, 16, 16)  # the first mask
    assert len(data.latents._ahead) <= 4


@pytest.fixture
def truncated(pictures: Path, tmp_path: Path) -> Path:
    """Pictures whose headers are fine, two of which do not decode: the neighbours of one that is held out."""
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    for name in ("circle-lime.png", "square-white.png"):
        content = (source / name).read_bytes()
        (source / name).write_bytes(content[:-40])
    return source


def test_what_does_not_decode_is_replaced_and_reported_once(
    truncated: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, stored = live(truncated), CachedLatents(LatentCache(cache), batch_size=4)
    names = {example: entry.key for example, entry in enumerate(stored.latents.entries)}  # type: ignore[attr-defined]
    for step in range(30):
        positions = torch.arange(4 * step, 4 * step + 4)
        batch, whole = data.fetch(positions), stored.fetch(positions)
        for place, example in enumerate(stored.order(positions).tolist()):
            if names[example] not in ("circle-lime.png", "square-white.png"):
                assert torch.equal(batch.moments.mean[place], whole.moments.mean[place])
    out = capsys.readouterr().out
    assert out.count("circle-lime.png is replaced by another: the picture does not decode") == 1
    assert out.count("square-white.png is replaced") == 1


def test_pictures_to_draw_are_such_as_decode(truncated: Path) -> None:
    data = live(truncated, masks=2)
    examples = choose_examples(data, 1000)
    assert not {data.latents.name(one.number) for one in examples} & {"circle-lime.png", "square-white.png"}
    for one in examples:
        data.given(torch.tensor([one.number]), torch.zeros(1, dtype=torch.int64))


@pytest.mark.parametrize("broken", ["trained on", "held out"])
def test_what_replaces_it_is_of_the_same_side_of_the_split(broken: str, pictures: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    keys = sorted(path.name for path in source.glob("*.png"))
    held_out = {"circle-red.png", "square-blue.png", "triangle-white.png"}
    # The picture before a held-out one, or the held-out ones but the last.
    names = [keys[keys.index(name) - 1] for name in held_out] if broken == "trained on" else sorted(held_out)[:2]
    for name in names:
        (source / name).write_bytes((source / name).read_bytes()[:-40])
    data = live(source)
    outside = set(data.held_out.tolist())
    if broken == "trained on":
        for step in range(12):
            examples = data.readable(data.order(torch.arange(4 * step, 4 * step + 4)))
            assert not set(examples.tolist()) & outside
    else:
        assert set(data.readable(data.held_out).tolist()) <= outside


def test_a_source_of_which_nothing_decodes_ends_in_words(pictures: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    for path in source.glob("*.png"):
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="decodes"):
        live(source).fetch(torch.arange(4))


@pytest.mark.parametrize("missing", ["source", "autoencoder", "text_encoder", "image_size"])
def test_without_a_cache_what_is_missing_is_named(missing: str, pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = {
        "source": ["source=folder", f"source.path={pictures}"],
        "autoencoder": ["autoencoder=identity"],
        "text_encoder": PARTS,
        "image_size": ["image_size=16"],
    }
    given = [word for name, some in words.items() if name != missing for word in some]
    answer = ldm_train("train", "cache=null", f"run_dir={tmp_path}/run", *given)
    assert answer.code == 1
    assert f"needs {missing}=…" in answer.err


@pytest.mark.slow
def test_a_picture_left_out_by_its_header_is_reported(
    pictures: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    source = Path(shutil.copytree(pictures, tmp_path / "source"))
    (source / "circle-lime.png").write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(source / "extra.png")
    words = ["cache=null", "source=folder", f"source.path={source}", "autoencoder=identity", "image_size=16", *PARTS]
    answer = ldm_train("train", *words, *train_words, *QUICK, "max_steps=1", f"run_dir={tmp_path}/run")
    assert answer.code == 0, answer.err
    assert "left out circle-lime.png" in answer.out
    assert "left out extra.png" in answer.out
    assert OmegaConf.load(tmp_path / "run/config.yaml").cache is None
