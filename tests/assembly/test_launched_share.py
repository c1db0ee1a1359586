"""Processes that torchrun or SLURM started share the verification of a cache, and go on or refuse together."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldm_train.assembly.launched_share import launched_share
from ldm_train.data.cache.reader import LatentCache
from ldm_train.data.cache.verification import ALONE

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_", "SLURM_", "MASTER_")

DAMAGED = ("captions.jsonl", "entries.jsonl")

# Two processes for each case, all of which share the imports: these take most of the time. Each prints what it read and what
# it was answered, and then forms a group with the other, as the Trainer does.
FORKED = """
import json, os, sys
import torch
import pytorch_lightning.plugins.environments
from ldm_train.assembly.launched_share import launched_share
from ldm_train.assembly.training_data import verify_caches
from ldm_train.data.cache import verification
from ldm_train.data.cache.reader import LatentCache
read, find = [], verification.find_damaged_files
def noted(*arguments, names, **rest):
    read.extend(names)
    return find(*arguments, names=names, **rest)
verification.find_damaged_files = noted
for name, environments, folders, how, minutes in json.loads(sys.argv[1]):
    for rank, environment in enumerate(environments):
        if os.fork() == 0:
            os.environ.update(environment)
            answer = group = None
            try:
                share = launched_share(minutes)
                verify_caches([LatentCache(folder) for folder in folders], how, share=share)
            except ValueError as error:
                answer = str(error)
            else:
                torch.distributed.init_process_group("gloo", rank=share.rank, world_size=share.count)
                group = torch.ones(1)
                torch.distributed.all_reduce(group)
                group = int(group)
            os.write(1, (json.dumps([name, rank, read, answer, group]) + chr(10)).encode())
            os._exit(0)
    for _ in environments:
        os.wait()
"""


def torchrun(rank: int) -> dict[str, str]:
    return {"TORCHELASTIC_RUN_ID": "none", "RANK": f"{rank}", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}


def slurm(rank: int) -> dict[str, str]:
    tasks = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_LOCALID": "0"}
    return tasks | {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost", "SLURM_PROCID": f"{rank}"}


def start(launcher: Callable[[int], dict[str, str]], *, ranks: int = 2) -> list[dict[str, str]]:
    """Return the environments that a launcher gives processes on this machine."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    return [launcher(rank) | place for rank in range(ranks)]


def names_of(folder: Path) -> list[str]:
    return [*LatentCache(folder).manifest.digests()]


@dataclass(frozen=True)
class Found:
    """What one process read, was answered, and counted in the group."""

    read: list[str]
    answer: str | None
    group: int | None


@pytest.fixture(scope="module")
def damaged(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two files that changed: one for the first process to read, and one for the second."""
    folder = Path(shutil.copytree(cache, tmp_path_factory.mktemp("damaged") / "cache"))
    for name in DAMAGED:
        (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    return folder


@pytest.fixture(scope="module")
def found(cache: Path, damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Found]]:
    """By case, what its processes found."""
    folder = str(shutil.copytree(cache, tmp_path_factory.mktemp("whole") / "cache"))
    cases = [
        ("torchrun", start(torchrun), [folder, folder], "content", 2),
        ("slurm", start(slurm), [folder], "content", 2),
        ("damaged", start(slurm), [str(damaged)], "content", 2),
        ("new", start(torchrun), [folder], "stat", 2),
        ("known", start(torchrun), [folder], "stat", 2),
        ("none", start(torchrun), [folder], "none", 2),
        ("alone", start(torchrun, ranks=1), [folder], "content", 0.02),
    ]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FORKED, json.dumps(cases)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=bare, timeout=500)
    assert ended.returncode == 0, ended.stderr
    answers: dict[str, dict[int, Found]] = {name: {} for name, *_ in cases}
    for line in ended.stdout.splitlines():
        name, rank, *rest = json.loads(line)
        answers[name][rank] = Found(*rest)
    assert [len(ranks) for ranks in answers.values()] == [len(environments) for _, environments, *_ in cases], ended.stderr
    return {name: [ranks[rank] for rank in sorted(ranks)] for name, ranks in answers.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "times"), [("torchrun", 2), ("slurm", 1), ("new", 1), ("known", 0), ("none", 0)])
def test_each_file_is_read_by_one_process(case: str, times: int, found: dict[str, list[Found]], cache: Path) -> None:
    first, second = found[case]
    assert sorted(first.read + second.read) == sorted(times * names_of(cache))
    assert not {*first.read} & {*second.read}
    assert bool(first.read) == bool(second.read) == (times > 0)
    assert (first.answer, first.group) == (second.answer, second.group) == (None, 2)


@pytest.mark.slow
def test_all_refuse_what_one_finds(found: dict[str, list[Found]]) -> None:
    first, second = found["damaged"]
    for one, other, name in zip(
        (first, second), (second, first), sorted(DAMAGED, key=first.read.count, reverse=True), strict=True
    ):
        assert name in one.read
        assert name not in other.read
        assert one.answer is not None
        assert name in one.answer
    assert first.answer == second.answer
    assert first.group is None


@pytest.mark.slow
def test_a_process_that_waits_in_vain_says_for_how_long(found: dict[str, list[Found]]) -> None:
    (only,) = found["alone"]
    assert only.answer is not None
    assert "trainer.timeout_minutes=0.02" in only.answer


def test_one_process_has_all_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    assert launched_share(1) == ALONE
    monkeypatch.setenv("LOCAL_RANK", "1")  # which Lightning starts when the first one has verified
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert launched_share(1) is None
