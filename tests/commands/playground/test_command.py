"""A playground has its folder for itself, and says what it loads before it does."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.commands.playground.command import open_folder


def test_two_playgrounds_do_not_share_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_folder(str(out)) as folder:
        (folder / "temporary").mkdir()
        with pytest.raises(ValueError, match=f"out={out}"), open_folder(str(out)):
            pass
        assert (folder / "temporary").is_dir()
    with open_folder(str(out)) as again:
        assert again == out


def test_what_is_loaded_is_said_first(ldm_train: Callable, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    answer = ldm_train("playground", f"run_dir={tmp_path}/missing", "port=0")
    assert answer.code == 1
    assert f"loading {tmp_path}/missing" in answer.out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_temporary(number: signal.Signals, trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    words = ["playground", f"run_dir={trained}", f"out={tmp_path / 'out'}", "port=0", "device=cpu"]
    with subprocess.Popen([sys.executable, "-m", "ldm_train", *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "the playground is at" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(60) == 128 + number
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["playground.json"]
