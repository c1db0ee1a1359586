"""Browsers choose among a few settings; what names a file, a class or another run is refused."""

from pathlib import Path

import pytest

from ldm_train.assembly.studio_choices import Choices
from ldm_train.commands.playground.page_tokens import PromptToken, PromptTokens
from ldm_train.commands.playground.requested_settings import read_request
from ldm_train.commands.playground.result_html import render_history, render_message, render_result
from ldm_train.commands.playground.sessions import HistoryEntry
from ldm_train.commands.playground.uploads import Uploads
from ldm_train.util.messages import Caution

CHOICES = Choices(
    ["ddim", "heun"], ["linear"], ["classifier_free"], ["scale"], (16, 16), 4, {"age": (0, 9)}, ["depth"], False, True, ()
)
HOSTILE = """<img src=x onerror=alert(1)>${alert(2)}{{value}}</p>"'"""


def read(settings: dict[str, object], folder: Path = Path("nowhere")) -> dict[str, object]:
    return read_request(settings, CHOICES, ["lora"], Uploads(folder))


def test_values_are_read_and_empty_ones_left_to_the_run() -> None:
    given = {
        "steps": 3.0,
        "sampler": "heun",
        "guidance.scale": 2,
        "guidance.interval": [0, 5],
        "size": [16.0, 24],
        "seed": -1,
    }
    given |= {"negative_prompt": "blurry", "number.age": 3, "adapters": {"lora": 0.5}, "attention": True, "spacing": None}
    assert read(given | {"weights": "", "strength": None}) == {
        **{name: value for name, value in given.items() if value is not None},
        "size": [16, 24],
    }


def test_an_interval_of_noise_levels_may_have_no_upper_end() -> None:
    assert read({"guidance.interval": [0.5, None]}) == {"guidance.interval": [0.5, float("inf")]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_dir", "/etc"),
        ("out", "/tmp/x"),
        ("device", "cuda"),
        ("embeddings", ["/etc/passwd"]),
        ("moved", {"a": "b"}),
        ("guidance.weak", "/run"),
        ("sampler._target_", "os.system"),
        ("trust", "os"),
        ("map.other", "x"),
        ("number.other", 1),
        ("sampler", {"_target_": "os.system"}),
        ("sampler", "euler"),
        ("weights", "/etc/passwd.safetensors"),
        ("picture", "/etc/passwd"),
        ("picture", ["x"]),
        ("mask", "../../x.png"),
        ("map.depth", "/etc/passwd"),
        ("adapters", {"/etc/passwd": 1}),
        ("adapters", {"lora": "${oc.env:HOME}"}),
        ("seed", "${oc.env:HOME}"),
        ("seed", 1.5),
        ("steps", 100_000),
        ("steps", True),
        ("size", [16]),
        ("size", [99_999, 16]),
        ("guidance.interval", [None, 2]),
        ("guidance.scale", float("nan")),
        ("number.age", "30"),
        ("attention", "true"),
        ("negative_prompt", "x" * 30_000),
        ("negative_prompt", {"a": 1}),
    ],
)
def test_what_is_no_choice_of_the_page_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name.split(".")[0]):
        read({name: value})


def test_files_are_found_by_the_names_of_uploads(tmp_path: Path) -> None:
    name = "a" * 22 + ".png"
    (tmp_path / name).write_bytes(b"")
    assert read({"picture": name, "map.depth": name}, tmp_path) == {
        "picture": str(tmp_path / name),
        "map.depth": str(tmp_path / name),
    }


def test_every_text_on_the_page_is_escaped() -> None:
    entry = HistoryEntry(
        1, f"{'k' * 22}/00001.png", HOSTILE, HOSTILE, {}, HOSTILE, 0.1, 1, (HOSTILE, Caution(HOSTILE)), None
    )
    tokens = PromptTokens([PromptToken(HOSTILE, 1, True, False), PromptToken(HOSTILE, 2, False, None)], 1)
    for text in (render_result(entry, tokens), render_history([entry]), render_message(HOSTILE, HOSTILE)):
        assert "alert" in text
        assert "<img src=x" not in text
        assert "${" not in text
        assert "{{" not in text
        assert "\"'" not in text


def test_words_that_are_cut_or_were_never_trained_are_marked() -> None:
    entry = HistoryEntry(1, "k/1.png", "run", "a fox", {}, "ldm-train sample", 0.1, 1)
    tokens = [PromptToken("a", 1, True, True), PromptToken("zebra", 2, True, False), PromptToken("lost", 3, False, None)]
    text = render_result(entry, PromptTokens(tokens, 2))
    assert "only 2 tokens are read: lost" in text
    assert "never trained: zebra" in text
    assert "caution" not in render_result(entry, PromptTokens(tokens[:1], 2))
