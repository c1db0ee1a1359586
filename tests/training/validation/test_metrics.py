"""Metrics of sets of pictures in a run: what they are of, that ranks and resumes give the same, and what is kept."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from torch.testing import assert_close

from ldm_train.data.cache.reader import LatentCache
from ldm_train.features.extractors import EfficientNetLite0, Features, Pixels
from ldm_train.generation import Generation
from ldm_train.metrics.evaluation import Comparison, Retrieval
from ldm_train.metrics.sets import compare_features
from ldm_train.quickstart.backgrounds import has_background
from ldm_train.training.validation import compared as comparing
from ldm_train.training.validation.compared import choose_comparisons

ON = [
    "metrics.every=4",
    "metrics.count=8",
    "metrics.steps=2",
    "metrics.seed=5",
    "validation.every=100",
    "pictures.prompts=[]",
    "evaluation=drawings",
    "evaluation.source=pictures",  # which only `evaluate` reads
]
DOUBLE = "trainer.precision=64-true"
BEST = "checkpoint.best=metrics/kid_efficientnet_lite0"
TAUGHT = {"metrics/taught_retrieval_at_1", "metrics/taught_background_accuracy"}
EXACT = {"metrics/retrieval_at_1", "metrics/background_accuracy"} | TAUGHT
DISTANCES = {f"metrics/{name}_efficientnet_lite0" for name in ("kid", "fid", "precision", "recall")}


@pytest.fixture(scope="module")
def source(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared pictures with eight of the twelve held out."""
    folder = Path(shutil.copytree(pictures, tmp_path_factory.mktemp("source") / "pictures"))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["split"] = "train" if number % 3 == 0 else "held_out"
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def held_out(source: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their cache."""
    folder = tmp_path_factory.mktemp("caches") / "cache"
    answer = encode(source, folder, "dtype=float32")
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture
def own(held_out: Path, tmp_path: Path) -> Path:
    """A copy without features next to it."""
    return Path(shutil.copytree(held_out, tmp_path / "caches/cache"))


@pytest.fixture(scope="module")
def run(held_out: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in float64 on one process."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    answer = train(held_out, run_dir, *ON, DOUBLE, BEST)
    assert answer.code == 0, answer.err
    (run_dir / "said").write_text(answer.out)
    return run_dir


def lines(run_dir: Path) -> dict[int, dict[str, float]]:
    """What the metrics were, by step."""
    every = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: {n: v for n, v in line.items() if n.startswith("metrics/")} for line in every}
    return {step: values for step, values in found.items() if values}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The extractors, at every batch of pictures that they are shown."""
    shown: list[str] = []
    forward = Features.forward

    def expected_record(self: Features, images: torch.Tensor) -> torch.Tensor:
        shown.append(self.name)
        return forward(self, images)

    monkeypatch.setattr(Features, "forward", expected_record)
    return shown


def test_a_run_logs_them_at_its_steps_and_says_what_they_are_of(run: Path) -> None:
    found = lines(run)
    assert list(found) == [4, 8]
    assert all(values.keys() == DISTANCES | EXACT for values in found.values())
    assert found[4] != found[8]
    records = [json.loads(line) for line in (run / "set_metrics.jsonl").read_text().splitlines()]
    expected_record = {"extractor": "efficientnet_lite0", "features": 1280, "pictures": 8, "rank_deficient": True}
    expected_record |= {"held_out": True, "taught_pictures": 4, "steps": 2, "seed": 5}
    for record in records:
        assert record.items() >= expected_record.items()
        assert {f"metrics/{name}": record[name] for name in record if "_efficientnet" in name}.items() <= found[
            record["step"]
        ].items()
    said = (run / "said").read_text()
    assert len(re.findall("note: metrics.fid_efficientnet_lite0 is of 8 pictures.*1280", said)) == 1


def test_the_best_checkpoint_can_be_chosen_by_them(run: Path, two: Path) -> None:
    """On all ranks alike, which write it together."""
    found = {step: values["metrics/kid_efficientnet_lite0"] for step, values in lines(run).items()}
    for run_dir in (run, two / "ddp", two / "fsdp2"):
        best = torch.load(run_dir / "checkpoints/best.ckpt", map_location="cpu", weights_only=True)
        assert best["global_step"] == min(found, key=lambda step: found[step])


def test_they_are_what_the_averaged_weights_draw_against_what_is_held_out(run: Path, source: Path, held_out: Path) -> None:
    """Drawn and measured again by hand, from the last checkpoint and the picture files."""
    from ldm_train.assembly.parts import build_parts
    from ldm_train.assembly.stored_run import build_recipe
    from ldm_train.assembly.stored_weights import load_weights
    from ldm_train.data.pictures.images import read_image, to_signed
    from ldm_train.run_dir.stored_settings import read_trained

    config = read_trained(run)
    parts = build_parts(config)
    load_weights(run, parts)
    generation = parts.generation(parts.network.double().eval(), parts.text_encoder.double().eval(), torch.device("cpu"))
    entries = [(entry, LatentCache(held_out).first_caption(n)) for n, entry in enumerate(LatentCache(held_out).entries)]
    chosen = [(entry.key, caption) for entry, caption in entries if entry.held_out]
    assert len(chosen) == 8
    drawn = generation([caption for _, caption in chosen], build_recipe(config, steps=2, seed=5))
    real = to_signed(torch.stack([read_image((source / key).read_bytes(), 16) for key, _ in chosen]))
    extractor = EfficientNetLite0()
    values = lines(run)[8]
    for name, value in compare_features(extractor(real), extractor(drawn)).items():
        assert values[f"metrics/{name}_efficientnet_lite0"] == pytest.approx(value, rel=1e-4, abs=1e-4)
    backgrounds = [key.removesuffix(".png").split("-")[1] for key, _ in chosen]
    seen, truth = (Pixels.images(Pixels()(images)) for images in (drawn, real))
    matches = has_background(seen, backgrounds, truth, backgrounds)
    assert values["metrics/background_accuracy"] == matches.double().mean().item()
    right = torch.cdist(drawn.float().flatten(1), real.flatten(1)).argmin(1) == torch.arange(8)
    assert values["metrics/retrieval_at_1"] == right.double().mean().item()
    taught = [(entry.key, caption) for entry, caption in entries if not entry.held_out]
    assert len(taught) == 4
    drawn = generation([caption for _, caption in taught], build_recipe(config, steps=2, seed=5))
    real = to_signed(torch.stack([read_image((source / key).read_bytes(), 16) for key, _ in taught]))
    right = torch.cdist(drawn.float().flatten(1), real.flatten(1)).argmin(1) == torch.arange(4)
    assert values["metrics/taught_retrieval_at_1"] == right.double().mean().item()


@pytest.fixture(scope="module")
def two(held_out: Path, train_words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what two processes gave: the values of one set of features, and runs by `ddp` and `fsdp2`."""
    folder = tmp_path_factory.mktemp("two")
    jobs = []
    for strategy in ("ddp", "fsdp2"):
        cache = shutil.copytree(held_out, folder / f"caches-{strategy}/cache")
        words = [*train_words, *ON, DOUBLE, BEST, "trainer.devices=2", f"trainer.strategy={strategy}"]
        jobs.append(["train", f"cache={cache}", f"run_dir={folder / strategy}", *words])
    script = Path(__file__).parents[1] / "measured.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", script, json.dumps(jobs), folder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    (folder / "stdout").write_text(ended.stdout)
    return folder


@pytest.mark.slow
def test_two_ranks_measure_as_torchmetrics_does_and_as_one(two: Path) -> None:
    real, drawn = runpy.run_path(str(Path(__file__).parents[1] / "measured.py"))["sets"]()
    alone = compare_features(real, drawn)
    for rank in (0, 1):
        found = json.loads((two / f"{rank}.json").read_text())
        assert found["ours"] == pytest.approx(alone, rel=1e-4)
        assert {name: found["ours"][name] for name in found["theirs"]} == pytest.approx(found["theirs"], rel=1e-4)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_a_run_of_two_ranks_logs_what_one_does(strategy: str, two: Path, run: Path) -> None:
    actual, reference = lines(two / strategy), lines(run)
    assert actual.keys() == reference.keys()
    for step, values in reference.items():
        assert actual[step] == pytest.approx(values, rel=1e-4, abs=1e-6)
    assert (two / "stdout").read_text().count("note: metrics/fid_efficientnet_lite0") == 2, "once a run"
    kept = two / f"caches-{strategy}/cache.features"
    assert sorted(path.name.partition("-")[0] for path in kept.iterdir()) == ["efficientnet_lite0", "pixels", "pixels"]


def test_an_interrupted_run_logs_the_same(
    run: Path, held_out: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    with power_cut(6):
        train(held_out, tmp_path / "run", *ON, DOUBLE)
    answer = train(held_out, tmp_path / "run", *ON, DOUBLE)
    assert answer.code == 0, answer.err
    assert lines(tmp_path / "run") == lines(run)
    assert (tmp_path / "run/set_metrics.jsonl").read_text() == (run / "set_metrics.jsonl").read_text()


def test_the_true_pictures_are_seen_once_in_all_runs(own: Path, train: Callable, seen: list[str], tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    assert train(own, tmp_path / "first", *ON).code == 0
    expected = {
        "efficientnet_lite0": 3,
        "pixels": 6,
    }  # the true ones and those drawn at two steps; pixels of trained ones too
    assert Counter(seen) == expected
    seen.clear()
    assert train(own, tmp_path / "second", *ON).code == 0
    assert Counter(seen) == {"efficientnet_lite0": 2, "pixels": 4}
    assert lines(tmp_path / "first") == lines(tmp_path / "second")
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before, "the cache is as it was"


def test_encoding_again_neither_sees_nor_touches_what_is_kept(
    own: Path, source: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    assert train(own, tmp_path / "run", *ON, "max_steps=1").code == 0
    kept = {path.name: path.read_bytes() for path in own.with_name("cache.features").iterdir()}
    before = {path.name: path.read_bytes() for path in own.iterdir()}
    assert encode(source, own, "dtype=float32", "prune=true").code == 0
    assert {path.name: path.read_bytes() for path in own.iterdir()} == before
    assert {path.name: path.read_bytes() for path in own.with_name("cache.features").iterdir()} == kept
    LatentCache(own).verify()


def test_what_is_damaged_is_computed_again(own: Path, train: Callable, seen: list[str], tmp_path: Path) -> None:
    words = [*ON, "max_steps=1"]
    assert train(own, tmp_path / "first", *words).code == 0
    [path] = own.with_name("cache.features").glob("efficientnet_lite0-*")
    sound = path.read_bytes()
    path.write_bytes(sound[:-7])
    seen.clear()
    assert train(own, tmp_path / "second", *words).code == 0
    assert Counter(seen) == {"efficientnet_lite0": 2, "pixels": 2}
    assert path.read_bytes() == sound
    assert lines(tmp_path / "first") == lines(tmp_path / "second")


def test_another_choice_or_another_cache_has_files_of_its_own(
    own: Path, source: Path, encode: Callable, train: Callable, tmp_path: Path
) -> None:
    kept = own.with_name("cache.features")
    assert train(own, tmp_path / "a", *ON, "max_steps=1").code == 0
    assert len(list(kept.iterdir())) == 3
    assert train(own, tmp_path / "b", *ON, "max_steps=1", "metrics.count=6").code == 0
    assert len(list(kept.iterdir())) == 5, "the trained ones are the same four"
    assert encode(source, own, "dtype=float16").code == 0
    assert train(own, tmp_path / "c", *ON, "max_steps=1").code == 0
    assert len(list(kept.iterdir())) == 8


def test_a_folder_that_cannot_be_written_is_reported_and_ends_nothing(own: Path, train: Callable, tmp_path: Path) -> None:
    own.with_name("cache.features").write_text("in the way")
    answer = train(own, tmp_path / "run", *ON)
    assert answer.code == 0, answer.err
    assert answer.out.count("note: the true pictures' features were not stored") == 1
    assert list(lines(tmp_path / "run")) == [4, 8]


def test_encoding_on_the_fly_measures_the_same_and_keeps_nothing(
    own: Path, source: Path, ldm_train: Callable, train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    assert train(own, tmp_path / "cached", *ON).code == 0
    words = [
        "cache=null",
        f"source.path={source}",
        "source=folder",
        "autoencoder=identity",
        "image_size=16",
        "dtype=float32",
    ]
    text = ["text_encoder=small", "text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
    before = sorted(tmp_path.rglob("*.features"))
    answer = ldm_train("train", *words, *text, f"run_dir={tmp_path}/live", *train_words, *ON)
    assert answer.code == 0, answer.err
    assert lines(tmp_path / "live") == lines(tmp_path / "cached")
    assert sorted(tmp_path.rglob("*.features")) == before


def test_pictures_of_several_shapes_are_drawn_in_their_own(encode: Callable, train: Callable, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "mixed"
    folder.mkdir()
    rows = []
    for number in range(16):
        size = ((16, 16), (24, 12))[number % 2]
        Image.new("RGB", size, (number * 15, 255 - number * 15, 99)).save(folder / f"{number:02d}.png")
        rows.append(
            {"file_name": f"{number:02d}.png", "text": f"colour {number}", "split": "test" if number % 4 < 2 else "train"}
        )
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert encode(folder, tmp_path / "cache", "crop=buckets", "crop.step=4", "image_size=16").code == 0
    answer = train(tmp_path / "cache", tmp_path / "run", *ON, "max_steps=1", "batch_size=2")
    assert answer.code == 0, answer.err
    assert lines(tmp_path / "run")[1].keys() == DISTANCES | {"metrics/retrieval_at_1", "metrics/taught_retrieval_at_1"}


def test_several_caches_are_measured_as_one(own: Path, cache: Path, train: Callable, tmp_path: Path) -> None:
    other = shutil.copytree(cache, tmp_path / "caches/other")
    answer = train(f"[{own},{other}]", tmp_path / "run", *ON, "max_steps=1", "metrics.count=11")
    assert answer.code == 0, answer.err
    assert lines(tmp_path / "run")[1].keys() == DISTANCES | EXACT
    assert len(list(own.with_name("cache.features").iterdir())) == 3


def test_too_few_held_out_pictures_are_replaced_by_training_ones(cache: Path, train: Callable, tmp_path: Path) -> None:
    """Of which retrieval is a measure of memory, and has the name of one."""
    own = shutil.copytree(cache, tmp_path / "cache")
    answer = train(own, tmp_path / "run", *ON, "max_steps=1")
    assert answer.code == 0, answer.err
    assert "note: the metrics are of 8 training pictures" in answer.out
    assert lines(tmp_path / "run")[1].keys() == DISTANCES | TAUGHT


def test_equal_captions_leave_retrieval_out(source: Path, encode: Callable, train: Callable, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "pictures"))
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row | {"text": "a shape"}) + "\n" for row in rows))
    assert encode(folder, tmp_path / "cache").code == 0
    assert train(tmp_path / "cache", tmp_path / "run", *ON, "max_steps=1").code == 0
    assert lines(tmp_path / "run")[1].keys() == DISTANCES | {name for name in EXACT if "background" in name}


def test_captions_that_only_some_share_count_as_one() -> None:
    """The nearest true picture is right if it has the caption, whichever of several it is."""
    truth = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    captions, fields = ["a cat", "a cat", "a dog", "a cow"], [{}] * 4
    found = Retrieval()(Comparison(truth[[1, 1, 2, 0]], truth, captions, fields, held_out=True))
    assert found["retrieval_at_1"].tolist() == [True, True, True, False]


def test_pictures_that_cannot_be_measured_end_nothing(
    own: Path, train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = Generation.__call__
    monkeypatch.setattr(Generation, "__call__", lambda self, *a, **k: draw(self, *a, **k) * float("nan"))
    answer = train(own, tmp_path / "run", *ON)
    assert answer.code == 0, answer.err
    assert "note: no metrics at step 4" in answer.out
    assert lines(tmp_path / "run") == {}


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "random.pt"
    torch.save(open_clip.create_model("ViT-S-32-alt", pretrained_text=False).state_dict(), path)
    return path


def test_clip_models_measure_in_the_place_of_the_default_and_beside_it(
    own: Path, clip_file: Path, train: Callable, tmp_path: Path
) -> None:
    words = [
        f"{group}.{name}"
        for group in ("features", "clip_score")
        for name in ("model=ViT-S-32-alt", f"pretrained={clip_file}")
    ]
    answer = train(own, tmp_path / "run", *ON, "max_steps=1", "features=clip", "clip_score=open_clip", *words)
    assert answer.code == 0, answer.err
    values = lines(tmp_path / "run")[1]
    name = "vit_s_32_alt_random"
    expected = {f"metrics/{kind}_clip_{name}" for kind in ("kid", "fid", "precision", "recall")}
    assert values.keys() == expected | EXACT | {
        f"metrics/clip_score_{name}",
        f"metrics/clip_retrieval_at_1_{name}",
    }
    assert -100 <= values[f"metrics/clip_score_{name}"] <= 100
    assert values[f"metrics/clip_retrieval_at_1_{name}"] in [n / 8 for n in range(9)]


@pytest.mark.parametrize("off", [["metrics.every=null"], ["features=null"]])
def test_they_can_be_switched_off(off: list[str], own: Path, train: Callable, seen: list[str], tmp_path: Path) -> None:
    assert train(own, tmp_path / "run", *ON, "max_steps=4", *off).code == 0
    assert seen == []
    assert lines(tmp_path / "run") == {}
    assert not (tmp_path / "run/set_metrics.jsonl").exists()


def test_weights_that_are_not_to_be_had_are_reported_before_the_first_step(
    own: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(own, tmp_path / "run", *ON, "features=clip")
    assert answer.code == 1
    assert "features.pretrained=openai" in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("count", "places"), [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (4, [0, 2, 4, 6]), (100, [0, 1, 2, 3, 4, 5, 6, 7])]
)
def test_a_choice_is_spread_over_what_is_held_out(
    count: int, places: list[int], held_out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.data.batches.datamodules import CachedLatents

    monkeypatch.setattr(comparing, "PORTION_SIZE", 3)
    data = CachedLatents(LatentCache(held_out), batch_size=4)
    chosen, taught = choose_comparisons(data, count, factor=1)
    assert (chosen.held_out, taught.held_out) == (True, False)
    assert_close(chosen.examples, data.held_out[torch.tensor(places)])
    assert_close(taught.examples, data.trained)
    assert max(len(portion) for portion in chosen.portions) <= 3
    assert chosen.captions == [data.latents.first_caption(example) for example in chosen.examples.tolist()]
    assert [caption for n in range(len(chosen.portions)) for caption in chosen.captions_of(n)] == chosen.captions


def test_pixels_of_pictures_of_the_same_size_are_the_pictures() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_close(Pixels()(images), images.flatten(1), rtol=0, atol=1 / 254)
