"""Views, captions, and several caches as one: what stands at each position is what its own cache holds."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.joined_caches import JoinedCaches
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.decoding import decode_picture, render_view
from ldm_train.data.pictures.images import to_signed

EXACT = "dtype=float32"
QUICK = ["pictures.steps=1", "pictures.count=1", "pictures.every=100", "validation.every=100"]
COLOURS = ("red", "lime", "blue", "white", "black", "pink", "teal", "gold")


def make(folder: Path, colours: tuple[str, ...], *, side: int = 16, held_out: str | None = None) -> Path:
    folder.mkdir(parents=True)
    rows = []
    for colour in colours:
        Image.new("RGB", (side, side), colour).save(folder / f"{colour}.png")
        rows.append({"file_name": f"{colour}.png", "text": colour} | ({"split": "test"} if colour == held_out else {}))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def other(encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second cache, of plain pictures, that names nothing held out."""
    folder = tmp_path_factory.mktemp("other")
    answer = encode(make(folder / "source", COLOURS), folder / "cache", EXACT)
    assert answer.code == 0, answer.err
    return folder / "cache"


def test_every_example_is_that_of_its_own_cache(cache: Path, other: Path) -> None:
    parts = [LatentCache(cache), LatentCache(other)]
    both = JoinedCaches(parts)
    assert both.sets == [12, 8]
    data = CachedLatents(both, batch_size=6, caption_dropout=0.3)
    for positions in torch.arange(48).split(6):
        batch = data.fetch(positions)
        for place, example in enumerate(data.order(positions).tolist()):
            owner, number = (parts[0], example) if example < 12 else (parts[1], example - 12)
            alone = owner.moments(torch.tensor([number]), torch.tensor([0]))
            assert torch.equal(batch.moments.mean[place], alone.mean[0])
            texts = ["", *(owner.caption_texts[n] for n in owner.entries[number].captions)]
            tokens = owner.numbered(torch.tensor([owner.caption_texts.index(text) for text in texts])).tokens
            assert (batch.captions.tokens[place] == tokens).all(1).any()
    backgrounds = [entry.fields["background"] for entry in parts[0].entries]
    assert list(both.column("background")) == [*parts[0].column("background"), *parts[1].column("background")]
    assert list(both.column("background")) == [*backgrounds, *[None] * 8]
    assert both.shapes.tolist() == [[16, 16]] * 20
    assert [both.first_caption(12 + i) for i in range(8)] == [parts[1].first_caption(i) for i in range(8)]


def test_each_cache_holds_out_as_it_says_or_by_share(cache: Path, other: Path) -> None:
    both = JoinedCaches([LatentCache(cache), LatentCache(other)])
    data = CachedLatents(both, batch_size=4, held_out=0.5)
    named = [example for example in data.held_out.tolist() if example < 12]
    assert {both.caches[0].entries[example].key for example in named} == {
        "circle-red.png",
        "square-blue.png",
        "triangle-white.png",
    }
    by_hash = [e.key for e in both.caches[1].entries if int(e.picture[:8], 16) / 2**32 < 0.5]
    assert [both.caches[1].entries[e - 12].key for e in data.held_out.tolist() if e >= 12] == by_hash
    assert not set(data.order(torch.arange(400)).tolist()) & set(data.held_out.tolist())


@pytest.mark.parametrize(
    ("kind", "given", "counts"),
    [
        ("repeats", [1, 3], (9, 24)),
        ("repeats", [0.5, 1], (4.5, 8)),
        ("shares", [0.25, 0.75], (4.25, 12.75)),
        ("repeats", [0, 1], (0, 8)),
    ],
)
def test_repeats_and_shares_are_obeyed(
    kind: str, given: list[float], counts: tuple[float, float], cache: Path, other: Path
) -> None:
    both = JoinedCaches([LatentCache(cache), LatentCache(other)])
    data = CachedLatents(both, batch_size=1, **{kind: given})  # type: ignore[arg-type]
    drawn = data.order(torch.arange(int(sum(counts) * 72)))
    first = int((drawn < 12).sum())
    assert (first, len(drawn) - first) == (counts[0] * 72, counts[1] * 72)
    times = drawn.bincount(minlength=20)
    for own in (times[data.train[0]], times[data.train[1]]):
        assert own.max() - own.min() <= 1


@pytest.mark.slow
def test_joined_caches_train_and_resume_and_another_list_is_another_run(
    cache: Path, other: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    words = [*train_words, f"cache=[{cache},{other}]", "cache_repeats=[1,2]", f"run_dir={tmp_path}/run", *QUICK]
    answer = ldm_train("train", *words, "max_steps=1")
    assert answer.code == 0, answer.err
    assert ldm_train("train", *words, "max_steps=2").code == 0
    swapped = [word.replace(f"[{cache},{other}]", f"[{other},{cache}]") for word in words]
    answer = ldm_train("train", *swapped, "max_steps=3")
    assert answer.code == 1
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["dtype=float16"], "dtype: the cache has float16, this run expects float32"),
        (["text_encoder.context_length=8"], "text_encoder.context_length: the cache has 8"),
        (["text_encoder.trained=false"], "text_encoder.fingerprint"),
        (["autoencoder={kl}", "scale_check=false"], "autoencoder.fingerprint"),
    ],
)
@pytest.mark.parametrize("order", ["first", "last"])
def test_what_does_not_go_together_is_refused_by_name(
    words: list[str], reported: str, order: str, cache: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    if words[0] == "autoencoder={kl}":
        from ldm_train.autoencoders.autoencoder import NewKLAutoencoder

        NewKLAutoencoder([8], groups=4).save(tmp_path / "kl", shift=0.0, scale=1.0)
        words = ["autoencoder=pretrained", f"autoencoder.weights={tmp_path}/kl", words[1]]
    assert encode(make(tmp_path / "source", COLOURS[:2]), tmp_path / "cache", EXACT, *words).code == 0
    folders = [cache, tmp_path / "cache"] if order == "last" else [tmp_path / "cache", cache]
    answer = train(f"[{folders[0]},{folders[1]}]", tmp_path / "run", "max_steps=1", *QUICK)
    assert answer.code == 1
    assert (reported if order == "last" else reported.partition(":")[0]) in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words", [["cache=[]"], ["cache={cache}", "cache_repeats=2"], ["cache={cache}", "cache_repeats=[1,2]"]]
)
def test_what_is_no_list_is_refused_in_words(words: list[str], cache: Path, ldm_train: Callable, tmp_path: Path) -> None:
    answer = ldm_train("train", *[word.format(cache=cache) for word in words], f"run_dir={tmp_path}/run", "max_steps=1")
    assert answer.code in (1, 2)
    assert words[-1].partition("=")[0].partition("_")[0] in answer.err
    assert answer.err.startswith("ldm-train: "), "a message for people, not an error of ours"
    assert "Error" not in answer.err
    assert "has no len" not in answer.err


# Views and captions


@pytest.mark.parametrize("words", [["crop=random", "crop.views=3", "crop.mirrored=true"], ["crop.mirrored=true"]])
def test_views_are_stored_as_they_are_cut_and_drawn_over_the_steps(
    words: list[str], encode: Callable, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", ())
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (24, 40, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(source / "a.png")
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": ["one", "two", "three"]}))
    assert encode(source, tmp_path / "cache", EXACT, *words, "batch_size=4").code == 0
    read = LatentCache(tmp_path / "cache")
    count = 6 if words[0] == "crop=random" else 2
    entry = read.entries[0]
    assert entry.size == [24, 40]
    assert len(entry.views) == read.manifest.views == count
    assert read.index.views[0].tolist() == entry.views
    decoded = decode_picture((source / "a.png").read_bytes())
    from ldm_train.data.pictures.crops import View

    shown = []
    for number, (height, width, top, left, mirrored) in enumerate(entry.views):
        view = View(height, width, top, left, 16, 16, bool(mirrored))
        image = to_signed(torch.from_numpy(render_view(decoded, view)).permute(2, 0, 1))
        assert torch.equal(read.moments(torch.tensor([0]), torch.tensor([number])).mean[0], image)
        shown.append(image)
    data = CachedLatents(read, batch_size=600, caption_dropout=0.0)
    batch = data.fetch(torch.arange(600)).moments.mean
    times = torch.tensor([(batch == image).flatten(1).all(1).sum() for image in shown])
    assert times.sum() == 600
    assert (times - 600 / count).abs().max() < 6 * (600 / count) ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.25, 1.0])
def test_captions_are_drawn_alike_and_dropped_as_often_as_asked(dropout: float, encode: Callable, tmp_path: Path) -> None:
    source = make(tmp_path / "source", ("red",))
    (source / "metadata.jsonl").write_text(json.dumps({"file_name": "red.png", "text": ["one", "two", "three"]}))
    assert encode(source, tmp_path / "cache", EXACT).code == 0
    read = LatentCache(tmp_path / "cache")
    tokens = CachedLatents(read, batch_size=900, caption_dropout=dropout).fetch(torch.arange(900)).captions.tokens
    every = read.numbered(torch.arange(4)).tokens
    times = {text: int((tokens == row).all(1).sum()) for text, row in zip(read.caption_texts, every, strict=True)}
    assert sum(times.values()) == 900
    assert times[""] == pytest.approx(900 * dropout, abs=0 if dropout in (0, 1) else 60)
    assert [times[text] for text in ("one", "two", "three")] == pytest.approx([300 * (1 - dropout)] * 3, abs=70)


def test_a_moved_cache_trains(cache: Path, train: Callable, tmp_path: Path) -> None:
    shutil.copytree(cache, tmp_path / "before")
    moved = Path(shutil.move(tmp_path / "before", tmp_path / "after"))
    assert train(moved, tmp_path / "run", "max_steps=1", *QUICK).code == 0


def test_a_text_encoder_in_training_does_not_train_on_what_a_frozen_one_embedded(
    encode: Callable, train: Callable, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", COLOURS)
    assert encode(source, tmp_path / "cache", EXACT, "text_encoder.trained=false").code == 0
    words = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.trained=true"]
    answer = train(tmp_path / "cache", tmp_path / "run", "max_steps=1", *QUICK, *words)
    assert answer.code == 1
    assert "text_encoder.fingerprint" in answer.err
