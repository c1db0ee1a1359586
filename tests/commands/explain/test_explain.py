"""`ldm-train explain`: its figures are the run's own, and its sentences true of the run's settings."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ldm_train import draws
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.commands.explain import explanation as explanation_module
from ldm_train.commands.explain.embedded_tensors import draw_latents, draw_map
from ldm_train.commands.explain.explain_page import build_explain_page
from ldm_train.commands.explain.explanation import Explanation, explain_run
from ldm_train.commands.explain.forward_process import corrupt_picture
from ldm_train.commands.explain.network_view import predict
from ldm_train.commands.explain.own_picture import read_own_picture
from ldm_train.commands.explain.plain_words import (
    say_attention,
    say_errors,
    say_latents,
    say_prediction,
    say_prompt_effect,
    say_reverse,
    say_schedule,
    say_tokens,
    say_variations,
)
from ldm_train.commands.explain.reverse_process import trace_reverse
from ldm_train.conditioners.condition import Conditions
from ldm_train.conditioners.number import Number
from ldm_train.conditioners.picture_size import PictureSize
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.diffusion.denoiser import Estimate
from ldm_train.diffusion.schedules.named import EDM, RectifiedFlow, cosine, scaled_linear
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.reports.page import render_page
from ldm_train.reports.page_blocks import Film
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import ExplainSettings

HELD_OUT = "circle-red.png"  # the first example that the data holds out
CAPTION = "a black circle on a red background"


def explain(run_dir: Path, *words: str) -> Explanation:
    settings = compose_as(ExplainSettings, [f"run_dir={run_dir}", "out=x.html", "device=cpu", *words])
    return explain_run(settings, label="")


@pytest.fixture(scope="module")
def one(trained: Path) -> Explanation:
    return explain(trained, "seed=3")


@pytest.fixture(scope="module")
def films(one: Explanation) -> dict[str, Film]:
    """The films of the page by their captions."""
    page = build_explain_page([one])
    return {block.caption: block for section in page.sections for block in section.blocks if isinstance(block, Film)}


def test_the_page_names_the_conditions_that_it_draws_without(one: Explanation) -> None:
    assert "drawn without" not in dict(build_explain_page([one]).summary)
    parts = replace(one.trained.parts, conditions=Conditions([Number("age"), PictureSize()]))
    other = replace(one, trained=replace(one.trained, parts=parts))
    assert dict(build_explain_page([other]).summary)["drawn without"] == "age"


def decode_address(address: str) -> Tensor:
    """Return the picture in a `data:` address, uint8 (3, H, W)."""
    content = base64.b64decode(address.partition("base64,")[2])
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


def pictures_of(film: Film, place: int) -> list[Tensor]:
    """Return the picture at a place of each frame of a film, as a browser shows it."""
    shown = [frame.pictures[place].embedded for frame in film.frames]
    return [decode_address(picture.address) for picture in shown if picture is not None]


def test_the_example_is_the_first_held_out_one_of_the_cache(one: Explanation, cache: Path) -> None:
    latents = LatentCache(cache)
    example = [entry.key for entry in latents.entries].index(HELD_OUT)
    raw = latents.moments(torch.tensor([example]), torch.tensor([0])).mean
    assert (one.picture.name, one.picture.prompt) == (HELD_OUT, CAPTION)
    assert torch.equal(one.picture.latents, Scaling.of(one.generation.autoencoder).to_model(raw))
    assert len(one.picture.others) == 2
    assert CAPTION not in one.picture.others
    assert {*one.picture.others} <= {*latents.caption_texts}


def test_the_pictures_of_the_forward_process_are_the_schedule_s_of_keyed_draws(
    one: Explanation, films: dict[str, Film]
) -> None:
    schedule, x = one.generation.schedule, one.picture.latents
    noise = draws.normal(3, "explained noise", torch.tensor([0]), x.shape[1:])
    pixel_noise = draws.normal(3, "explained noise of pixels", torch.tensor([0]), one.picture.image.shape[1:])
    times = torch.tensor([step.point.t for step in one.forward], dtype=torch.float64)
    many = x.expand(len(times), -1, -1, -1)
    x_t = schedule.corrupt(many, noise.expand_as(many), times)
    pixels = one.picture.image.expand(len(times), -1, -1, -1)
    noisy = schedule.corrupt(pixels, pixel_noise.expand_as(pixels), times).clamp(-1, 1)
    film = films["The forward process"]
    assert_close(torch.stack([step.latents for step in one.forward]), x_t, rtol=0, atol=0)
    assert torch.equal(torch.stack(pictures_of(film, 0)), to_display_bytes(noisy))
    assert torch.equal(torch.stack(pictures_of(film, 1)), torch.stack([draw_latents(one_of) for one_of in x_t]))
    assert torch.equal(torch.stack(pictures_of(film, 2)), to_display_bytes(one.generation.decode(x_t)))


@pytest.mark.parametrize("schedule", [scaled_linear(), cosine(zero_terminal_snr=True), RectifiedFlow(), EDM()], ids=range(4))
def test_time_goes_from_the_picture_to_the_end_of_the_schedule(schedule: NoiseSchedule, one: Explanation) -> None:
    steps = corrupt_picture(replace(one.generation, schedule=schedule), one.picture, seed=0)
    times = [step.point.t for step in steps]
    assert (times[0], times[-1]) == (0, schedule.end)
    assert times == sorted(set(times))
    inner = torch.tensor(times[1:], dtype=torch.float64)
    assert torch.equal(schedule.nearest_trained(inner), inner)
    assert_close(steps[0].latents, one.picture.latents[0])


def test_what_the_network_says_is_its_own_prediction(one: Explanation) -> None:
    noise = draws.normal(3, "explained noise", torch.tensor([0]), one.picture.latents.shape[1:])
    for view in one.views:
        at = torch.tensor([view.point.t], dtype=torch.float64)
        x_t = one.generation.schedule.corrupt(one.picture.latents, noise, at)
        with torch.no_grad():
            estimate = one.generation.denoiser()(x_t, at, one.generation.condition([CAPTION]))
        assert_close(view.predicted, estimate.noise[0])
        assert_close(view.added, noise[0])
        assert_close(view.error, (estimate.noise - noise)[0].square().mean(0))
        assert view.noise_error == pytest.approx(float((estimate.noise - noise).square().mean()), rel=1e-5)
        assert torch.equal(view.estimate, to_display_bytes(one.generation.decode(estimate.clean))[0])
        assert view.network_time == view.point.t - 1


def test_the_errors_are_those_of_a_network_that_is_given_the_prompt_or_none(one: Explanation) -> None:
    x, middle = one.picture.latents, 5
    noise = torch.cat([draws.normal(3, "explained noise", torch.tensor([n]), x.shape[1:]) for n in range(2)])
    t = one.errors.points[middle].t
    x_t = one.generation.schedule.corrupt(x.expand_as(noise), noise, torch.full((2,), t, dtype=torch.float64))
    with torch.no_grad():
        own, none = (predict(one.generation, x_t, t, text) for text in (CAPTION, ""))
    assert one.errors.noise[middle] == pytest.approx(float((own.noise - noise).square().mean()), rel=1e-5)
    assert one.errors.noise_unprompted[middle] == pytest.approx(float((none.noise - noise).square().mean()), rel=1e-5)
    assert one.errors.clean_unprompted[middle] == pytest.approx(float((none.clean - x).square().mean()), rel=1e-5)


def test_the_reverse_process_is_that_of_the_drawn_picture(one: Explanation, films: dict[str, Film]) -> None:
    recipe, kept = one.trained.recipe, list[Estimate]()
    image = one.generation([CAPTION], recipe, callback=lambda number, x_s, estimate: kept.append(estimate))
    assert recipe.seed == 3
    assert torch.equal(one.reverse.drawn, to_display_bytes(image)[0])
    assert len(one.reverse.steps) == recipe.steps == len(films["The reverse process"].frames)
    for step, estimate in zip(one.reverse.steps, kept, strict=True):
        assert torch.equal(step.estimate, to_display_bytes(one.generation.decode(estimate.clean))[0])
    first = one.reverse.steps[0]
    noise = draws.normal(3, "initial noise", torch.tensor([0]), one.generation.latent_shape)
    assert_close(first.latents, float(np.hypot(first.t.alpha, first.t.sigma)) * noise)


def test_the_prompt_changes_nothing_where_there_is_none(one: Explanation) -> None:
    nothing = trace_reverse(one.generation, one.trained.parts.text_encoder, one.trained.recipe, "")
    assert [step.noise_difference for step in nothing.steps] == [0] * len(nothing.steps)
    assert max(step.noise_difference for step in one.reverse.steps) > 0
    assert "does not use" in say_prompt_effect(replace(one, reverse=nothing))
    assert "does not use" not in say_prompt_effect(one)


def test_the_attention_is_that_of_the_drawn_picture(one: Explanation, films: dict[str, Film]) -> None:
    found = one.reverse.attention
    assert found is not None
    assert list(found.words) == ["start token", *CAPTION.split(), "end and padding"]
    film = films["Attention to each word"]
    assert [frame.label for frame in film.frames] == ["all steps", *(f"step {n} of 4" for n in (1, 2, 3, 4))]
    place = found.words.index("circle")
    highest = float(found.combined[:, place].max())
    expected = [found.combined[:, place].mean(0), *found.combined[:, place]]
    assert torch.equal(
        torch.stack(pictures_of(film, 1 + place)), torch.stack([draw_map(one_of, highest=highest) for one_of in expected])
    )


def test_only_one_thing_differs_between_the_pictures_of_a_row(one: Explanation) -> None:
    rows = {row.title: dict(zip(row.labels, row.pictures, strict=True)) for row in one.variations}
    assert set(rows) == {"prompts", "guidance scales", "samplers", "numbers of steps"}
    own = [rows["prompts"][f"“{CAPTION}”"], rows["guidance scales"]["2"]]
    own += [rows["samplers"]["ddim (this run's)"], rows["numbers of steps"]["4"]]
    assert all(torch.equal(picture, one.reverse.drawn) for picture in own)
    with torch.no_grad():
        image = one.generation([""], one.trained.recipe)
    assert torch.equal(rows["prompts"]["no prompt"], to_display_bytes(image)[0])
    assert not torch.equal(rows["numbers of steps"]["1"], one.reverse.drawn)


def test_latents_are_grey_by_their_values_and_errors_coloured() -> None:
    drawn = draw_latents(torch.tensor([[[-9.0, 0.0]], [[1.5, 9.0]]]))
    assert drawn[:, 0].tolist() == [[0, 128, 255, 191, 255]] * 3  # a white line between the channels
    assert draw_latents(torch.zeros(5, 2, 2)).shape == (3, 5, 8)
    assert draw_map(torch.tensor([[0.0, 2.0, 9.0]]), highest=2.0)[:, 0].T.tolist() == [[68, 1, 84], *[[253, 231, 37]] * 2]
    assert draw_map(torch.zeros(1, 1), highest=0.0)[:, 0, 0].tolist() == [68, 1, 84]


@pytest.mark.parametrize("name", ["noise", "velocity", "clean", "flow", "MyOwn"])
def test_the_words_name_what_this_run_predicts(name: str, one: Explanation) -> None:
    said = say_prediction(replace(one, names={**one.names, "prediction": name}))
    assert ("velocity" in said, "minus the clean latents" in said, "MyOwn" in said) == (
        name == "velocity",
        name == "flow",
        name == "MyOwn",
    )


@pytest.mark.parametrize(
    ("schedule", "pure"),
    [(scaled_linear(), False), (scaled_linear(zero_terminal_snr=True), True), (RectifiedFlow(), True), (EDM(), False)],
    ids=range(4),
)
def test_the_words_say_whether_the_schedule_ends_in_noise(schedule: NoiseSchedule, pure: bool, one: Explanation) -> None:
    forward = corrupt_picture(replace(one.generation, schedule=schedule), one.picture, seed=0)
    said = say_schedule(replace(one, forward=forward))
    assert ("alpha is 0" in said) == pure
    assert ("zero_terminal_snr=true" in said) == (not pure and not isinstance(schedule, EDM))
    assert said.endswith(".")


def test_the_words_have_the_run_s_numbers(one: Explanation) -> None:
    assert f"{3 * 16 * 16:,}" in say_latents(one)
    assert "786,432" in say_latents(one)
    small = replace(one, picture=replace(one.picture, latents=torch.zeros(1, 4, 2, 2)))
    assert "4 x 2 x 2 = 16 numbers, 48 times fewer" in say_latents(small)
    assert "guidance.scale=2" in say_reverse(one)
    assert "guidance.scale" not in say_reverse(replace(one, guidance_scale=1.0))
    assert "weakens" in say_reverse(replace(one, guidance_scale=0.5))
    once = replace(one.reverse, steps=one.reverse.steps[:1])
    assert "first 0 steps" not in say_prompt_effect(replace(one, reverse=once))
    assert "guidance scale of 0" not in say_variations(replace(one, names={**one.names, "guidance": "autoguidance"}))


SAYING = [
    say_latents,
    say_schedule,
    say_tokens,
    say_prediction,
    say_errors,
    say_reverse,
    say_prompt_effect,
    say_attention,
    say_variations,
]


@pytest.mark.parametrize("say", SAYING, ids=lambda say: say.__name__)
def test_each_part_has_whole_sentences_also_next_to_another_run(say: Callable, one: Explanation) -> None:
    small = replace(one, picture=replace(one.picture, latents=torch.zeros(1, 4, 2, 2)))
    for each in (one, small, replace(one, names={**one.names, "prediction": "velocity"})):
        assert say(each).endswith(".")
        assert say(replace(each, label="outputs/a")) == f"outputs/a: {say(each)}"


def test_a_key_and_a_file_choose_the_picture(trained: Path, pictures: Path, one: Explanation) -> None:
    by_key = explain(trained, "key=square-lime.png", "others=[a fox]")
    assert (by_key.picture.name, by_key.picture.prompt) == ("square-lime.png", "a black square on a lime background")
    assert by_key.picture.others == ["a fox"]
    by_file = explain(trained, f"picture={pictures}/{HELD_OUT}", "prompt=a circle")
    assert by_file.picture.prompt == "a circle"
    assert_close(by_file.picture.latents, one.picture.latents)


def test_the_command_writes_a_page_of_one_run_or_two(
    ldm_train: Callable, trained: Path, run_with: Callable[..., Path], tmp_path: Path
) -> None:
    other = run_with("prediction=velocity", "schedule=cosine", "schedule.zero_terminal_snr=true")
    answer = ldm_train("explain", f"run_dir=[{trained},{other}]", f"out={tmp_path}/page.html", "steps=2")
    assert answer.code == 0, answer.err
    page = (tmp_path / "page.html").read_text()
    captions = ["The picture", "The forward process", "What the network sees and says", "The reverse process"]
    assert [page.count(f"{run}: {caption}<") for run in (trained, other) for caption in captions] == [1] * 8
    assert {f"{trained}: alpha", f"{other}: alpha"} <= {*re.findall(r'"label":"([^"]*)"', page)}
    again = ldm_train("explain", f"run_dir={trained}", f"out={tmp_path}/page.html", "steps=2")
    assert again.code == 0, again.err
    assert (tmp_path / "page.html").read_text() != page


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["key=square-limes.png"], "square-lime.png"),
        (["picture=nowhere.png", "prompt=a"], "nowhere.png"),
        (["picture=nowhere.png"], "prompt=…"),
        (["picture=nowhere.png", "key=a"], "key=a"),
        (["out=page.png"], "out=page.html"),
        (["steps=2000"], "steps=2000"),
    ],
    ids=range(6),
)
def test_what_cannot_be_explained_is_refused(
    words: list[str], named: str, ldm_train: Callable, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ldm_train("explain", f"run_dir={trained}", *["out=page.html"] * ("out=page.png" not in words), *words)
    assert answer.code == 1
    assert named in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_kept_no_pictures_needs_a_file(one: Explanation) -> None:
    settings = compose_as(ExplainSettings, ["run_dir=x", "out=x.html"])
    with pytest.raises(ValueError, match="picture=FILE"):
        read_own_picture(settings, one.generation, caches=None, held_out=None)


def test_too_many_runs_and_files_of_others_are_refused(ldm_train: Callable, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    assert "two different ones" in ldm_train("explain", f"run_dir=[{trained},{trained}]", f"out={tmp_path}/new.html").err
    assert "page.html" in ldm_train("explain", f"run_dir={trained}", f"out={tmp_path}/page.html").err
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"page.html": "mine"}


@contextmanager
def conditioned_by_maps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    opened = explanation_module.open_run

    def open_run(settings: ExplainSettings) -> object:
        run = opened(settings)
        run.parts.network.map_channels = 3
        return run

    with monkeypatch.context() as patch:
        patch.setattr(explanation_module, "open_run", open_run)
        yield


def test_a_run_that_is_conditioned_by_maps_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with conditioned_by_maps(monkeypatch), pytest.raises(ValueError, match="maps"):
        explain(trained)


def test_the_page_is_the_same_every_time(one: Explanation, trained: Path) -> None:
    assert render_page(build_explain_page([one])) == render_page(build_explain_page([explain(trained, "seed=3")]))
