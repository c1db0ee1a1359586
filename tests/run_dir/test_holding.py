"""Which folders a run may have, what becomes of what was in them, and of starts that are refused or killed."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ldm_train.run_dir.holding import hold_run_directory
from ldm_train.run_dir.record import last_step, note_saved, prepare_run, read_record, write_record
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.files import temporary_path
from tests.pairwise import parametrize_pairs
from tests.run_dir.records import QUIET, files, lines, record


@cache
def settings() -> TrainSettings:
    return compose_as(TrainSettings, ["cache=a", "run_dir=b", "max_steps=8", "trainer.accelerator=cpu"])


def config(run_dir: Path | str, resume: str = "auto") -> TrainSettings:
    return settings().with_values(run_dir=str(run_dir), resume=resume)


def tree(folder: Path) -> dict[str, object]:
    """Every name below a folder, with a file's content and where a link leads."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for name, path in found.items()
    }


def write(folder: Path, *names: str, content: str = "mine") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


def run_with_history(folder: Path, *, saved: bool) -> Path:
    """A run directory of which some steps are logged and no checkpoint is there."""
    with hold_run_directory(config(folder)):
        prepare_run(config(folder), content="data")
        write(folder, "metrics.jsonl", "timing.jsonl", content='{"step": 7}\n')
        write(folder, "samples/step-00000004.png", "samples/growth.png", "ema/step-00000004.safetensors", content="ours")
        if saved:
            note_saved(folder, 7)
    return folder


@contextmanager
def fails(run_dir: Path) -> Iterator[None]:
    """Hold a run directory and end in an error."""

    class FailedError(Exception):
        pass

    with suppress(FailedError), hold_run_directory(config(run_dir)):
        yield
        raise FailedError


def refused(run_dir: Path, resume: str = "auto") -> str:
    """The message with which a run directory is refused."""
    with pytest.raises((ValueError, OSError)) as error, hold_run_directory(config(run_dir, resume)):
        pass
    return str(error.value)


# Which folders


FOLDERS: dict[str, Callable[[Path], str]] = {
    "data": lambda tmp: str(write(tmp / "data", "captions.jsonl", "metadata.jsonl", "samples/a.png")),
    "a cache": lambda tmp: str(write(tmp / "cache", "manifest.json", "entries.jsonl", content="{}")),
    "another record": lambda tmp: str(write(tmp / "other", "run.json", "metrics.jsonl", content='{"name": 1}')),
    "only a link in it": lambda tmp: str(linked(tmp / "links")),
    "a file": lambda tmp: str(write(tmp, "file") / "file"),
    "a broken link": lambda tmp: str(broken(tmp / "nowhere")),
    "nothing": lambda tmp: "",
    "blank": lambda tmp: "' '",
    "here": lambda tmp: ".",
}


def linked(folder: Path) -> Path:
    folder.mkdir()
    broken(folder / "checkpoints")
    return folder


def broken(path: Path) -> Path:
    path.symlink_to(path.parent / "absent")
    return path


@parametrize_pairs(
    kind={kind: kind for kind in FOLDERS},
    verb={verb: verb for verb in ("train", "train_autoencoder")},
    more={"good": [], "refused": ["micro_batch_size=3"], "restart": ["resume=restart"]},
)
def test_a_folder_that_is_no_run_directory_is_left_as_it_was(
    kind: str, verb: str, more: list[str], cache: Path, pictures: Path, ldm_train: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write(tmp_path, "here.jsonl", "samples/here.png")
    place = FOLDERS[kind](tmp_path)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    source = f"cache={cache}" if verb == "train" else f"source.path={pictures}"
    answer = ldm_train(verb, source, f"run_dir={place}", "trainer.accelerator=cpu", *more)
    assert answer.code == 1
    assert "run_dir" in answer.err
    assert place.strip("' ") in answer.err
    assert "Traceback" not in answer.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("record", [None, "", "{"], ids=["missing", "empty", "cut short"])
@pytest.mark.parametrize("resume", ["auto", "never", "restart"])
def test_checkpoints_without_a_record_are_kept_and_the_message_says_what_they_are_good_for(
    record: str | None, resume: str, trained: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(trained, run_dir)
    (run_dir / "run.json").unlink()
    if record is not None:
        (run_dir / "run.json").write_text(record)
    before = tree(run_dir)
    message = refused(run_dir, resume)
    assert f"network.weights={run_dir}" in message
    assert "run.json" in message
    assert tree(run_dir) == before


def test_an_autoencoder_does_not_restart_over_a_network(
    trained: Path, pictures: Path, ldm_train: Callable, autoencoder_settings: list[str], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    before = files(tmp_path / "run")
    words = [f"source.path={pictures}", f"run_dir={tmp_path / 'run'}", *autoencoder_settings, "resume=restart"]
    answer = ldm_train("train_autoencoder", *words)
    assert answer.code == 1
    assert f"run_dir={tmp_path / 'run'}" in answer.err
    assert "`ldm-train train`" in answer.err
    changed = {name for name, content in before.items() if files(tmp_path / "run").get(name) != content}
    assert changed <= {"run.json"}, "only the end of this start may be recorded"


# Starts that end early


def test_the_folder_is_marked_before_anything_else_is_written(tmp_path: Path) -> None:
    with hold_run_directory(config(tmp_path / "run")):
        assert sorted(files(tmp_path / "run")) == [".lock", "run.json"]
        assert read_record(tmp_path / "run")["starts"] == []
    with hold_run_directory(config(tmp_path / "run")):
        pass  # as a start that was killed would find it


@pytest.mark.slow
def test_a_start_that_is_killed_while_it_prepares_can_be_started_again(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from types import SimpleNamespace\n"
        "from ldm_train.run_dir.holding import hold_run_directory\n"
        "with hold_run_directory(SimpleNamespace(run_dir=sys.argv[1], resume='auto')):\n"
        "    Path(sys.argv[1], 'prior').mkdir(); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], check=False)
    assert ended.returncode == -signal.SIGKILL
    with hold_run_directory(config(tmp_path / "run")):
        assert not prepare_run(config(tmp_path / "run"), content="data")
    assert len(record(tmp_path / "run")["starts"]) == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_first_start_that_fails_before_its_first_step_leaves_what_was_there(there: bool, tmp_path: Path) -> None:
    run_dir = tmp_path / "some" / "run"
    if there:
        run_dir.mkdir(parents=True)
    before = tree(tmp_path)
    with fails(run_dir):
        prepare_run(config(run_dir), content="data")
        write(run_dir, "tensorboard/events.out.tfevents.1700000000.host.1.0", "metrics.csv")
        (run_dir / "checkpoints").mkdir()
    assert tree(tmp_path) == before


def test_a_users_file_stays_when_a_first_start_fails(tmp_path: Path) -> None:
    with fails(tmp_path / "run"):
        write(tmp_path / "run", "notes.txt", "tensorboard/notes.txt", "checkpoints/mine.ckpt")
    assert sorted(files(tmp_path / "run")) == [
        *(".lock", "checkpoints/mine.ckpt", "notes.txt", "run.json", "tensorboard/notes.txt")
    ]
    with hold_run_directory(config(tmp_path / "run")):
        pass


def test_what_a_killed_process_was_writing_is_cleared_and_a_users_file_stays(tmp_path: Path) -> None:
    run_dir = run_with_history(tmp_path / "run", saved=False)
    write(run_dir, "checkpoints/last.writing", "notes.writing")
    elsewhere = tmp_path / "elsewhere"
    (run_dir / "checkpoints").rename(elsewhere)
    (run_dir / "checkpoints").symlink_to(elsewhere)
    left = [temporary_path(run_dir / "samples/a.png"), temporary_path(elsewhere / "last.ckpt")]
    for path in left:
        path.write_text("half")
    with hold_run_directory(config(run_dir)):
        assert not any(path.exists() for path in left)
    assert (run_dir / "checkpoints/last.writing").read_text() == "mine"
    assert (run_dir / "notes.writing").read_text() == "mine"


# Without checkpoints


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_run_of_which_the_checkpoints_are_missing_is_not_started_anew(resume: str, tmp_path: Path) -> None:
    run_dir = run_with_history(tmp_path / "run", saved=True)
    (run_dir / "checkpoints").symlink_to(write(tmp_path / "mount", "other.txt"))
    before = tree(tmp_path)
    with (
        pytest.raises(ValueError, match=r"step 7.*checkpoints.*resume=restart"),
        hold_run_directory(config(run_dir, resume)),
    ):
        pass
    assert tree(tmp_path) == before


@pytest.mark.parametrize("resume", ["auto", "never", "restart"])
def test_checkpoints_that_are_a_broken_link_are_named(resume: str, tmp_path: Path) -> None:
    run_dir = run_with_history(tmp_path / "run", saved=False)
    (run_dir / "checkpoints").symlink_to(tmp_path / "unmounted")
    before = tree(tmp_path)
    assert str(tmp_path / "unmounted") in refused(run_dir, resume)
    assert tree(tmp_path) == before


MINE = ["data.jsonl", "samples/mine.png", "samples/step-4.png", "ema/step-final.safetensors", "notes.txt",
        "checkpoints/mine.ckpt", "checkpoints/mine.shares/a", "nonfinite/notes.json", "tables/mine.csv"]  # fmt: skip


@pytest.mark.parametrize(("saved", "resume"), [(False, "auto"), (True, "restart")])
def test_a_run_that_is_started_anew_loses_its_history_and_nothing_of_the_users(
    saved: bool, resume: str, tmp_path: Path
) -> None:
    run_dir = write(run_with_history(tmp_path / "run", saved=saved), *MINE)
    if saved:
        write(run_dir, "checkpoints/last.ckpt", "checkpoints/step-00000004.ckpt", content="ours")
    again = config(run_dir, resume)
    with hold_run_directory(again):
        assert prepare_run(again, content="other data") is False
    assert sorted(files(run_dir)) == sorted([*MINE, ".lock", "run.json", "config.yaml"])
    assert record(run_dir)["content"] == "other data"
    assert record(run_dir)["saved_step"] is None
    assert OmegaConf.load(run_dir / "config.yaml").resume == "auto"


def test_a_checkpoint_is_noted_when_it_is_there(cache: Path, train: Callable, power_cut: Callable, tmp_path: Path) -> None:
    for steps, saved in ((2, None), (3, 3)):
        with power_cut(steps):
            train(cache, tmp_path / "run", *QUIET)
        assert record(tmp_path / "run")["saved_step"] == saved
        assert last_step(tmp_path / "run") == steps
    (tmp_path / "run/checkpoints/last.ckpt").rename(tmp_path / "last.ckpt")
    before = tree(tmp_path / "run")
    answer = train(cache, tmp_path / "run", *QUIET)
    assert answer.code == 1
    assert "step 3" in answer.err
    assert tree(tmp_path / "run") == before
    (tmp_path / "last.ckpt").rename(tmp_path / "run/checkpoints/last.ckpt")
    write_record(tmp_path / "run", record(tmp_path / "run") | {"saved_step": None})  # as if killed before it was noted
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=3").code == 0
    assert record(tmp_path / "run")["saved_step"] == 3
    assert train(cache, tmp_path / "run", *QUIET, "max_steps=4").code == 0
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


# File systems


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_locks_is_named_with_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    assert re.search(rf"{tmp_path}/run/\.lock.*local disk", refused(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_cannot_be_written_to_is_named(
    there: bool, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*words: object, **more: object) -> int:
        raise OSError(number, os.strerror(number))

    if there:
        (tmp_path / "run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        patch.setattr(os, "open", refuse)
        assert re.search(f"{tmp_path}/run.*{os.strerror(number)}", refused(tmp_path / "run"))
    assert [path.name for path in tmp_path.iterdir()] == (["run"] if there else [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_record_that_cannot_be_written_leaves_no_directory(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert re.search(f"run.json.*{os.strerror(number)}", refused(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
