"""`ldm-train sample` without prompts, in a terminal: lines that are prompts, lines that are settings, mistakes."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.commands.sample.line_history import keeping_history, locate_history
from ldm_train.commands.sample.prompt_line import read_typed_line, run_prompt_line
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings

SLOW = 240


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for state, so that no test writes the user's history."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def type_lines(trained: Path, out: Path, capsys: pytest.CaptureFixture) -> Callable[..., list[str]]:
    """`type_lines(*lines)`: what is printed after each; a line may be an exception that typing it raises."""

    def run(*lines: str | type[BaseException]) -> list[str]:
        printed, waiting = list[str](), iter([*lines, EOFError])

        def read(shown: str) -> str:
            printed.append(capsys.readouterr().out)
            line = next(waiting)
            if isinstance(line, str):
                return line
            raise line

        run_prompt_line(compose_as(SampleSettings, [f"run_dir={trained}", f"out={out}", "device=cpu", "steps=2"]), read)
        return [*printed[1:], capsys.readouterr().out]

    return run


def read_metadata(path: Path) -> dict:
    return json.loads(Image.open(path).text["ldm_train"])  # type: ignore[attr-defined]


def test_each_prompt_is_drawn_and_its_path_printed(
    type_lines: Callable, out: Path, ldm_train: Callable, trained: Path
) -> None:
    first, second, end = type_lines("a black circle", "a cat --d 7 steps=1")
    assert str(out / "0000.png") in first
    assert str(out / "0001.png") in second
    assert "2 pictures" in end
    words = [f"run_dir={trained}", "device=cpu", "steps=2", "prompts=a black circle"]
    assert ldm_train("sample", *words, f"out={out.parent / 'command'}").code == 0
    assert (out / "0000.png").read_bytes() == (out.parent / "command" / "0000.png").read_bytes()
    again = type_lines("a fox")
    assert str(out / "0002.png") in again[0]
    assert (out / "prompts.txt").read_text().splitlines() == ["a black circle", "a cat --d 7", "a fox"]


def test_settings_stay_until_they_are_changed(type_lines: Callable, out: Path) -> None:
    type_lines("steps=3 sampler=euler negative_prompt=a bad one", "a", "b steps=1", "c", "sampler=ddim sampler.eta=0.5", "d")
    found = [read_metadata(out / f"{number:04d}.png") for number in range(4)]
    assert [one["steps"] for one in found] == [3, 1, 3, 3]
    assert {one["negative_prompt"] for one in found} == {"a bad one"}
    names = [one["sampler"]["_target_"].rpartition(".")[2] for one in found]
    assert names == ["Euler", "Euler", "Euler", "DDIM"]
    assert found[3]["sampler"]["eta"] == 0.5


def test_a_wrong_line_is_answered_and_nothing_is_lost(type_lines: Callable, out: Path) -> None:
    lines = [
        "steps=3",
        "stepps=4",
        "seed=5 steps=none",
        "a fox --q 3",
        "a fox steps=0",
        "mask=a.png",
        "a fox",
        "mask=null",
        "a",
    ]
    answers = type_lines(*lines)
    for number, words in {
        1: ["stepps", "'steps'"],
        2: ["steps=none"],
        3: ["--q"],
        4: ["steps=0"],
        6: ["mask=a.png"],
    }.items():
        assert all(word in answers[number] for word in words), answers[number]
    assert sorted(path.name for path in out.glob("0*.png")) == ["0000.png"]
    made = read_metadata(out / "0000.png")
    assert (made["steps"], made["seed"], made["prompt"]) == (3, 0, "a")


def test_the_settings_are_listed_as_they_can_be_typed(type_lines: Callable) -> None:
    listed = type_lines("steps=7 guidance.scale=2", "?")[1].splitlines()
    changed = [line.removeprefix("*").strip() for line in listed if line.startswith("*")]
    assert changed == ["steps=7", "guidance.scale=2.0"] or sorted(changed) == ["guidance.scale=2.0", "steps=7"]
    plain = {line[1:].strip() for line in listed}
    assert {"seed=0", "sampler=ddim", "guidance=classifier_free"} <= plain
    assert not any(line.startswith(("out=", "prompts=", "x=")) for line in plain)


def test_options_of_a_prompt_may_follow_settings(type_lines: Callable, out: Path) -> None:
    type_lines("a cat steps=1 --d 7")
    [path] = out.glob("0*.png")
    found = read_metadata(path)
    assert (found["prompt"], found["steps"], found["seed"]) == ("a cat", 1, 7)


def test_enter_alone_does_not_repeat_what_was_wrong(type_lines: Callable, out: Path) -> None:
    type_lines("a cat", "a dog steps=x", "")
    assert [read_metadata(path)["prompt"] for path in sorted(out.glob("0*.png"))] == ["a cat", "a cat"]


def test_enter_alone_draws_the_last_prompt_from_other_noise(type_lines: Callable, out: Path) -> None:
    answers = type_lines("", "a cat count=2", "", "a cat")
    assert answers[0] == ""
    found = [read_metadata(path) for path in sorted(out.glob("0*.png"))]
    assert [(one["prompt"], one["number"]) for one in found] == [("a cat", number) for number in (0, 1, 2, 3, 0)]


def test_ctrl_c_ends_a_line_or_a_drawing_only(
    type_lines: Callable, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from ldm_train.samplers.ddim import DDIM

    step, calls = DDIM.step, list[int]()

    def interrupted(self: DDIM, *arguments: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(DDIM, "step", interrupted)
    answers = type_lines(KeyboardInterrupt, "sampler=ddim", "a cat", "a cat")
    assert "cancelled" in answers[2]
    assert str(out / "0000.png") in answers[3]


@pytest.mark.parametrize(
    ("line", "prompt", "words"),
    [
        ("a fox", "a fox", []),
        ("steps=3", None, ["steps=3"]),
        ("negative_prompt=a b c seed=5", None, ["negative_prompt=a b c", "seed=5"]),
        ("a fox in the snow steps=3 guidance.scale=2", "a fox in the snow", ["steps=3", "guidance.scale=2"]),
        ("a fox steps=3 --d 7", "a fox", ["steps=3"]),
        ("a fox steps=3 --d 7 size=[16,32] --n red cats", "a fox", ["steps=3", "size=[16,32]"]),
        ('a fox negative_prompt="a --d 7"', "a fox", ['negative_prompt="a --d 7"']),
        ('"x=1" steps=3 --d 7', "x=1", ["steps=3"]),
        ('"x --d 1" --d 7', "x --d 1", []),
        ('"a = b x=1"', "a = b x=1", []),
        ('"x=1" seed=3', "x=1", ["seed=3"]),
        ('"hello" said the fox', '"hello" said the fox', []),
        ("1=2 a = b", "1=2 a = b", []),
        ("size=[16,32]", None, ["size=[16,32]"]),
    ],
)
def test_a_line_is_a_prompt_or_settings_or_both(line: str, prompt: str | None, words: list[str]) -> None:
    typed = read_typed_line(line)
    assert (None if typed.prompt is None else typed.prompt.text, typed.words) == (prompt, words)


def test_without_a_terminal_prompts_are_missing(ldm_train: Callable, out: Path) -> None:
    answer = ldm_train("sample", "run_dir=none", f"out={out}")
    assert answer.code == 2
    assert "prompts=" in answer.err
    assert not out.exists()


def test_the_history_is_kept_if_it_can_be(state: Path) -> None:
    readline = pytest.importorskip("readline")
    readline.clear_history()
    with keeping_history():
        readline.add_history("a red apple")
    readline.clear_history()
    with keeping_history():
        assert readline.get_history_item(1) == "a red apple"
    readline.clear_history()
    locate_history().unlink()
    state.joinpath("ldm-train").rmdir()
    state.joinpath("ldm-train").write_text("a file where the folder would be")
    with keeping_history():
        pass


@pytest.mark.slow
def test_a_terminal_is_answered(trained: Path, out: Path) -> None:
    """Typed through a pseudo-terminal: a prompt, a setting, a line that Ctrl-C ends, the last line again, and Ctrl-D."""
    controller, terminal = os.openpty()
    lead = "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from ldm_train.cli.main import main; main()"
    words = ["sample", f"run_dir={trained}", f"out={out}", "device=cpu", "steps=2"]
    process = subprocess.Popen(
        [sys.executable, "-c", lead, *words], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    read = bytearray()

    def wait_for(text: bytes, *, after: int) -> int:
        end = time.monotonic() + SLOW
        while text not in read[after:]:
            assert time.monotonic() < end, read.decode(errors="replace")
            if select.select([controller], [], [], 1)[0]:
                read.extend(os.read(controller, 4096))
        return read.index(text, after) + len(text)

    try:
        place = wait_for(b"> ", after=0)
        for typed, expected in [
            (b"a cat\r", [b"0000.png", b"> "]),
            (b"steps=1\r", [b"now steps=1", b"> "]),
            (b"half a li", [b"half a li"]),
            (b"\x03", [b"> "]),
            (b"a dog\r", [b"0001.png", b"> "]),
            (b"\x1b[A\r", [b"0002.png", b"> "]),
        ]:
            time.sleep(0.2)
            os.write(controller, typed)
            for text in expected:
                place = wait_for(text, after=place)
        os.write(controller, b"\x04")
        wait_for(b"3 pictures", after=place)
        assert process.wait(SLOW) == 0
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(controller)
    assert (out / "prompts.txt").read_text().splitlines() == ["a cat", "a dog", "a dog"]
    assert b"Traceback" not in read
