"""The page draws what `ldm-train sample` draws, for many browsers that do not see each other's pictures."""

import gc
import shlex
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

if find_spec("gradio") is None:
    pytest.skip("the extra playground is not installed", allow_module_level=True)

from ldm_train.assembly.studio import Cancelled
from ldm_train.commands.playground import page_tokens
from ldm_train.commands.playground.page_tokens import list_prompt_tokens
from ldm_train.commands.playground.playground import Playground
from ldm_train.data.pictures.images import read_png_texts
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings
from ldm_train.settings.shipped import ConfigError

if TYPE_CHECKING:
    from gradio import Blocks

    from ldm_train.commands.playground.page_events import Job, PageEvents
    from ldm_train.commands.playground.page_inputs import PageInputs

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # event loops of gradio

PROMPT = "a black circle on a red background"
QUICK = {"steps": 2}


@pytest.fixture(scope="module")
def playground(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    settings = compose_as(PlaygroundSettings, [f"run_dir={trained}", "device=cpu", "steps=2"])
    made = Playground(settings, tmp_path_factory.mktemp("playground"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(playground: Playground) -> "Blocks":
    """A page that was built; gradio is imported here, and leaves event loops that were never closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        from ldm_train.commands.playground.page_layout import build_page

        made = build_page(playground)
        gc.collect()
    return made


@pytest.fixture(scope="module")
def events(page: "Blocks") -> "PageEvents":
    """The functions behind the page."""
    owners = [getattr(function.fn, "__self__", None) for function in page.fns.values()]
    return next(one for one in owners if type(one).__name__ == "PageEvents")


def browse(name: str) -> SimpleNamespace:
    """The request of a browser."""
    return SimpleNamespace(session_hash=name)


def fill(inputs: "PageInputs", **values: object) -> list[object]:
    """The values of all inputs as the page has them at first, but for some of them."""
    start = {name: getattr(component, "value", None) for name, component in inputs.components.items()}
    assert start.keys() >= values.keys()
    return [*(start | {"prompt": PROMPT} | values).values()]


def draw(events: "PageEvents", browser: str, **values: object) -> list[list[object]]:
    return [*events.draw_one(browse(browser), *fill(events.inputs, **values))]


def test_drawing_previews_each_step_and_ends_with_the_picture(events: "PageEvents") -> None:
    *previews, last = draw(events, "preview")
    assert 1 <= len(previews) <= 2, "a slow reader sees the newest"
    assert "step 2 of 2" in previews[-1][0]
    [entry] = events.playground.sessions.open("preview").entries
    assert entry.path in last[0]
    assert "ldm-train sample" in last[0]
    assert entry.path in last[1]


def test_a_pictures_command_draws_the_same_bytes(
    playground: Playground, events: "PageEvents", ldm_train: Callable, pictures: Path, tmp_path: Path
) -> None:
    """Also from an upload with a mask, with every setting changed."""
    name = playground.uploads.keep((pictures / "circle-red.png").read_bytes())
    changed = {"picture": name, "strength": 0.5, "seed": 3, "first_number": 2, "sampler": "heun", "negative_prompt": "blue"}
    draw(events, "bytes", **changed, **{"guidance.scale": 2.0, "low": 0.1, "high": 5})
    [entry] = playground.sessions.open("bytes").entries
    _, verb, *words = shlex.split(entry.command)
    answer = ldm_train(verb, *[word for word in words if not word.startswith("out=")], f"out={tmp_path}/drawn")
    assert answer.code == 0, answer.err
    path = playground.sessions.find_picture(entry.path)
    assert path.read_bytes() == (tmp_path / "drawn" / "0000.png").read_bytes()
    assert "heun" in read_png_texts(path)["ldm_train"].lower()


def test_four_pictures_have_four_numbers(events: "PageEvents") -> None:
    *_, last = events.draw_four(browse("four"), *fill(events.inputs, first_number=5))
    entries = events.playground.sessions.open("four").entries
    assert [entry.settings["first_number"] for entry in entries] == [5, 6, 7, 8]
    assert all(entry.path in last[0] for entry in entries)
    assert len({events.playground.sessions.find_picture(entry.path).read_bytes() for entry in entries}) == 4


def test_two_settings_are_compared_from_the_same_noise(events: "PageEvents") -> None:
    *_, last = events.compare(browse("compare"), *fill(events.inputs, seed=4), "same", "raw", "same", 1, None)
    one, other = events.playground.sessions.open("compare").entries
    assert one.settings | {"weights": "raw", "steps": 1} == other.settings
    assert "this: " in last[0]
    assert "the other: " in last[0]


def test_pictures_between_two_are_those_of_the_command(events: "PageEvents", ldm_train: Callable, tmp_path: Path) -> None:
    for seed, prompt in ((1, PROMPT), (2, "a square, blue")):
        draw(events, "between", seed=seed, prompt=prompt)
    result = events.interpolate(1, 2, 3, browse("between"))
    entries = events.playground.sessions.open("between").entries[2:]
    assert len(entries) == 3
    assert all(entry.path in result[0] for entry in entries)
    _, verb, *words = shlex.split(entries[0].command)
    assert ldm_train(verb, *[word for word in words if not word.startswith("out=")], f"out={tmp_path}/drawn").code == 0
    for place, entry in enumerate(entries):
        content = events.playground.sessions.find_picture(entry.path).read_bytes()
        assert content == (tmp_path / "drawn" / f"{place:04d}.png").read_bytes()


def test_pictures_between_two_are_no_settings_to_restore_or_to_start_from(events: "PageEvents") -> None:
    draw(events, "way", seed=1, attention=True, steps=1)
    draw(events, "way", seed=2, steps=1)
    result, _, *ends = events.interpolate(1, 2, 2, browse("way"))
    third = events.playground.sessions.open("way").entries[2]
    assert third.attention is None
    assert [[number for _, number in end["choices"]] for end in ends] == [[1, 2]] * 2
    result, *updates = events.restore(browse("way"), SimpleNamespace(entry=3))
    assert third.path in result
    assert all("value" not in update for update in updates)
    assert "picture 3" in events.interpolate(1, 3, 2, browse("way"))[0]
    assert len(events.playground.sessions.open("way").entries) == 4


def test_an_interpolation_begins_from_a_picture_too(
    events: "PageEvents", playground: Playground, pictures: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    name = playground.uploads.keep((pictures / "circle-red.png").read_bytes())
    for seed in (1, 2):
        draw(events, "from", seed=seed, picture=name, strength=0.5)
    events.interpolate(1, 2, 2, browse("from"))
    one, *_ = playground.sessions.open("from").entries[2:]
    _, verb, *words = shlex.split(one.command)
    assert ldm_train(verb, *[word for word in words if not word.startswith("out=")], f"out={tmp_path}/drawn").code == 0
    assert playground.sessions.find_picture(one.path).read_bytes() == (tmp_path / "drawn" / "0000.png").read_bytes()


def test_an_interpolation_needs_one_picture_number(events: "PageEvents") -> None:
    for number in (0, 1):
        draw(events, "numbers", first_number=number, steps=1)
    assert "picture number" in events.interpolate(1, 2, 2, browse("numbers"))[0]
    assert len(events.playground.sessions.open("numbers").entries) == 2


def test_cancel_ends_an_interpolation(events: "PageEvents", monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 2):
        draw(events, "ended", seed=seed)
    studio = events.playground.studios[events.playground.first]
    interpolate = studio.interpolate

    def cancel_first(*given: object, **named: object) -> object:
        events.cancel(browse("ended"))
        return interpolate(*given, **named)

    monkeypatch.setattr(studio, "interpolate", cancel_first)
    assert "cancelled" in events.interpolate(1, 2, 2, browse("ended"))[0]
    assert len(events.playground.sessions.open("ended").entries) == 2


@pytest.mark.parametrize(("low", "high"), [("0.5", ""), ("", "5")])
def test_either_end_of_the_noise_levels_may_be_left_empty(
    low: str, high: str, events: "PageEvents", ldm_train: Callable, tmp_path: Path
) -> None:
    *_, last = draw(events, f"levels{low}", low=low, high=high, **{"guidance.scale": 3})
    assert 'class="problem"' not in last[0], last[0]
    [entry] = events.playground.sessions.open(f"levels{low}").entries
    _, verb, *words = shlex.split(entry.command)
    assert ldm_train(verb, *[word for word in words if not word.startswith("out=")], f"out={tmp_path}/drawn").code == 0
    assert events.playground.sessions.find_picture(entry.path).read_bytes() == (tmp_path / "drawn" / "0000.png").read_bytes()
    written = events.inputs.write(entry.run, entry.prompt, entry.settings)
    assert [written["low"], written["high"]] == [float(low or 0), float(high) if high else None]


def test_a_comparison_with_another_run_has_the_inputs_of_that_run(
    events: "PageEvents", monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = events.playground.choices
    monkeypatch.setitem(choices, "other", replace(choices[events.playground.first], numbers={"age": None}))
    monkeypatch.setitem(events.inputs.components, "number.age", events.inputs.components["seed"])
    jobs: list[Job] = []

    def keep(request: object, list_jobs: Callable[[], list["Job"]], render: object) -> Iterator[list[object]]:
        jobs.extend(list_jobs())
        yield []

    monkeypatch.setattr(events, "stream", keep)
    values = fill(events.inputs, **{"number.age": 30})
    [*events.compare(browse("runs"), *values, "other", "same", "same", None, None)]
    assert [job.run for job in jobs] == [events.playground.first, "other"]
    assert ["number.age" in job.settings for job in jobs] == [False, True]


def test_a_picture_of_the_history_restores_every_setting(
    events: "PageEvents", playground: Playground, pictures: Path
) -> None:
    name = playground.uploads.keep((pictures / "circle-red.png").read_bytes())
    given = {"picture": name, "mask": name, "strength": 0.5, "seed": 9, "height": 16, "width": 32, "low": 1, "high": 2}
    values = fill(events.inputs, **given, sampler="heun")
    run, prompt, settings = events.inputs.read(values)
    written = events.inputs.write(run, prompt, settings)
    assert events.inputs.read([*written.values()]) == (run, prompt, settings)
    assert {name: written[name] for name in given} == given
    draw(events, "history", seed=7)
    draw(events, "history")
    result, *updates = events.restore(browse("history"), SimpleNamespace(entry=1))
    found = dict(zip(events.inputs.components, updates, strict=True))
    assert found["seed"]["value"] == 7
    assert found["prompt"]["value"] == PROMPT
    assert "picture 1" in result


def test_browsers_do_not_see_each_other(events: "PageEvents") -> None:
    *_, last = draw(events, "first", prompt="a secret")
    *_, other = draw(events, "second")
    assert "secret" in last[1]
    assert "secret" not in str(other)
    result, *_ = events.restore(browse("third"), SimpleNamespace(entry=1))
    assert "no picture 1" in result
    folders = {events.playground.sessions.open(name).key for name in ("first", "second", "third")}
    assert len(folders) == 3


def test_what_cannot_be_drawn_is_a_message_and_the_next_one_is_drawn(events: "PageEvents") -> None:
    for wrong in (
        {"height": 3},
        {"picture": "../../etc/passwd"},
        {"run": "/etc"},
        {"prompt": "x" * 30_000},
        {"seed": "seven"},
        {"prompt": "${oc.env:HOME}"},
    ):
        *_, last = draw(events, "wrong", **wrong)
        assert 'class="problem"' in last[0], wrong
    assert events.playground.sessions.open("wrong").entries == []
    assert "picture 1" in draw(events, "wrong")[-1][0]


def test_a_prompt_is_a_text_whatever_is_in_it(events: "PageEvents") -> None:
    prompt = "<b>$HOME {{value}}</b> --s 9, 'x' \"y\" /etc/passwd"
    *_, last = draw(events, "hostile", prompt=prompt)
    assert events.playground.sessions.open("hostile").entries[0].prompt == prompt
    assert "<b>" not in last[0]
    assert "${" not in str(last)


def test_cancelling_ends_a_drawing_and_leaves_the_others(playground: Playground, events: "PageEvents") -> None:
    session, stop = playground.sessions.open("cancel"), threading.Event()
    with pytest.raises(Cancelled):
        playground.draw(session, playground.first, PROMPT, QUICK, on_step=lambda *_: stop.set(), should_stop=stop.is_set)
    assert session.entries == []
    running = events.draw_one(browse("cancel"), *fill(events.inputs, steps=500))
    assert "step" in next(running)[0]
    events.cancel(browse("cancel"))
    assert "cancelled" in [*running][-1][0]
    running = events.draw_one(browse("cancel"), *fill(events.inputs, steps=500))
    next(running)
    running.close()  # as when a browser leaves
    assert not [thread for thread in threading.enumerate() if thread.name == "drawing"]
    assert "picture 1" in draw(events, "cancel")[-1][0]


def test_all_is_written_below_the_folder(playground: Playground) -> None:
    folder = playground.sessions.folder.parent
    assert {path.name for path in folder.iterdir()} <= {"uploads", "pictures"}


def test_programs_draw_with_the_same_settings(events: "PageEvents", playground: Playground) -> None:
    from gradio import Error

    found = events.draw_by_api(PROMPT, {"steps": 1, "seed": 3}, "", browse("program"))
    assert found["picture"] == f"/pictures/{playground.sessions.open('program').entries[0].path}"
    assert "seed=3" in str(found["command"])
    for wrong in ({"out": "/tmp/x"}, {"sampler": "none"}):
        with pytest.raises(Error):
            events.draw_by_api(PROMPT, wrong, "", browse("program"))


def test_programs_get_the_notes_that_the_page_shows(events: "PageEvents") -> None:
    found = events.draw_by_api("a red zebra " + "red " * 100, {"steps": 1}, "", browse("notes"))
    assert isinstance(found["messages"], list)
    assert any("never trained" in line and "zebra" in line for line in found["messages"])
    assert any(line.startswith("cut") for line in found["messages"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"settings": [1]}, "settings=[1]"),
        ({"settings": "steps"}, "settings=steps"),
        ({"settings": 3}, "settings=3"),
        ({"run": ["x"]}, "run=['x']"),
        ({"prompt": "a \ud800 b"}, "prompt has"),
        ({"settings": {"steps": 1001}}, "1000"),
        ({"settings": {"\ud800": 1}}, "\\ud800"),
    ],
)
def test_what_programs_get_wrong_is_said(given: dict[str, object], words: str, events: "PageEvents") -> None:
    from gradio import Error

    with pytest.raises(Error) as caught:
        events.draw_by_api(**{"prompt": PROMPT, "request": browse("wrong program")} | given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert str(caught.value).encode()
    assert not caught.value.print_exception


def test_a_program_that_left_ends_its_drawing(events: "PageEvents", monkeypatch: pytest.MonkeyPatch) -> None:
    from gradio import Error
    from gradio.context import LocalContext

    event = SimpleNamespace(alive=True)
    LocalContext.event_id.set("event")
    LocalContext.blocks.set(SimpleNamespace(_queue=SimpleNamespace(event_ids_to_events={"event": event})))  # type: ignore[arg-type]
    assert events.draw_by_api(PROMPT, {"steps": 1}, "", browse("gone"))["step"]
    event.alive = False
    with pytest.raises(Error, match="cancelled"):
        events.draw_by_api(PROMPT, {"steps": 1}, "", browse("gone"))
    assert len(events.playground.sessions.open("gone").entries) == 1


def test_the_end_of_the_playground_ends_drawings(playground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playground, "_over", threading.Event())
    session = playground.sessions.open("end")
    assert playground.is_idle(0)
    with pytest.raises(Cancelled):
        playground.draw(session, playground.first, PROMPT, QUICK, on_step=lambda *_: playground.close())
    with pytest.raises(Cancelled):
        playground.draw(session, playground.first, PROMPT, QUICK)
    assert session.entries == []


@pytest.mark.parametrize("maps", ["[1]", "7", "{"])
def test_maps_that_are_no_names_are_said(maps: str, events: "PageEvents") -> None:
    *_, last = draw(events, "maps", maps=maps)
    assert 'class="problem"' in last[0]
    assert "AssertionError" not in last[0]


@pytest.mark.parametrize("count", [1, 10, None, 2.5])
def test_an_interpolation_has_a_number_of_pictures(count: object, events: "PageEvents") -> None:
    for seed in (1, 2):
        draw(events, f"count{count}", seed=seed, steps=1)
    assert "count=" in events.interpolate(1, 2, count, browse(f"count{count}"))[0]


def test_captions_of_the_run_are_offered_as_prompts(page: "Blocks", playground: Playground) -> None:
    [dataset] = [one for one in page.get_config_file()["components"] if one["type"] == "dataset"]
    offered = [text for [text] in dataset["props"]["samples"]]
    assert 1 <= len(offered) <= 4
    for text in offered:
        found = playground.list_tokens(playground.first, text)
        assert found is not None
        assert all(token.learned for token in found.tokens)


def test_the_page_shows_the_runs_inputs_and_one_function_to_programs(page: "Blocks", trained: Path) -> None:
    labels = [component.get("props", {}).get("label") for component in page.get_config_file()["components"]]
    for label in ("prompt", "negative prompt", "seed", "steps", "sampler", "guidance scale", "rescale", "weights"):
        assert label in labels
    assert [*page.get_api_info()["named_endpoints"]] == ["/draw"]
    assert str(trained) in str(page.get_config_file()["components"])


def test_a_new_checkpoint_is_drawn_with_and_a_broken_one_is_not(
    playground: Playground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studio = playground.studios[playground.first]
    monkeypatch.setitem(playground.steps, playground.first, 1)
    damaged = ValueError("it is damaged")
    faults = [(damaged, True), (damaged, False)]  # of one file, which is reported once
    for error, reported in [*faults, (None, False)]:
        step = studio.step if error is None else 1

        def refresh(error: Exception | None = error) -> bool:
            if error is not None:
                raise error
            return True

        monkeypatch.setattr(studio, "refresh", refresh)
        playground.refresh(playground.first)
        assert playground.steps[playground.first] == step
        assert ("it is damaged" in capsys.readouterr().out) is reported
    for other in (ConfigError("of another version"), RuntimeError("out of memory")):

        def fail(error: Exception = other) -> bool:
            raise error

        monkeypatch.setattr(studio, "refresh", fail)
        playground.refresh(playground.first)


def test_prompts_tokens_are_listed_with_those_that_were_never_trained(
    playground: Playground, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = playground.list_tokens(playground.first, "a red zebra")
    assert found is not None
    learned = {token.text: token.learned for token in found.tokens}
    assert learned["red"] is True
    assert learned["zebra"] is False
    monkeypatch.setattr(page_tokens, "_learned", {})
    trained = playground.studios[playground.first].trained
    elsewhere = replace(trained, config=trained.config.with_values(run_dir="moved away"))
    again = list_prompt_tokens(elsewhere, "a red zebra")
    assert again == found, "the settings that are loaded count, not the run's folder"
    long = playground.list_tokens(playground.first, "red " * 100)
    assert long is not None
    assert [token.kept for token in long.tokens].count(True) == long.capacity
