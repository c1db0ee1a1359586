"""Run directories whose files are damaged: a message names the file, and the other runs are shown all the same."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ldm_train.settings.safe_yaml import read_settings_file
from ldm_train.util.safe_json import parse_json, read_json
from tests.run_dir.run_directories import write_run

HUGE = "9" * 400
LONG = "9" * 5000
DEEP = "[" * 100_000
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
TEXTS = {
    "many digits": f"max_steps: {HUGE}\n",
    "more digits than Python reads": f"max_steps: {LONG}\n",
    "an exponent too large": "max_steps: 1e999\n",
    "flow nested deeply": f"max_steps: {DEEP}\n",
    "block nested deeply": "".join(f"{' ' * i}a:\n" for i in range(1000)) + "max_steps: 1\n",
    "aliases of aliases": f"{ALIASES}max_steps: 1\n",
    "an alias of itself": "a: &a [*a]\nmax_steps: 1\n",
    "cut": "max_steps: [1",
    "binary": "\x00\x01\x02",
    "a list": "- max_steps\n",
    "a word": "max_steps\n",
    "nothing": "",
    "a tag": "max_steps: !!python/object/apply:os.system [touch canary]\n",
    "a path": "max_steps: 1\na: !!python/object/apply:pathlib.PosixPath [x]\n",
    "the environment": "max_steps: 1\na: ${oc.env:HOME}\n",
    "twice the same": "max_steps: 1\nmax_steps: 2\n",
    "too long": "max_steps: 1\na: " + "x" * 2**20,
    "a number that is written in one word": "max_steps: 1\na: 0x" + "f" * 4000,
}


@pytest.mark.parametrize("damage", TEXTS)
def test_damaged_yaml_is_a_message_with_its_file(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXTS[damage])
    if damage in ("nothing", "a word"):
        read_settings_file(path)
        return
    with pytest.raises(ValueError, match=r"config\.yaml") as error:
        read_settings_file(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    "text", ["max_steps: 0x" + "f" * 16, "a: .inf", "a: 1_000", "a: &x [1]\nb: *x", "a: 1:30", "a: -1.5e3"]
)
def test_ordinary_yaml_is_read_as_it_was(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert read_settings_file(tmp_path / "config.yaml") == OmegaConf.load(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", [f"[{HUGE}]", f"[{LONG}]", "[1e999]", "[-1e999]", DEEP, '{"a":' * 50_000, "{", "\x00", ""])
def test_damaged_json_is_a_message_with_its_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        read_json(tmp_path / "run.json")


def test_numbers_that_fit_are_read() -> None:
    assert parse_json(f"[{2**64}, -1, 1e308, 1.5, true]") == [2**64, -1, 1e308, 1.5, True]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"run\.json.*named pipe.*regular"):
        read_json(tmp_path / "run.json")


ODD = ["1e999", HUGE, LONG, "NaN", "-Infinity", "null", "true", '"x"', "[]", "{}", '{"a":' * 20_000, "9" * 19, "-1", "0.5"]
LINES = {
    "metrics.jsonl": '{{"step": {0}, "loss": 1.0}}\n'
    '{{"step": 5, "loss": {0}, "validation_loss": {0}, "metrics/kid_x": {0}}}\n{0}\n',
    "timing.jsonl": '{{"step": {0}}}\n{{"step": 5, "samples_per_second": {0}, "share_pictures": {0}}}\n',
    "validation.jsonl": '{{"step": 5, "weights": {0}, "edges": [{0}, 1, 2], "loss": [1, {0}], "loss_low": {0}}}\n'
    '{{"step": 9, "weights": "ema", "edges": {0}, "loss": {0}}}\n',
    "set_metrics.jsonl": '{{"step": 5, "pictures": {0}, "features": {0}, "rank_deficient": {0}}}\n',
    "run.json": '{{"content": {0}, "starts": [{{"command": {0}, "time": {0}, "ended": {0}, "machine": {0}, "git": {0}, '
    '"packages": {0}}}, {{"command": "x", "time": "0001-01-01T00:00:00", "ended": {{"as": {0}, "step": {0}, "time": {0}}}, '
    '"git": {{"ldm_train": {0}}}}}]}}',
    "evaluations/x.json": '{{"kind": "evaluation", "command": {0}, "a": {0}, '
    '"rows": [{{"b": {0}}}], "intervals": {{"a": [{0}, {0}]}}}}',
    "samples/prompts.json": '{{"prompts": {0}, "guidance": {0}}}',
    "nonfinite/step-00000009-rank-0.json": '{{"step": {0}, "examples": [{0}]}}',
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.slow
def test_a_damaged_record_never_hides_the_rest(name: str, ldm_train: Callable, tmp_path: Path) -> None:
    """Of each file, every odd value at every place in it: a run for each."""
    write_run(tmp_path / "runs" / "whole")
    for number, odd in enumerate(ODD):
        run = tmp_path / "runs" / f"odd-{number}"
        shutil.copytree(tmp_path / "runs" / "whole", run)
        (run / name).write_text(LINES[name].format(odd))
    for form in ("table", "json"):
        listed = ldm_train("runs", tmp_path / "runs", f"format={form}")
        assert listed.code == 0, listed.err
        assert all(f"odd-{number}" in listed.out + listed.err for number in range(len(ODD)))
    every = ",".join(str(path) for path in sorted((tmp_path / "runs").iterdir()))
    reported = ldm_train("report", f"run_dir=[{every}]", f"out={tmp_path}/page.html")
    assert reported.code == 0, reported.err
    for number in (0, 3, 5):
        one = ldm_train("report", f"run_dir={tmp_path}/runs/odd-{number}", f"out={tmp_path}/one.html")
        assert one.code == 0, one.err


def test_damaged_configs_hide_no_other_run(ldm_train: Callable, tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "whole")
    for number, text in enumerate(TEXTS.values()):
        run = tmp_path / "runs" / f"odd-{number}"
        shutil.copytree(tmp_path / "runs" / "whole", run)
        (run / "config.yaml").write_text(text)
    listed = ldm_train("runs", tmp_path / "runs")
    assert listed.code == 0
    assert "whole" in listed.out
    assert all(f"odd-{number}" in listed.out + listed.err for number in range(len(TEXTS)))
    every = ",".join(str(path) for path in sorted((tmp_path / "runs").iterdir()))
    reported = ldm_train("report", f"run_dir=[{every}]", f"out={tmp_path}/page.html")
    assert reported.code == 0
    assert "odd-0/config.yaml" in reported.err
    assert "odd-0/config.yaml" in (tmp_path / "page.html").read_text()
    alone = ldm_train("report", f"run_dir={tmp_path}/runs/odd-0", f"out={tmp_path}/one.html")
    assert alone.code == 1
    assert not (tmp_path / "one.html").exists()


SETTINGS = [
    ("image_size", "large"),
    ("image_size", -1),
    ("image_size", None),
    ("network", 5),
    ("network", None),
    ("network.channels", 7),
    ("network.channels", ["a", None]),
    ("network.weights", {"a": 1}),
    ("autoencoder", None),
    ("text_encoder", [1]),
    ("text_encoder.width", "x"),
    ("schedule", {}),
    ("prediction._target_", 5),
    ("spacing", "trailing"),
    ("guidance.scale", "x"),
    ("guidance.scale", 10**15),
    ("weighting", None),
    ("adapter", {"rank": "x"}),
    ("trained", 5),
    ("evaluation", []),
    ("cache", {"a": 1}),
]


@pytest.mark.parametrize(("name", "value"), SETTINGS)
@pytest.mark.slow
def test_a_config_of_other_values_is_a_message(
    name: str, value: object, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, name, value, merge=False)
    OmegaConf.save(config, run / "config.yaml")
    for words in (
        ["sample", "prompts=[x]", f"out={tmp_path}/out", "steps=2"],
        ["evaluate", f"out={tmp_path}/out.json", "features=null"],
        ["export", f"out={tmp_path}/out.safetensors"],
        ["export", f"out={tmp_path}/pipeline", "layout=diffusers"],
    ):
        answer = ldm_train(words[0], f"run_dir={run}", *words[1:])  # raises where there is a traceback
        assert answer.code in (0, 1, 2), answer.err


@pytest.mark.parametrize("damage", [name for name in TEXTS if name != "a word"])
def test_a_damaged_config_ends_what_needs_it_in_a_message(
    damage: str, trained: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "config.yaml").write_text(TEXTS[damage])
    for words in (["sample", "prompts=[x]", f"out={tmp_path}/out"], ["export", f"out={tmp_path}/out.safetensors"]):
        answer = ldm_train(words[0], f"run_dir={run}", *words[1:])
        assert answer.code == 1
        assert "config.yaml" in answer.err
        assert not (tmp_path / "out").exists()


EXTREME = {
    "metrics.jsonl": '{"step": 1, "loss": 1e308, "validation_loss": -1e308, "metrics/kid_x": 1e308}\n'
    '{"step": 2, "loss": -1e308, "validation_loss": 5e-324, "metrics/kid_x": -1e308}\n'
    '{"step": 9007199254740991, "loss": 1, "validation_loss": 1e308, "metrics/kid_x": 0}\n',
    "timing.jsonl": '{"step": 1, "samples_per_second": -1e308}\n{"step": 2, "samples_per_second": 1e308}\n',
    "validation.jsonl": '{"step": 1, "weights": "ema", "edges": [-1e308, 0, 1e308], "loss": [-1e308, 1e308]}\n'
    '{"step": 2, "weights": "ema", "edges": [0, 5e-324, 1], "loss": [NaN, 1e308]}\n',
}


@pytest.mark.parametrize("name", EXTREME)
def test_numbers_at_the_ends_of_the_range_are_drawn_or_left_out(name: str, ldm_train: Callable, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "run")
    (run / name).write_text(EXTREME[name])
    assert ldm_train("runs", tmp_path / "runs").code == 0
    reported = ldm_train("report", f"run_dir={run}", f"out={tmp_path}/page.html")
    assert reported.code == 0, reported.err


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_what_does_not_fit_into_memory_is_a_message(
    error: Exception, ldm_train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(config: object) -> None:
        raise error

    monkeypatch.setattr("ldm_train.commands.runs.command.run", fail)
    answer = ldm_train("runs", tmp_path)
    assert answer.code == 1
    assert (str(error) or "MemoryError") in answer.err
    assert "Traceback" not in answer.err
