"""`fit`: the commands that it runs, what it leaves, how it goes on, and what it refuses; most run in this process."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ldm_train.assembly.child_processes import Jobs
from ldm_train.cli.main import main
from ldm_train.commands.fit import choosing, stage_commands
from ldm_train.commands.fit.decisions import Decisions
from ldm_train.commands.fit.fit_record import FitRecord, Stage
from ldm_train.commands.fit.last_prompts import is_held_out
from ldm_train.commands.fit.picture_facts import collect_facts
from ldm_train.data.batches.holding_out import count_held_out
from ldm_train.data.scan.survey import survey_items
from ldm_train.settings.composition import build, compose, compose_as
from ldm_train.settings.schema.options import select
from ldm_train.settings.schema.using import FitSettings
from ldm_train.training.run_files import INTERRUPTED
from tests.conftest import draw

Runs = Callable[..., list[str]]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the commands run here, with a small network, and collect the names of those that ran."""
    ran: list[str] = []
    recipe = choosing.choose_recipe
    small = {"network.channels": [16, 32], "network.head_size": 8, "network.expansion": 1, "threads": 1}

    def run(self: Jobs, command: list[str], *, log: object = None) -> int:
        ran.append(command[3])
        with pytest.raises(SystemExit) as ended:
            main(command[3:])
        assert isinstance(ended.value.code, int)
        return ended.value.code

    monkeypatch.setattr(Jobs, "run", run)
    monkeypatch.setattr(choosing, "choose_recipe", lambda *args, **values: {**recipe(*args, **values), **small})
    plan = choosing.plan_budget
    monkeypatch.setattr(choosing, "plan_budget", lambda *args, **values: replace(plan(*args, **values), steps=12))
    monkeypatch.setattr("ldm_train.commands.fit.command.LATE", 1e6)  # of the limit, which counts from this process' start
    monkeypatch.setattr("ldm_train.training.cost.SECONDS", 0.2)
    return ran


LONG = "minutes=9999"  # whatever a step takes while other tests run
STAGES = ["check", "encode", "train", "sample", "evaluate", "report"]


@pytest.mark.slow
def test_a_folder_becomes_pictures_and_an_interrupted_fit_goes_on(
    ldm_train: Callable, pictures: Path, tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here = tmp_path / "out", Jobs.run
    words = ["fit", pictures, f"out={out}", LONG]

    def stop_in_training(self: Jobs, command: list[str], *, log: object = None) -> int:
        if command[3] != "train":
            return here(self, command, log=log)  # type: ignore[arg-type]
        self.stopped = signal.SIGTERM
        return INTERRUPTED

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "run", stop_in_training)
        answer = ldm_train(*words)
    assert answer.code == INTERRUPTED, answer.err
    assert str(out) in answer.out
    assert in_this_process == ["check", "encode"]
    config = (out / "config.yaml").read_bytes()

    answer = ldm_train(*words)
    assert answer.code == 0, answer.err
    assert in_this_process == STAGES  # nothing twice
    assert (out / "config.yaml").read_bytes() == config
    record = json.loads((out / "fit.json").read_text())
    assert {stage["ending"] for stage in record["stages"].values()} == {"done"}
    with Image.open(out / "pictures.png") as picture:
        assert picture.width > 16
    page = (out / "fit.html").read_text()
    assert "a black circle on a blue background" in page
    assert "config=" in page
    script = (out / "commands.sh").read_text()
    assert all(f"ldm-train {stage} " in script for stage in STAGES)
    chosen, trained = (compose("train", [f"config={file}"]) for file in (out / "config.yaml", out / "run" / "config.yaml"))
    for name in ("max_steps", "image_size", "optimizer.lr", "ema.decay", "network.channels", "schedule"):
        assert select(chosen, name) == select(trained, name) != None, name  # noqa: E711


@pytest.mark.slow
def test_a_run_is_fine_tuned_with_its_own_parts(
    ldm_train: Callable, pictures: Path, trained: Path, tmp_path: Path, in_this_process: list[str]
) -> None:
    answer = ldm_train("fit", pictures, f"out={tmp_path}/out", f"base={trained}", LONG)
    assert answer.code == 0, answer.err
    config = compose("train", [f"config={tmp_path}/out/run/config.yaml"]).as_plain()
    assert config["network"]["weights"] == str(trained)
    assert config["network"]["channels"] == [16, 32]
    assert config["optimizer"]["lr"] == choosing.BASE_LR
    assert config["text_encoder"]["width"] == 32


@pytest.mark.slow
def test_a_poor_autoencoder_is_trained_further(
    ldm_train: Callable, pictures: Path, tmp_path: Path, in_this_process: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "needs_adapting", lambda measured, minutes: True)
    monkeypatch.setattr("ldm_train.commands.fit.decisions.ADAPTING_COST", 1e9)  # for the fewest steps
    answer = ldm_train("fit", pictures, f"out={tmp_path}/out", "image_size=32", LONG)
    assert answer.code == 0, answer.out + answer.err
    shipped = len(in_this_process) - len(STAGES)  # one check of each
    assert in_this_process == ["check"] * shipped + ["train_autoencoder", *STAGES[1:]]
    encode = json.loads((tmp_path / "out" / "fit.json").read_text())["stages"]["encode"]["words"]
    assert f"autoencoder.weights={tmp_path}/out/autoencoder/autoencoder" in encode


def test_what_check_refuses_is_refused(ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        draw("circle", "red").save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a circle, {name}")
    (folder / "c.png").write_bytes(b"\x89PNG damaged")
    asked: list[str] = []

    def refuse(self: Jobs, command: list[str], *, log: object = None) -> int:
        asked.append(command[3])
        return 1

    monkeypatch.setattr(Jobs, "run", refuse)
    answer = ldm_train("fit", folder, f"out={tmp_path}/out")
    assert answer.code == 1
    assert asked == ["check"]
    assert not (tmp_path / "out" / "cache").exists()


def test_a_folder_of_the_users_is_left_alone(ldm_train: Callable, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    answer = ldm_train("fit", pictures, f"out={tmp_path}")
    assert answer.code == 1
    assert "notes.txt" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_fit_goes_on_with_its_own_settings_only(
    ldm_train: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Jobs, "run", lambda self, command, log=None: 1)
    words = ["fit", pictures, f"out={tmp_path}/out"]
    assert ldm_train(*words).code == 1
    answer = ldm_train(*words, "minutes=7")
    assert answer.code == 1
    assert "minutes=7" in answer.err
    assert "30.0" in answer.err


@pytest.mark.parametrize("words", [["minutes=0"], ["crop=squares"], ["background=nocolour"]])
def test_settings_that_are_wrong_are_refused_at_once(
    ldm_train: Callable, pictures: Path, tmp_path: Path, words: list[str]
) -> None:
    answer = ldm_train("fit", pictures, f"out={tmp_path}/out", *words)
    assert answer.code in (1, 2)
    assert words[0].partition("=")[2] in answer.err
    assert not (tmp_path / "out" / "fit.json").exists()


def test_the_facts_are_those_of_the_pictures(tmp_path: Path) -> None:
    """A subject on black, upright; surroundings without a colour that most have are white, and transparent ones."""
    for number in range(6):
        picture = Image.new("RGB", (40, 80), "black")
        picture.paste(Image.new("RGB", (20, 20 + number), "red"), (10, 30))
        picture.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("a red block")
    settings = compose_as(FitSettings, [f"source.path={tmp_path}", "out=x"])
    facts = collect_facts(survey_items(build(settings.source, "source"), max_pixels=10**6))
    assert (facts.pictures, facts.captions, facts.shorter, facts.longer, facts.cut) == (6, 1, 40, 80, 0.5)
    assert (facts.plain, facts.surroundings) == (1.0, "#000000")
    for number in range(3):
        Image.new("RGB", (40, 80), "blue").save(tmp_path / f"{number}.png")
    assert collect_facts(survey_items(build(settings.source, "source"), max_pixels=10**6)).surroundings == "white"
    for number in range(6):
        Image.new("RGBA", (40, 80), (0, 0, 0, 0)).save(tmp_path / f"{number}.png")
    assert collect_facts(survey_items(build(settings.source, "source"), max_pixels=10**6)).surroundings == "white"


@pytest.mark.parametrize(
    ("speeds", "spent", "minutes", "changed"),
    [
        ([10, 96, 96, 96], 0, 5.5, False),  # 0.25 s a step, as planned
        ([10, 48, 48, 48], 0, 5.5, True),
        ([10, 192, 192], 0, 5.5, True),
        ([], 0, 5.5, False),
        ([], 200, 5.5, True),  # other stages took longer
        ([], 600, 5.5, False),  # nothing is left
    ],
)
def test_the_first_steps_correct_the_number_of_all(
    speeds: list[int], spent: int, minutes: float, changed: bool, tmp_path: Path
) -> None:
    facts = choosing.DataFacts(100, 100, 64, 64, 0.0, 0.0, "white", named=False)
    settings = compose_as(FitSettings, ["source.path=x", f"out={tmp_path}", f"minutes={minutes}"])
    record = FitRecord({}, values={"max_steps": 1000, "batch_size": 24}, planned={"step": 0.25, "train": 260.0})
    record.stages["adapt"] = Stage(["train_autoencoder"], spent, "done")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("max_steps: 1000\n")
    lines = [json.dumps({"step": 10 * (n + 1), "samples_per_second": speed}) for n, speed in enumerate(speeds)]
    (run / "timing.jsonl").write_text("".join(f"{line}\n" for line in lines))
    decisions = Decisions(settings, tmp_path, record, facts, None, gpu=False)  # type: ignore[arg-type]
    assert decisions.correct(record.values) == changed
    assert (record.values["max_steps"] != 1000) == changed


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("base", [True, False])
def test_a_step_is_measured_in_the_precision_of_the_training(
    fast: bool, base: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the CPU is fast in bfloat16, `check` and the training get it; a base is trained as it was."""
    monkeypatch.setattr("ldm_train.commands.fit.decisions.multiplies_bfloat16", lambda: fast)
    monkeypatch.setattr(stage_commands, "read_base", lambda base: {"network": "unet_small", "optimizer.lr": 1e-4})
    words = ["source.path=x", f"out={tmp_path}", *(["base=run"] if base else [])]
    settings = compose_as(FitSettings, words)
    facts = choosing.DataFacts(100, 100, 64, 64, 0.0, 0.0, "white", named=False)
    decisions = Decisions(settings, tmp_path, FitRecord({}), facts, None, gpu=False)  # type: ignore[arg-type]
    values = decisions.first_values(64, pixels=False)
    check = stage_commands.check_words(settings, values, tmp_path / "check")
    config = stage_commands.train_config(settings, values, tmp_path / "cache", tmp_path / "run")
    expected = "bf16-mixed" if fast and not base else "auto"
    assert ("trainer.precision=bf16-mixed" in check) == (expected == "bf16-mixed")
    assert select(config, "trainer.precision") == expected
    assert "trainer.precision" not in " ".join(stage_commands.encode_words(settings, values, tmp_path / "cache"))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_prompts_are_of_pictures_that_training_sees(share: float) -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(200)]
    assert sum(is_held_out(digest, share) for digest in digests) == count_held_out(digests, share)


@pytest.mark.parametrize(
    ("config", "scheduler", "expected"),
    [
        ({"cross_attention_dim": 768}, {"prediction_type": "epsilon"}, ("stable_diffusion_1", "noise")),
        ({"cross_attention_dim": 1024}, {"prediction_type": "v_prediction"}, ("stable_diffusion_2", "velocity")),
    ],
)
def test_a_published_base_brings_its_parts(config: dict, scheduler: dict, expected: tuple, tmp_path: Path) -> None:
    for part, name, content in (("unet", "config", config), ("scheduler", "scheduler_config", scheduler)):
        (tmp_path / part).mkdir()
        (tmp_path / part / f"{name}.json").write_text(json.dumps(content))
    values = stage_commands.read_base(str(tmp_path))
    assert (values["network"], values["prediction"]) == expected
    assert values["network.weights"] == values["autoencoder.weights"] == str(tmp_path)
    compose("check", ["source.path=x", *stage_commands.list_words(values)])


@pytest.mark.parametrize(
    ("inputs", "named"), [(9, "conditions=[inpaint]"), (5, "[depth]"), (8, "[reference]"), (7, "7 input")]
)
def test_a_published_base_that_draws_from_pictures_is_refused(inputs: int, named: str, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text(json.dumps({"in_channels": inputs, "out_channels": 4}))
    with pytest.raises(ValueError, match="captions") as refused:
        stage_commands.read_base(str(tmp_path))
    assert named in str(refused.value)
    assert f"base={tmp_path}" in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_that_runs_and_the_fit(pictures: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ldm_train", "fit", str(pictures), f"out={out}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 120
    while not (out / "logs").is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == INTERRUPTED, printed
    assert str(out) in printed
    assert json.loads((out / "fit.json").read_text())["stages"]["check identity"]["ending"] == ""
