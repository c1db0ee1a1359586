"""The short version of scripts/fault_campaign.py, and what its shim does to a file that is written without care."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
try:
    from faults import shim
finally:
    sys.path.remove(str(SCRIPTS))

LINUX = shim.compiler() is not None and sys.platform.startswith("linux")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not LINUX, reason="the shim needs Linux and a C compiler")]
# Writes, closes and renames without a flush; then a second file with one.
CARELESS = """
import os, sys
from pathlib import Path
from faults.shim import Action, Fault, arm
folder, log, at, action = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Action[sys.argv[4]]
arm([folder], Fault("", at, action, "ENOSPC"), log)
with open(folder / "new", "wb", buffering=0) as file:
    file.write(b"abcdefgh")
os.rename(folder / "new", folder / "file")
with open(folder / "flushed", "wb", buffering=0) as file:
    file.write(b"abcdefgh")
    os.fsync(file.fileno())
os.mkdir(folder / "end")
"""
OPERATIONS = ["create", "write", "rename", "create", "write", "flush", "mkdir"]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shim.build(tmp_path_factory.mktemp("shim"))


def run_careless(library: Path, folder: Path, at: int, action: shim.Action) -> tuple[int, list[shim.Operation], Path]:
    """The exit code, the operations and the log of that script, with a fault."""
    (folder / "world").mkdir()
    words = [sys.executable, "-c", CARELESS, folder / "world", folder / "log", str(at), action.name]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS), **shim.environment(library)}
    code = subprocess.run(words, env=environment, stderr=subprocess.DEVNULL).returncode
    return code, shim.read_log(folder / "log"), folder / "log"


def contents(world: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in world.iterdir() if path.is_file()}


def test_every_operation_is_counted(library: Path, tmp_path: Path) -> None:
    code, operations, _ = run_careless(library, tmp_path, -1, shim.Action.COUNT)
    assert code == 0
    assert [operation.name for operation in operations] == OPERATIONS
    assert operations[2].path == f"{tmp_path}/world/new -> {tmp_path}/world/file"


def test_a_kill_leaves_half_of_a_write(library: Path, tmp_path: Path) -> None:
    code, _, _ = run_careless(library, tmp_path, 2, shim.Action.KILL)
    assert code == -9
    assert contents(tmp_path / "world") == {"new": b"abcd"}


def test_a_power_cut_costs_what_was_not_flushed(library: Path, tmp_path: Path) -> None:
    code, _, log = run_careless(library, tmp_path, 7, shim.Action.POWER_CUT)
    assert code == -9
    assert shim.cut_files(log, tmp_path / "world") == ["file"]
    assert contents(tmp_path / "world") == {"file": b"", "flushed": b"abcdefgh"}


def test_a_full_disk_refuses_the_operation(library: Path, tmp_path: Path) -> None:
    code, operations, _ = run_careless(library, tmp_path, 5, shim.Action.FAIL_FROM_HERE)
    assert code == 1
    assert [operation.number for operation in operations if operation.hit] == [5]
    assert contents(tmp_path / "world") == {"file": b"abcdefgh", "flushed": b""}


COMMANDS = ["report again", "export file", "sample", "encode again", "train continued"]
PAIRS = ["two report", "two encode", "encode swaps the cache while train reads it", "sample while train writes"]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, object]]]:
    """The results of a campaign over some operations of some commands."""
    out = tmp_path_factory.mktemp("campaign") / "results.json"
    words = ["--commands", *COMMANDS, "--pairs", *PAIRS, "--first", "3", "--every", "40", "--out", out]
    done = subprocess.run([sys.executable, SCRIPTS / "fault_campaign.py", *words], capture_output=True, text=True)
    assert out.exists(), done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_fault_costs_nothing(campaign: dict, name: str) -> None:
    row = campaign["commands"][name]
    assert row["faults"] >= 1
    assert [failure for failure in campaign["failures"] if failure["command"] == name] == []


@pytest.mark.parametrize("name", PAIRS)
def test_two_commands_at_once_do_not_mix(campaign: dict, name: str) -> None:
    assert campaign["pairs"][name]["faults"] >= 1
    assert [failure for failure in campaign["failures"] if failure["command"] == name] == []
