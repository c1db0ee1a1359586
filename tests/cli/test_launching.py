"""Processes that torchrun or SLURM started, on several nodes: one run of them all, or a message why not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ldm_train.assembly.trainer import refuse_launch, slurm_plugins, trainer_options
from ldm_train.cli.sweep import refuse_several_processes
from ldm_train.settings.composition import ConfigError, compose_as
from ldm_train.settings.schema.options import TrainerSettings
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.util.processes import is_only_process, launched_rank

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm.sbatch"
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_", "SLURM_")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SLURM = {
    "SLURM_JOB_ID": "1234",
    "SLURM_JOB_NAME": "train",
    "SLURM_NODELIST": "localhost",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def bare() -> dict[str, str]:
    """This environment, as if nothing had launched the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """`environment({...})`: as a launcher sets it, and nothing else of one."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)

    def put(variables: Mapping[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return put


# Whole runs


def together(commands: list[list[str]], environments: list[dict[str, str]], cwd: Path) -> None:
    """Run commands side by side, as nodes do; all must end well."""
    running = [
        subprocess.Popen(
            command,
            env=bare() | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd,
            process_group=0,
        )
        for command, more in zip(commands, environments, strict=True)
    ]
    try:
        answers = [process.communicate(timeout=400)[0] for process in running]
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # one that waits for another in vain, with those that it started
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(answers)


def torchrun_nodes(words: list[str], free_port: int, cwd: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1"]
    rest = [f"--master_port={free_port}", "-m", "ldm_train", *words, "trainer.strategy=ddp"]
    together([[*launch, f"--node_rank={node}", *rest] for node in range(2)], [{}, {}], cwd)


# One process for each task's environment, which all share the imports: these take most of the time.
FORKED = """
import json, os, sys
import ldm_train.commands.train.command
from ldm_train.cli.main import main
environments, words = json.loads(sys.argv[1])
for environment in environments:
    if os.fork() == 0:
        os.environ.update(environment)
        main(words)
sys.exit(max(os.waitstatus_to_exitcode(os.wait()[1]) != 0 for _ in environments))
"""


def slurm_nodes(words: list[str], free_port: int, cwd: Path) -> None:
    tasks = [
        SLURM
        | {
            "SLURM_NTASKS": "2",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_NTASKS_PER_NODE": "1",
            "SLURM_LOCALID": "0",
            "MASTER_PORT": str(free_port),
        }
        | {"SLURM_PROCID": rank, "SLURM_NODEID": rank}
        for rank in ("0", "1")
    ]
    together([[sys.executable, "-c", FORKED, json.dumps([tasks, [*words, "trainer.strategy=fsdp2"]])]], [{}], cwd)


@pytest.mark.parametrize("start", [torchrun_nodes, slurm_nodes])
@pytest.mark.slow
def test_two_nodes_make_the_run_of_one_process(
    start: Callable[[list[str], int, Path], None], cache: Path, trained: Path, train_words: list[str], tmp_path: Path
) -> None:
    """Two nodes on this machine: each has a process of local rank 0, and only one of them writes."""
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    words = [
        "train",
        f"cache={cache}",
        f"run_dir={tmp_path / 'run'}",
        *train_words,
        "trainer.devices=1",
        "pictures.prompts=[]",
        "checkpoint.every=8",
    ]
    start([*words, "trainer.num_nodes=2"], find_free_network_port(), tmp_path)
    ours, theirs = lines(tmp_path / "run"), lines(trained)
    assert len(ours) == len(theirs) == 8
    for line, other in zip(ours, theirs, strict=True):
        assert line == pytest.approx(other, rel=1e-5)
    assert len(json.loads((tmp_path / "run/run.json").read_text())["starts"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# What each process makes of its environment


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, 0),
        (TORCHRUN, 3),
        (TORCHRUN | {"RANK": "2", "LOCAL_RANK": "0"}, 2),
        (SLURM, 3),
        (SLURM | {"SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, 2),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, 1),
    ],
)
def test_the_rank_is_that_among_all_nodes(environment: Callable, variables: dict[str, str], rank: int) -> None:
    environment(variables)
    assert launched_rank() == rank


@pytest.mark.parametrize("variables", [TORCHRUN, SLURM])
@pytest.mark.parametrize("devices", [2, "auto", [0, 1]])
def test_fitting_processes_are_accepted(
    environment: Callable, variables: dict[str, str], devices: int | str | list[int]
) -> None:
    environment(variables)
    refuse_launch(TrainerSettings(devices=devices, num_nodes=2))


@pytest.mark.parametrize(("devices", "num_nodes"), [(1, 1), (4, 1), (1, 4), (2, 1), (4, 2)])
@pytest.mark.parametrize(("variables", "launcher"), [(TORCHRUN, "torchrun"), (SLURM, "SLURM")])
def test_other_processes_are_refused_with_settings_that_fit(
    environment: Callable, variables: dict[str, str], launcher: str, devices: int, num_nodes: int
) -> None:
    environment(variables)
    with pytest.raises(ValueError, match=rf"{launcher} started, 4 .* set trainer.devices=2 trainer.num_nodes=2"):
        refuse_launch(TrainerSettings(devices=devices, num_nodes=num_nodes))


def test_tasks_that_slurm_counts_in_all_only_are_refused(environment: Callable) -> None:
    environment({name: value for name, value in SLURM.items() if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(ValueError, match="give it --ntasks-per-node=2"):
        refuse_launch(TrainerSettings(devices=2, num_nodes=2))


ONE_SHELL = SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.mark.parametrize(
    "variables",
    [
        {
            name: value for name, value in ONE_SHELL.items() if name != "SLURM_STEP_NUM_TASKS"
        },  # salloc, and a script of sbatch
        ONE_SHELL | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty, and salloc with an interactive step
        ONE_SHELL | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_NAME": "interactive"},
    ],
)
def test_a_shell_of_slurm_is_one_process(environment: Callable, variables: dict[str, str]) -> None:
    environment(variables)
    refuse_launch(TrainerSettings(devices=2, num_nodes=1))
    refuse_several_processes()
    assert is_only_process(num_nodes=1)
    assert launched_rank() == 0
    assert [type(plugin).__name__ for plugin in slurm_plugins()] == ["LightningEnvironment"]


def test_tasks_of_srun_within_an_interactive_job_are_its_processes(environment: Callable) -> None:
    environment(SLURM | {"SLURM_JOB_NAME": "interactive"})
    refuse_launch(TrainerSettings(devices=2, num_nodes=2))
    assert launched_rank() == 3
    assert [type(plugin).__name__ for plugin in slurm_plugins()] == ["SLURMEnvironment"]
    with pytest.raises(ConfigError, match="4 processes"):
        refuse_several_processes()


def test_a_command_line_that_does_not_fit_is_reported_before_anything_is_read(
    environment: Callable, cache: Path, train: Callable, tmp_path: Path
) -> None:
    environment(TORCHRUN)
    answer = train(cache, tmp_path / "run")
    assert answer.code == 1
    assert "set trainer.devices=2 trainer.num_nodes=2" in answer.err
    assert not (tmp_path / "run").exists()


def test_lightning_leaves_saving_and_requeueing_to_us(environment: Callable) -> None:
    environment(SLURM)
    trainer = TrainerSettings(devices=2, strategy="ddp", log_every_n_steps=1)
    plugins = trainer_options(trainer)["plugins"]
    assert isinstance(plugins, list)
    assert [plugin.auto_requeue for plugin in plugins if hasattr(plugin, "auto_requeue")] == [False]


# The script


@pytest.fixture
def submit(tmp_path: Path) -> Callable[[int], tuple[int, list[str]]]:
    """`submit(code)` runs the script where srun ends with this code: its own code, and the calls of srun and scontrol."""

    def run(code: int) -> tuple[int, list[str]]:
        calls = tmp_path / "calls"
        for name, ends in (("srun", code), ("scontrol", 0)):
            fake = tmp_path / name
            fake.write_text(f'#!/bin/bash\nprintf "%s|" {name} "$@" >> "{calls}"\necho >> "{calls}"\nexit {ends}\n')
            fake.chmod(0o755)
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        words = ["cache=a folder", "run_dir=run", "trainer.strategy=fsdp2"]
        ended = subprocess.run(
            ["bash", SCRIPT, *words], env=bare() | SLURM | path, check=False, capture_output=True, text=True
        )
        assert ended.stderr == ""
        return ended.returncode, calls.read_text().splitlines()

    return run


def test_the_script_can_be_read() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


@pytest.mark.parametrize("code", [0, 1, 75, 137])
def test_the_script_passes_its_words_and_requeues_what_was_interrupted_alone(submit: Callable, code: int) -> None:
    own, calls = submit(code)
    assert own == code
    program, *words = calls[0].rstrip("|").split("|")
    assert program == "srun"
    assert words[words.index("ldm-train") :] == [
        *("ldm-train", "train", "trainer.num_nodes=2", "trainer.devices=2", "trainer.strategy=ddp"),
        *("cache=a folder", "run_dir=run", "trainer.strategy=fsdp2"),
    ]
    assert calls[1:] == (["scontrol|requeue|1234|"] if code == 75 else [])


def test_the_scripts_words_may_be_overruled() -> None:
    config = compose_as(TrainSettings, ["trainer.strategy=ddp", "cache=a", "run_dir=b", "trainer.strategy=fsdp2"])
    assert config.trainer.strategy == "fsdp2"
