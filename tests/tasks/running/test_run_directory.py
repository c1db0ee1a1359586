"""A run directory: what it says of its run, what may continue there and what may not, and that only one process has it."""

import fcntl
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch.testing import assert_close

from ldm_train.data.manifest import read_manifest
from ldm_train.tasks.running.continuing import refuse_other
from ldm_train.tasks.running.directory import PACKAGES, told_error
from ldm_train.tasks.settings.config import compose

QUIET = ["pictures.prompts=[]", "pictures.every=1000", "validation.every=1000"]


def record(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "run.json").read_text())


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(run_with: Callable) -> Path:
    """A run of eight steps, to read only."""
    return run_with(*QUIET)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


# What it says


def test_a_start_is_recorded_with_its_command_versions_sources_and_data(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/ldm-train", "train", "run_dir=a folder", "cache=b"])
    for steps in (1, 2):
        assert train(cache, tmp_path / "run", *QUIET, f"max_steps={steps}").code == 0
    found = record(tmp_path / "run")
    assert found["content"] == read_manifest(cache).fingerprint
    assert len(found["starts"]) == 2
    for start in found["starts"]:
        assert start["command"] == "ldm-train train 'run_dir=a folder' cache=b"
        assert set(start["packages"]) == {*PACKAGES, "python"}
        assert start["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
        assert start["devices"] == {"nodes": 1, "each": 1, "batch": None}
        assert start["threads"] == 1
        assert datetime.fromisoformat(start["time"]).tzinfo is not None
    assert found["starts"][0]["time"] <= found["starts"][1]["time"]


def test_how_a_start_ended_is_recorded(cache: Path, train: Callable, tmp_path: Path, power_cut: Callable) -> None:
    """An error, a limit of time, the last step; a start that was refused is none, and changes nothing."""
    run = tmp_path / "run"
    with power_cut(4):
        train(cache, run, *QUIET, "debug=true")
    [first] = record(run)["starts"]
    assert first["ended"]["as"] == "failed: PowerCutError: "
    before = (run / "run.json").read_bytes()
    assert train(cache, run, *QUIET, "seed=1").code == 1
    assert train(cache, run, *QUIET, "batch_size=0").code == 1
    assert (run / "run.json").read_bytes() == before
    assert train(cache, run, *QUIET, "max_time=0:00:00").code == 75
    assert train(cache, run, *QUIET).code == 0
    ends = [start["ended"] for start in record(run)["starts"]]
    assert [end["as"] for end in ends[1:]] == ["interrupted (max_time)", "finished"]
    assert [end["step"] for end in ends][1:] == [4, 8]
    assert all(datetime.fromisoformat(end["time"]).tzinfo is not None for end in ends)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("too\n  high"), "failed: too high"),
        (RuntimeError("x" * 1000), "failed: RuntimeError: " + "x" * 500),
        (KeyboardInterrupt(), "interrupted (Ctrl-C)"),
    ],
)
def test_an_error_is_told_in_a_line(error: BaseException, told: str) -> None:
    assert told_error(error) == told


def test_a_glance_at_the_lock_keeps_no_run_from_starting(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_train.tasks.running.directory.MOMENT", 30.0)
    (tmp_path / "run").mkdir()
    glance = (tmp_path / "run/.lock").open("a")
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(0.5, glance.close).start()
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=1").code == 0


def test_the_commit_is_that_of_the_sources(finished: Path) -> None:
    here = Path(__file__).parents[3]
    if not (here / ".git").exists():
        pytest.skip("not in a git repository")
    head = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert record(finished)["starts"][0]["git"]["ldm_train"]["commit"] == head.strip()


def test_the_config_is_whole_and_resolved(finished: Path) -> None:
    text = (finished / "config.yaml").read_text()
    assert "${" not in text
    assert "???" not in text
    config = OmegaConf.load(finished / "config.yaml")
    assert (config.optimizer.lr, config.batch_size, config.image_size) == (1e-3, 4, 16)
    assert config.autoencoder._target_.startswith("ldm_train."), "the cache's own, filled in"


# What may not continue


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("seed=1", "seed: then 0, now 1"),
        ("batch_size=8", "batch_size: then 4, now 8"),
        ("caption_dropout=0.5", "caption_dropout: then 0.1, now 0.5"),
        ("held_out=0.2", "held_out: then 0.05, now 0.2"),
        ("offset_noise=0.1", "offset_noise: then 0.0, now 0.1"),
        ("cache_repeats=[2]", "cache_repeats: then null, now [2]"),
        ("optimizer.lr=2e-3", "optimizer.lr: then 0.001, now 0.002"),
        ("optimizer=sgd", 'optimizer._target_: then "torch.optim.AdamW", now "torch.optim.SGD"'),
        ("parameter_groups.text_encoder_lr=1e-4", "parameter_groups.text_encoder_lr: then null, now 0.0001"),
        ("lr_schedule.warmup_steps=3", "lr_schedule.warmup_steps: then 2, now 3"),
        ("lr_schedule.cooldown_steps=2", "lr_schedule.cooldown_steps: then 0, now 2"),
        ("ema.decay=0.9", "ema.decay: then 0.999, now 0.9"),
        ("ema.start_step=3", "ema.start_step: then 0, now 3"),
        ("network.channels=[16,64]", "network.channels: then [16, 32], now [16, 64]"),
        ("network.dropout=0.1", "network.dropout: then 0.0, now 0.1"),
        ("schedule=cosine", 'schedule._target_: then "ldm_train.diffusion'),
        ("prediction=velocity", "prediction._target_: then"),
        ("weighting=min_snr", "weighting.gamma: then null, now 5.0"),
        ("timesteps=uniform", "timesteps.stratified: then true, now false"),
        ("trainer.precision=bf16-mixed", 'trainer.precision: then "32-true", now "bf16-mixed"'),
        ("trainer.gradient_clip_val=null", "trainer.gradient_clip_val: then 1.0, now null"),
        ("+trainer.gradient_clip_algorithm=value", 'trainer.gradient_clip_algorithm: then null, now "value"'),
    ],
)
def test_what_matters_may_not_differ(word: str, told: str, copy: Path, cache: Path, train: Callable) -> None:
    before = files(copy)
    answer = train(cache, copy, *QUIET, "max_steps=9", word)
    assert answer.code == 1
    assert f"{copy} cannot be continued, for its run differs:" in answer.err
    assert f"\n  {told}" in answer.err
    assert "give these as they were then, or choose another run_dir" in answer.err
    assert files(copy) == before


def test_all_that_differs_is_told_at_once(copy: Path, cache: Path, train: Callable) -> None:
    answer = train(cache, copy, *QUIET, "seed=3", "batch_size=2", "pictures.count=1")
    assert "\n  batch_size: then 4, now 2\n  seed: then 0, now 3\ngive these" in answer.err


# What may


def test_a_run_goes_on_under_settings_that_leave_its_weights_alone(copy: Path, cache: Path, train: Callable) -> None:
    words = ["max_steps=10", "micro_batch_size=2", "checkpoint.every=1", "checkpoint.keep=2", "checkpoint.best=loss"]
    words += ["pictures.every=9", "pictures.prompts=[a circle]", "pictures.seed=5", "validation.every=9", "sampler=ddpm"]
    words += ["validation.repeats=1", "guidance.scale=1", "spacing=linspace", "channels_last=true", "scale_check=false"]
    words += ["trainer.log_every_n_steps=2", "max_time=10:00:00", "max_nonfinite_steps=5", "optimizer.fused=false"]
    words += ["network.gradient_checkpointing=true", "workers=1", "autoencoder=identity"]
    answer = train(cache, copy, *words)
    assert answer.code == 0, answer.err
    assert [line["step"] for line in lines(copy)] == [*range(1, 11)]
    assert (copy / "samples/step-00000009.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.devices=2", "trainer.num_nodes=3", "trainer.strategy=ddp", "trainer.accelerator=gpu", "threads=7"],
        ["logger=wandb", "compile=inductor", "cache=[a,b]", "run_dir=elsewhere", "resume=never", "debug=true"],
        ["trainer.deterministic=true", "trainer.benchmark=true", "max_pixels=5", "checkpoint.shares=true", "max_steps=1"],
        ["text_encoder=clip_vit_l_14", "text_encoder.weights=elsewhere"],
    ],
)
def test_where_and_how_fast_it_runs_may_differ(words: list[str], tmp_path: Path) -> None:
    needed = ["cache=c", "run_dir=d"]
    before = [word for word in words if word.startswith("text_encoder=")]
    then, now = (compose("train", [*needed, *own]) for own in (before, words))
    refuse_other(then, now, "the data", tmp_path, {"content": "the data", "starts": []})


def closed_form(kind: str, step: int, max_steps: int) -> float:
    """The rate of the update number `step` (from 0), after two of warm-up to 1e-3."""
    share = (step - 2) / (max_steps - 2)
    return 1e-3 * {"cosine": (1 + math.cos(math.pi * share)) / 2, "linear": 1 - share, "constant": 1.0}[kind]


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_more_steps_follow_the_longer_runs_rate(
    kind: str, cache: Path, train: Callable, run_with: Callable, tmp_path: Path
) -> None:
    words = [*QUIET, f"lr_schedule={kind}", "parameter_groups.text_encoder_lr=1e-4"]
    copy = Path(shutil.copytree(run_with(*words), tmp_path / "run"))
    answer = train(cache, copy, *words, "max_steps=14")
    assert answer.code == 0, answer.err
    assert "max_steps was 8 and is 14: the LR schedule follows it from here on" in answer.out
    rates = [line["lr"] for line in lines(copy)]
    assert len(rates) == 14
    expected = [closed_form(kind, step, 8 if step < 8 else 14) for step in range(2, 14)]
    assert rates[2:] == pytest.approx(expected, rel=1e-12, abs=1e-18)
    groups = torch.load(copy / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    following = closed_form(kind, 14, 14) / 1e-3
    assert [group["lr"] for group in groups] == pytest.approx([group["initial_lr"] * following for group in groups])
    assert {group["initial_lr"] for group in groups} == {1e-3, 1e-4}


def test_fewer_steps_than_were_made_change_nothing(copy: Path, cache: Path, train: Callable) -> None:
    checkpoint = (copy / "checkpoints/last.ckpt").read_bytes()
    assert train(cache, copy, *QUIET, "max_steps=5").code == 0
    assert (copy / "checkpoints/last.ckpt").read_bytes() == checkpoint
    assert len(lines(copy)) == 8


def test_what_makes_the_goal_of_bits_unreachable_is_noted(copy: Path, cache: Path, train: Callable) -> None:
    found = record(copy)
    found["starts"][-1]["packages"]["torch"] = "0.1"
    found["starts"][-1]["threads"] = 64
    (copy / "run.json").write_text(json.dumps(found))
    answer = train(cache, copy, *QUIET, "max_steps=9")
    assert answer.code == 0, answer.err
    assert "note: packages, threads changed since the last start, so it goes on to rounding, not bit for bit" in answer.out
    answer = train(cache, copy, *QUIET, "max_steps=10")
    assert "changed since" not in answer.out


def test_a_run_and_its_cache_may_be_moved(
    cache: Path, train: Callable, finished: Path, power_cut: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache, tmp_path / "cache")
    with power_cut(4):
        train(tmp_path / "cache", tmp_path / "run", *QUIET)
    (tmp_path / "new").mkdir()
    for name in ("cache", "run"):
        shutil.move(tmp_path / name, tmp_path / "new" / name)
    monkeypatch.chdir(tmp_path / "new")
    answer = train("cache", "run", *QUIET)
    assert answer.code == 0, answer.err
    assert "at step 3" in answer.out
    one, other = (torch.load(d / "checkpoints/last.ckpt", weights_only=True) for d in (tmp_path / "new/run", finished))
    assert_close(one["state_dict"], other["state_dict"], rtol=0, atol=0)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


# What cannot be read


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b'{"content": "a"}', b'{"starts": 3, "content": ""}', b"\xff\xfe"]
)
@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_record_that_is_missing_or_damaged_is_told(
    name: str, content: bytes | None, copy: Path, cache: Path, train: Callable
) -> None:
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    answer = train(cache, copy, *QUIET, "max_steps=9")
    assert answer.code == 1
    assert f"{copy} has a checkpoint, but {name}, which says what it is of, cannot be read" in answer.err
    assert "Traceback" not in answer.err
    assert len(lines(copy)) == 8


def test_a_power_cut_while_the_config_is_written_leaves_the_one_before(
    copy: Path, cache: Path, train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, original = (copy / "config.yaml").read_bytes(), Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "config.yaml.writing":
            raise OSError("no power")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert train(cache, copy, *QUIET, "max_steps=9").code == 1
    assert (copy / "config.yaml").read_bytes() == before
    assert train(cache, copy, *QUIET, "max_steps=9").code == 0


# Starting


@pytest.mark.parametrize("left", ["last.ckpt", "step-00000003.ckpt", "best.ckpt"])
def test_resume_never_takes_no_directory_with_a_checkpoint(left: str, cache: Path, train: Callable, copy: Path) -> None:
    (copy / "checkpoints/last.ckpt").rename(copy / "checkpoints" / left)
    before = files(copy)
    answer = train(cache, copy, *QUIET, "resume=never")
    assert answer.code == 1
    assert "is already there; resume=auto continues it, or choose another run_dir" in answer.err
    assert files(copy) == before


def test_resume_never_starts_where_there_is_none(cache: Path, train: Callable, tmp_path: Path) -> None:
    assert train(cache, tmp_path / "run", *QUIET, "resume=never", "max_steps=1").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resume=maybe"], "resume=maybe is not known"),
        (["cache={tmp}/nowhere"], "nowhere"),
        (["batch_size=0"], "batch_size=0 must be a whole number of at least 1"),
        (["micro_batch_size=3"], "batch_size=4 is the global batch and cannot be divided"),
        (["network.weights={tmp}/nowhere"], "nowhere"),
        (["lr_schedule.cooldown_steps=9"], "more than max_steps=8"),
        (["trainer.precision=64-mixed"], "64-mixed"),
    ],
)
def test_what_is_refused_leaves_no_directory(
    words: list[str], message: str, cache: Path, train: Callable, tmp_path: Path
) -> None:
    answer = train(cache, tmp_path / "run", *QUIET, *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert answer.code == 1
    assert message in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_there_before_stays_with_what_was_in_it(cache: Path, train: Callable, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    assert train(cache, tmp_path / "run", *QUIET, "micro_batch_size=3").code == 1
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=1").code == 0
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_a_start_without_a_checkpoint_leaves_nothing_of_itself_to_the_next(
    cache: Path, train: Callable, power_cut: Callable, tmp_path: Path
) -> None:
    """Another run may follow in its place, whose curves are then the only ones."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with power_cut(2):
        train(cache, tmp_path / "run", *QUIET)
    answer = train(cache, tmp_path / "run", *QUIET, "seed=1", "max_steps=4")
    assert answer.code == 0, answer.err
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]
    assert len(record(tmp_path / "run")["starts"]) == 1
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert logged == pytest.approx({line["step"]: line["loss"] for line in lines(tmp_path / "run")}, rel=1e-6)


def test_two_processes_do_not_share_a_directory(
    cache: Path, train: Callable, train_words: list[str], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    words = ["train", f"cache={cache}", f"run_dir={run_dir}", *train_words, *QUIET, "max_steps=100000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ldm_train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        while not (run_dir / "checkpoints/last.ckpt").is_file():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        answer = train(cache, run_dir, *QUIET, "max_steps=100000")
        assert answer.code == 1
        assert "belongs to a run that is still going" in answer.err
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert re.search("stopped by SIGTERM and saved", out)
    made = [line["step"] for line in lines(run_dir)]
    assert made == list(range(1, len(made) + 1))
    assert len(record(run_dir)["starts"]) == 1
