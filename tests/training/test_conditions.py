"""Runs that are conditioned on more than the caption: their batches, their exactness, and how they are drawn from."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

import ldm_train as library
from ldm_train.autoencoders.autoencoder import IdentityAutoencoder
from ldm_train.conditioners.class_labels import ClassLabels
from ldm_train.conditioners.condition import Conditions
from ldm_train.conditioners.number import Number
from ldm_train.conditioners.picture_size import PictureSize
from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.cache.reader import LatentCache
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.guidance import ClassifierFreeGuidance, autoguidance, classifier_free
from ldm_train.diffusion.prediction import Noise, Velocity
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.samplers import DDIM
from ldm_train.samplers.spacings import Trailing
from ldm_train.types import Conditioning, Given

CONDITIONS = "conditions=[size,{number:{column:age,dropout:0.3}}]"
QUICK = ["pictures.steps=2", "pictures.every=100", "validation.every=4"]


@pytest.fixture(scope="module")
def aged(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures with an age each, but for one."""
    folder = tmp_path_factory.mktemp("aged") / "pictures"
    shutil.copytree(pictures, folder)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[1:]):
        row["age"] = 5 + 3 * number
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def aged_cache(aged: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aged") / "cache"
    answer = encode(aged, folder, "dtype=float32")
    assert answer.code == 0, answer.err
    return folder


@pytest.fixture(scope="module")
def conditioned(aged_cache: Path, train: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("aged") / "run"
    answer = train(aged_cache, run_dir, CONDITIONS, *QUICK)
    assert answer.code == 0, answer.err
    assert "pictures have no number in the column age; they are trained without it" in answer.out
    return run_dir


def losses(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


# The batches


def test_batches_carry_the_conditions_of_their_examples(aged_cache: Path) -> None:
    cache, ages = LatentCache(aged_cache), Number("age", low=0, high=1)
    data = CachedLatents(cache, batch_size=4, conditions=[ages, PictureSize()], caption_dropout=0)
    positions = torch.arange(40)
    batch, names = data.fetch(positions), data.names(positions)
    known = {entry.key: entry.fields.get("age") for entry in cache.entries}
    for name, value in zip(names, batch.conditions["age"].values.tolist(), strict=True):
        assert value == float(known[name] or 0)
    assert batch.conditions["size"].values.tolist() == [[16, 16, 0, 0, 16, 16]] * 40
    parts = [data.fetch(part).conditions["age"] for part in positions.split(7)]
    assert torch.equal(torch.cat([part.kept for part in parts]), batch.conditions["age"].kept)


def test_conditions_are_dropped_at_their_shares_and_all_with_half_of_the_captions(aged_cache: Path) -> None:
    cache, count = LatentCache(aged_cache), 6000
    data = CachedLatents(cache, batch_size=4, conditions=[PictureSize(dropout=0.1)], caption_dropout=0.5)
    batch = data.fetch(torch.arange(count))
    empty = (batch.captions.tokens == cache.numbered(torch.tensor([cache.manifest.empty])).tokens).all(1)
    dropped = ~batch.conditions["size"].kept
    assert dropped[empty].float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert dropped[~empty].float().mean().item() == pytest.approx(0.1, abs=0.02)
    several = [PictureSize(dropout=0.1), PictureSize(name="again", dropout=0.1), PictureSize(name="third", dropout=0.1)]
    batch = CachedLatents(cache, batch_size=4, conditions=several, caption_dropout=0.1).fetch(torch.arange(count))
    empty = (batch.captions.tokens == cache.numbered(torch.tensor([cache.manifest.empty])).tokens).all(1)
    lacking = torch.stack([~given.kept for given in batch.conditions.values()])
    assert (lacking.all(0) & empty).float().mean().item() == pytest.approx(0.05, abs=0.01)
    assert torch.equal(lacking[:, empty].all(0), lacking[:, empty].any(0))
    assert (lacking[:, ~empty].sum(0) == 1).any()
    never = CachedLatents(cache, batch_size=4, conditions=[PictureSize()], caption_dropout=0.5)
    assert never.fetch(torch.arange(count)).conditions["size"].kept.all()


def test_dropping_a_condition_leaves_what_it_read_as_it_was(aged_cache: Path) -> None:
    whole = Given(torch.zeros(40), torch.ones(40, dtype=torch.bool))

    class Constant(Number):
        def read(self, examples: object) -> Callable[[Tensor, Tensor], Given]:
            return lambda chosen, views: whole

    condition = Constant("age", low=0, high=1, dropout=0.5)
    data = CachedLatents(LatentCache(aged_cache), batch_size=4, conditions=[condition])
    assert not data.fetch(torch.arange(40)).conditions["age"].kept.all()
    assert whole.kept.all()


def test_held_out_examples_are_measured_with_their_conditions(aged_cache: Path) -> None:
    data = CachedLatents(LatentCache(aged_cache), batch_size=4, conditions=[PictureSize(dropout=0.9)], held_out=0.3)
    assert data.fixed_batch(data.held_out[:2], torch.arange(2)).conditions["size"].kept.all()


# Guidance


class Sum:
    """A network of which the output tells what it was conditioned on."""

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return x_t * 0 + conditioning.vector.sum(1).view(-1, 1, 1, 1)


def test_guidance_scales_the_caption_and_the_other_conditions_apart() -> None:
    """Equation 3 of arXiv 2211.09800."""
    denoiser, x, t = Denoiser(Sum(), scaled_linear(), Noise()), torch.randn(2, 1, 2, 2), torch.tensor([500.0, 500.0])
    full, null, none = (Conditioning(vector=torch.full((2, 1), value)) for value in (5.0, 3.0, 2.0))
    guided = ClassifierFreeGuidance(denoiser, null, scale=4, unconditional=none, condition_scale=1.5)
    assert_close(guided(x, t, full).output, torch.full_like(x, 2 + 1.5 * (3 - 2) + 4 * (5 - 3)))
    plain = ClassifierFreeGuidance(denoiser, null, scale=4, unconditional=none)
    assert_close(plain(x, t, full).output, ClassifierFreeGuidance(denoiser, null, scale=4)(x, t, full).output)
    assert_close(
        ClassifierFreeGuidance(denoiser, null, scale=1, unconditional=none, condition_scale=2)(x, t, full).output,
        torch.full_like(x, 2 + 2 * (3 - 2) + (5 - 3)),
    )


class Conditioned:
    """A network that keeps the vectors that it was conditioned on, and draws their mean."""

    def __init__(self) -> None:
        self.vectors: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.vector is not None
        self.vectors.append(conditioning.vector)
        return x_t * 0 + conditioning.vector.mean(1).view(-1, 1, 1, 1)


def small_generation(conditions: Conditions) -> Generation:
    return Generation(
        Conditioned(),
        ClassLabels(classes=["a", "b"], width=4),
        IdentityAutoencoder(),
        scaled_linear(),
        Velocity(),
        size=4,
        device=torch.device("cpu"),
        conditions=conditions,
    )


def one_step(**guidance: float) -> SamplingSettings:
    return SamplingSettings(DDIM(), steps=1, spacing=Trailing(), guidance=partial(classifier_free, **guidance), seed=0)


def test_a_size_that_nobody_gave_is_left_out_too() -> None:
    generation = small_generation(Conditions([PictureSize(dropout=0.1)]))
    generation(["a"], one_step(scale=1.0, condition_scale=2.0))
    _, null, unconditional = generation.network.vectors[0]
    assert null[4:].any()
    assert not unconditional[4:].any()


def test_what_is_given_stays_the_same_between_two_prompts() -> None:
    generation = small_generation(Conditions([Number("age", low=0, high=10)]))
    given = {"age": Given(torch.tensor([3.0]), torch.tensor([True]))}
    generation.interpolate(("a", "b"), one_step(scale=1.0), torch.linspace(0, 1, 5), given=given)
    [vectors] = generation.network.vectors
    assert_close(vectors[:, 4:], vectors[:1, 4:].expand(5, -1), rtol=0, atol=0)
    assert len(vectors[:, :4].unique(dim=0)) == 5


def test_a_weaker_model_draws_at_the_size_that_is_asked_for() -> None:
    weak = small_generation(Conditions([PictureSize()]))
    strong = small_generation(Conditions([PictureSize()]))
    recipe = SamplingSettings(DDIM(), steps=1, spacing=Trailing(), guidance=partial(autoguidance, scale=2.0), seed=0)
    replace(strong, weak=weak, size=(8, 12))(["a"], recipe)
    assert torch.equal(weak.network.vectors[0][:, 4:], strong.network.vectors[0][:, 4:])


# Runs


@pytest.mark.slow
def test_a_run_records_the_range_of_its_numbers_and_continues_bit_for_bit(
    conditioned: Path, aged_cache: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    text = (conditioned / "config.yaml").read_text()
    assert "low: 5.0" in text
    assert "high: 35.0" in text
    with power_cut(5):
        assert train(aged_cache, tmp_path / "run", CONDITIONS, *QUICK).code != 0
    answer = train(aged_cache, tmp_path / "run", CONDITIONS, *QUICK)
    assert answer.code == 0, answer.err
    assert losses(tmp_path / "run") == losses(conditioned)


@pytest.mark.slow
def test_the_conditions_decide_the_losses(conditioned: Path, trained: Path) -> None:
    assert losses(conditioned) != losses(trained)


@pytest.mark.slow
def test_a_run_on_the_fly_is_that_of_the_cache(
    conditioned: Path, aged: Path, ldm_train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    made = ["image_size=16", "autoencoder=identity", "text_encoder=small", "dtype=float32"]
    text = ["text_encoder.width=32", "text_encoder.layers=1", "text_encoder.heads=4"]
    live = ["cache=null", "source=folder", f"source.path={aged}", *made, *text, CONDITIONS]
    answer = ldm_train("train", f"run_dir={tmp_path}/run", *live, *train_words, *QUICK)
    assert answer.code == 0, answer.err
    assert losses(tmp_path / "run") == losses(conditioned)


@pytest.mark.slow
def test_micro_batches_have_the_losses_of_the_whole(
    conditioned: Path, aged_cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(aged_cache, tmp_path / "run", CONDITIONS, *QUICK, "micro_batch_size=2")
    assert answer.code == 0, answer.err
    assert_close(torch.tensor(losses(tmp_path / "run")), torch.tensor(losses(conditioned)), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_other_conditions_are_refused_when_a_run_is_continued(
    conditioned: Path, aged_cache: Path, train: Callable, tmp_path: Path
) -> None:
    shutil.copytree(conditioned, tmp_path / "run")
    for words in (["conditions=[size]"], [], ["conditions=[size,{number:{column:age,dropout:0.3,width:32}}]"]):
        answer = train(aged_cache, tmp_path / "run", *words, *QUICK, "max_steps=9")
        assert answer.code != 0
        assert "conditions" in answer.err


# Drawing


def draw(ldm_train: Callable, run_dir: Path, out: Path, *words: str) -> bytes:
    """Return the pixels of a picture."""
    answer = ldm_train("sample", f"run_dir={run_dir}", f"out={out}", "prompts=[a black circle]", "steps=2", *words)
    assert answer.code == 0, answer.err
    return Image.open(out / "0000.png").tobytes()


@pytest.mark.slow
def test_numbers_are_given_by_their_names_and_are_in_the_file(
    conditioned: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    none = draw(ldm_train, conditioned, tmp_path / "none")
    assert draw(ldm_train, conditioned, tmp_path / "one", "number.age=5") != none
    draw(ldm_train, conditioned, tmp_path / "again", "number.age=5")
    assert (tmp_path / "again/0000.png").read_bytes() == (tmp_path / "one/0000.png").read_bytes()
    metadata = json.loads(Image.open(tmp_path / "one" / "0000.png").text["ldm_train"])
    assert metadata["conditions"] == {"age": 5}


@pytest.mark.slow
def test_a_number_that_the_run_never_saw_is_warned_of(conditioned: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["prompts=[a]", "steps=1", f"out={tmp_path / 'out'}"]
    answer = ldm_train("sample", f"run_dir={conditioned}", "number.age=99", *words)
    assert answer.code == 0
    assert "number.age=99" in answer.out
    assert "5 to 35" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize(
    "word", ["number.height=3", "number.size=3", "map.depth=x.png", "map.age=x.png", "number.age=old", "number.age=nan"]
)
def test_what_the_run_is_not_conditioned_on_is_refused(
    word: str, conditioned: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("sample", f"run_dir={conditioned}", word, "prompts=[a]", "steps=1", f"out={tmp_path / 'out'}")
    assert answer.code != 0
    assert word.partition(".")[0] in answer.err
    assert "Traceback" not in answer.err
    assert not (tmp_path / "out" / "0000.png").exists()


@pytest.mark.slow
def test_conditions_have_a_scale_of_their_own(conditioned: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["number.age=20", "guidance.scale=2"]
    plain = draw(ldm_train, conditioned, tmp_path / "plain", *words)
    assert draw(ldm_train, conditioned, tmp_path / "one", *words, "guidance.condition_scale=1") == plain
    assert draw(ldm_train, conditioned, tmp_path / "two", *words, "guidance.condition_scale=3") != plain


@pytest.mark.slow
def test_a_scale_of_conditions_is_refused_where_there_are_none(trained: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["prompts=[a]", "steps=1", f"out={tmp_path / 'out'}", "guidance.condition_scale=3"]
    answer = ldm_train("sample", f"run_dir={trained}", *words)
    assert answer.code != 0
    assert "guidance.condition_scale" in answer.err


@pytest.mark.slow
def test_an_evaluation_draws_with_the_conditions_of_the_pictures_that_it_compares_with(
    conditioned: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("evaluate", f"run_dir={conditioned}", f"out={tmp_path / 'out.json'}", "steps=2", "features=null")
    assert answer.code == 0, answer.err
    assert json.loads((tmp_path / "out.json").read_text())["validation_loss"] > 0


@pytest.mark.slow
def test_an_export_says_which_conditions_a_pipeline_does_not_pass(
    conditioned: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    answer = ldm_train("export", f"run_dir={conditioned}", f"out={tmp_path / 'out'}", "layout=diffusers")
    assert "age (a vector of " in answer.out
    assert "StableDiffusionInpaintPipeline" in answer.out


@pytest.mark.slow
def test_pictures_are_drawn_from_python_with_what_is_given(conditioned: Path) -> None:
    run = library.load_run(conditioned, steps=2)
    given = {"age": Given(torch.tensor([5.0, 35.0]), torch.ones(2, dtype=torch.bool))}
    numbers = torch.zeros(2, dtype=torch.int64)
    one, other = run.generation(["a black circle"] * 2, run.recipe, numbers=numbers, given=given)
    assert not torch.equal(one, other)
    prompts = [{"prompt": "a black circle", "seed": 0}, {"prompt": "a black circle", "seed": 0, "steps": 2}]
    assert_close(library.generate(run, prompts, given=given, batch_size=1), torch.stack([one, other]))
    with pytest.raises(ValueError, match="height"):
        library.generate(run, prompts, given={"height": given["age"]})
    with pytest.raises(library.ConfigError, match="number"):
        library.load_run(conditioned, number={"age": 5})


@pytest.mark.slow
def test_check_tries_the_conditions(aged: Path, ldm_train: Callable, train_words: list[str]) -> None:
    words = [f"source.path={aged}", "image_size=16", "autoencoder=identity", "source=folder", "text_encoder=small"]
    drawn = [word for word in train_words if not word.startswith("pictures")]
    answer = ldm_train("check", *words, *drawn, CONDITIONS, "measure=false")
    assert answer.code == 0, answer.out + answer.err
    assert "have no number in the column age" in answer.out
    answer = ldm_train("check", *words, *drawn, "conditions=[{number:{column:height}}]", "measure=false")
    assert answer.code != 0
    assert "column height" in answer.out + answer.err
