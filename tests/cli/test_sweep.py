"""Sweeps: what is run, under which names, in what order of checks, and how it ends; jobs are processes of their own."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldm_train.assembly.child_processes import Jobs
from ldm_train.cli.sweep import sweep
from ldm_train.cli.sweep_jobs import LONGEST, Job, job_name
from ldm_train.cli.sweep_plan import plan_sweep
from ldm_train.settings.composition import ConfigError, compose, groups
from ldm_train.settings.schema.options import select

TRAIN = ["cache=x", "run_dir=out/s"]


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """`codes(0, 1)`: the jobs end with these at once; gives the list that their commands will be in."""

    def answer(*values: int) -> list[list[str]]:
        left: Iterator[int] = iter(values)
        started: list[list[str]] = []

        def run(self: Jobs, command: list[str]) -> int:
            started.append(command)
            return next(left)

        monkeypatch.setattr(Jobs, "run", run)
        return started

    return answer


def list_jobs(verb: str, words: list[str]) -> list[Job]:
    return plan_sweep(verb, words, searches=False).jobs()


def names(*words: str) -> list[str]:
    return [Path(job.directory).name for job in list_jobs("train", [*TRAIN, *words])]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=0,1"], ["seed=0", "seed=1"]),
        (["seed=choice(3)"], ["seed=3"]),
        (["seed=range(1,4)"], ["seed=1", "seed=2", "seed=3"]),
        (
            ["seed=0,1", "optimizer.lr=1e-3,1e-4"],
            [f"optimizer.lr={lr},seed={seed}" for seed in (0, 1) for lr in ("0.001", "0.0001")],
        ),
        (["schedule=glob(*linear)"], ["schedule=linear", "schedule=scaled_linear"]),
        (["seed=5", "seed=0,1"], ["seed=0", "seed=1"]),
        (["seed=0,1", "seed=4,5"], ["seed=4", "seed=5"]),
        (["+network.resample=a,b"], ["network.resample=a", "network.resample=b"]),
    ],
)
def test_the_words_are_hydras_and_name_the_directories(words: list[str], expected: list[str]) -> None:
    assert names(*words) == expected


@pytest.mark.parametrize(
    ("verb", "word", "values"),
    [
        ("train", "cache=1e3,2e3", ["1e3", "2e3"]),
        ("train", "cache=choice(1e3,2026_1_12)", ["1e3", "2026_1_12"]),
        ("train", "network.weights=2026_1_12,2026_1_13", ["2026_1_12", "2026_1_13"]),
        ("train", "cache=my pics (1),it's me", ["my pics (1)", "it's me"]),
        ("train", "cache=[1e3,2e3],[a b]", [["1e3", "2e3"], ["a b"]]),
        ("train", "max_time=11:30:00,12:00:00", ["11:30:00", "12:00:00"]),
        ("train", "compile=null,inductor", [None, "inductor"]),
        ("sample", "run_dir=2026_1_12,a b", ["2026_1_12", "a b"]),
        ("sample", "prompts=a fox,'a cat, asleep'", ["a fox", "a cat, asleep"]),
        ("sample", "adapters={2024_01:1},{a b:0.5}", [{"2024_01": 1}, {"a b": 0.5}]),
        ("encode", "source.prefix=a photo of ,a ", ["a photo of ", "a "]),
    ],
)
def test_texts_and_paths_of_jobs_are_as_they_were_typed(verb: str, word: str, values: list[object]) -> None:
    needed = {
        "train": [*TRAIN],
        "sample": ["run_dir=r", "prompts=p", "out=out/s"],
        "encode": ["source.path=x", "cache=out/s"],
    }[verb]
    jobs = list_jobs(verb, [*needed, word])
    assert [select(compose(verb, job.words[1:]), word.partition("=")[0]) for job in jobs] == values
    assert len({job.directory for job in jobs}) == len(values)


@pytest.mark.parametrize(("typed", "folder"), [("2026_1_12", "2026_1_12"), ("~/a b", "{home}/a b"), ("'a,b'", "a,b")])
def test_the_folder_of_a_sweep_is_as_it_was_typed(typed: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    [job] = list_jobs("train", ["cache=x", f"run_dir={typed}", "seed=choice(1)"])
    assert job.directory == f"{folder.format(home='/home/me')}/seed=1"
    assert select(compose("train", job.words[1:]), "run_dir") == job.directory


def test_every_file_of_settings_and_every_grant_reaches_the_jobs() -> None:
    [job] = list_jobs("train", [*TRAIN, "config=a", "config=b", "trust=one", "trust=two", "seed=choice(1)"])
    assert [word for word in job.words if word.startswith(("config", "trust"))] == [
        "config=a",
        "config=b",
        "trust=one",
        "trust=two",
    ]


def test_a_glob_takes_all_options() -> None:
    assert names("sampler=glob(*)") == [f"sampler={option}" for option in groups()["sampler"]]


def test_names_stay_when_values_are_added_and_words_change_places() -> None:
    before = names("seed=0,1", "optimizer.lr=1e-3,1e-4")
    assert set(before) < set(names("optimizer.lr=0.0001,0.001,0.01", "max_steps=5", "seed=0,1,2"))


@pytest.mark.parametrize("value", ["a/b", "../../x", "[16,32]", "'a b'", "ä", "x" * 500, "a\x00b", "*", "~"])
def test_a_name_is_one_folder_on_any_file_system(value: str) -> None:
    name = job_name({"network.weights": value})
    assert "/" not in name
    assert name.isascii()
    assert name.isprintable()
    assert not set(name) & set("*?<>|:\"\\' ~[]")
    assert len(name) <= LONGEST + 9


def test_what_is_replaced_or_cut_in_names_does_not_make_them_the_same() -> None:
    values = ["a/b", "a_b", "a*b", "x" * 500, "x" * 501, "x" * 500 + "y"]
    assert len({job_name({"prompts": value}) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["seed=3"], "sweeps nothing: give a setting of train several values, as in seed=0,1"),
        (["seed=0,1", "run_dir=a,b"], "needs run_dir=…, the one folder in which each job has its own"),
        (["seed=0,1", "run_dir=null"], "needs run_dir=…"),
        (["seed=interval(0,1)"], "seed=interval(0,1): hydra/sweeper=optuna"),
        (["seed=0,[1"], "'seed=0,[1' cannot be read"),
        (
            ["seed=0,1", "batchsize=3"],
            "job 1 of 2 (seed=0): unknown setting 'batchsize' of train; did you mean 'batch_size'",
        ),
        (["seed=0,1,many"], "job 3 of 3 (seed=many): seed=many is not accepted"),
        (["schedule=cosine,linaer"], "job 2 of 2 (schedule=linaer): schedule=linaer is no option"),
        (["optimizer.lr=1e-3,-1e-3"], "job 2 of 2 (optimizer.lr=-0.001): optimizer.lr=-0.001 must be at least 0"),
    ],
)
def test_all_jobs_are_checked_before_the_first_one_starts(words: list[str], reported: str, codes: Callable) -> None:
    started = codes()
    with pytest.raises(ConfigError) as refused:
        sweep("train", ["--multirun", *TRAIN, *words])
    assert reported in str(refused.value)
    assert started == []


@pytest.mark.parametrize(
    ("ends", "code", "run"),
    [
        ((0, 0, 0), 0, 3),
        ((1, 0, 2), 1, 3),
        ((-signal.SIGSEGV, 0, 0), 1, 3),
        ((0, 75), 75, 2),
        ((1, 75), 75, 2),
        ((130,), 130, 1),
        ((-signal.SIGINT,), 130, 1),
        ((0, -signal.SIGTERM), 143, 2),
    ],
)
def test_a_failed_job_stops_no_other_and_an_interrupted_one_ends_the_sweep(
    ends: tuple[int, ...], code: int, run: int, codes: Callable, tmp_path: Path
) -> None:
    started = codes(*ends)
    assert sweep("train", ["-m", "cache=x", f"run_dir={tmp_path}/s", "seed=0,1,2"]) == code
    assert len(started) == run
    jobs = json.loads((tmp_path / "s/sweep.json").read_text())["jobs"]
    assert [job["code"] for job in jobs] == [*ends, None, None][:3]


def test_a_sweep_leaves_a_folder_alone_that_is_not_its_own(codes: Callable, tmp_path: Path) -> None:
    words, started = ["-m", "cache=x", f"run_dir={tmp_path}/data", "seed=0,1"], codes(0, 0)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/captions.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=f"run_dir={tmp_path}/data"):
        sweep("train", words)
    with pytest.raises(ConfigError, match="run_dir"):
        sweep("train", ["-m", "cache=x", "run_dir=", "seed=0,1"])
    assert started == []
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["captions.jsonl"]
    (tmp_path / "data/captions.jsonl").rename(tmp_path / "data/seed=0")  # a job that another launcher ran
    assert sweep("train", words) == 0


def test_the_table_is_written_after_each_job_and_keeps_what_was_swept_before(
    codes: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, base = tmp_path / "s/sweep.json", [f"run_dir={tmp_path}/s", "cache=x", "-m"]
    codes(0)
    sweep("train", [*base, "seed=choice(7)"])
    written: list[list[int | None]] = []

    def run(self: Jobs, command: list[str]) -> int:
        written.append([job["code"] for job in json.loads(table.read_text())["jobs"]])
        directory = Path(command[-1].partition("=")[2].strip('"'))
        directory.mkdir()
        (directory / "metrics.jsonl").write_text(
            '{"step": 1, "loss": 3.0, "validation_loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"st'
        )
        return 3

    monkeypatch.setattr(Jobs, "run", run)
    sweep("train", [*base, "seed=0,1"])
    assert written == [[None, None, 0], [3, None, 0]]
    jobs = json.loads(table.read_text())["jobs"]
    assert [(job["swept"], job["code"]) for job in jobs] == [({"seed": "0"}, 3), ({"seed": "1"}, 3), ({"seed": "7"}, 0)]
    assert jobs[0]["metrics"] == {"step": 2, "loss": 1.0, "validation_loss": 2.0}
    assert jobs[0]["directory"] == f"{tmp_path}/s/seed=0"
    assert sorted(path.name for path in table.parent.iterdir() if path.is_file()) == ["multirun.yaml", "sweep.json"]


def test_the_terminal_shows_values_codes_and_metrics(codes: Callable, tmp_path: Path, ldm_train: Callable) -> None:
    codes(0, 1)
    for seed, loss in ((0, 0.125), (1, 0.5)):
        (tmp_path / f"s/seed={seed}").mkdir(parents=True)
        (tmp_path / f"s/seed={seed}/metrics.jsonl").write_text(json.dumps({"step": 8, "grad_norm": 9, "loss": loss}) + "\n")
    answer = ldm_train("train", "--multirun", "cache=x", f"run_dir={tmp_path}/s", "seed=0,1")
    assert answer.code == 1
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in answer.out.splitlines() if line.startswith("│")]
    assert rows == [["0", "0", "8", "0.125", "9", "seed=0"], ["1", "1", "8", "0.5", "9", "seed=1"]]


@pytest.mark.parametrize(
    ("verb", "words", "place"),
    [
        ("train", ["cache=x", "run_dir=out/a b"], "run_dir"),
        ("train_autoencoder", ["source.path=x", "run_dir=out/s"], "run_dir"),
        ("sample", ["run_dir=r", "prompts=['a, b=c','d\"e']", "out=out/s"], "out"),
        ("sample", ["run_dir=it's 1e3", "prompts=['a, b=c','d\"e']", "negative_prompt= a ", "out=out/s"], "out"),
        ("evaluate", ["run_dir=r", "out=out/s"], "out"),
    ],
)
def test_printed_commands_are_those_of_the_jobs(verb: str, words: list[str], place: str, ldm_train: Callable) -> None:
    answer = ldm_train(verb, "--multirun", "--dry-run", *words, "seed=0,1")
    assert answer.code == 0
    for job, line in zip(list_jobs(verb, [*words, "seed=0,1"]), answer.out.splitlines(), strict=True):
        command, named, *own = shlex.split(line)
        assert (command, named, own) == ("ldm-train", verb, job.words[1:])
        config = compose(verb, own)
        assert select(config, place) == job.directory
        assert select(config, "seed") == int(job.swept["seed"])
    assert select(config, "prompts") in (None, ["a, b=c", 'd"e'])


def test_an_evaluation_is_a_file_of_its_own() -> None:
    assert [job.directory for job in list_jobs("evaluate", ["run_dir=r", "out=o", "steps=5,10"])] == [
        "o/steps=5.json",
        "o/steps=10.json",
    ]


def test_a_sweep_started_in_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch, codes: Callable) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    started = codes()
    with pytest.raises(ConfigError, match="started in 2 processes"):
        sweep("train", ["-m", *TRAIN, "seed=0,1"])
    assert started == []


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["optimizer.lr=1e-3,1e-4"], "--multirun"),
        (["seed=range(0,3)"], "--multirun"),
        (["seed=0,1", "--dry-run"], "goes with --multirun"),
    ],
)
def test_several_values_alone_are_an_error_that_names_the_flag(words: list[str], reported: str, ldm_train: Callable) -> None:
    answer = ldm_train("train", *TRAIN, *words)
    assert answer.code == 2
    assert reported in answer.err


def test_a_job_is_found_by_its_directory_without_quotes() -> None:
    [job] = list_jobs("train", [*TRAIN, "optimizer.lr=choice(1e-3)", "network.channels=choice([16,32])"])
    assert select(compose("sample", [f"run_dir={job.directory}", "prompts=[a]", "out=o"]), "run_dir") == job.directory


PASSING = '''
import sys
from ldm_train.assembly.child_processes import Jobs
job = """
import signal, sys, time
signal.signal(signal.{name}, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""
with Jobs() as jobs:
    code = jobs.run([sys.executable, "-c", job])
    print(code, jobs.stopped == {number}, jobs.code(code))
'''


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_a_signal_goes_to_the_running_job(number: signal.Signals) -> None:
    script = PASSING.format(name=number.name, number=int(number))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "75 True 75\n"
    assert process.returncode == 0


@pytest.mark.parametrize(("ended", "code"), [(75, 75), (0, 143), (1, 143), (130, 130), (-signal.SIGTERM, 143)])
def test_a_sweep_that_was_stopped_says_so_whatever_its_job_did(ended: int, code: int) -> None:
    jobs = Jobs()
    jobs.stopped = signal.SIGTERM
    assert jobs.code(ended) == code


def test_signals_are_as_they_were_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Jobs():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def losses(run_dir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_real_jobs_train_on_one_process_and_on_two(
    cache: Path, train_words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job on two processes is started as one, and the two jobs are the same run, to rounding."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = ["-m", f"cache={cache}", f"run_dir={tmp_path}/s", *train_words, "max_steps=2", "trainer.strategy=ddp"]
    assert sweep("train", [*words, "trainer.devices=1,2"]) == 0
    one, two = (losses(tmp_path / f"s/trainer.devices={count}") for count in (1, 2))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-5)
    jobs = json.loads((tmp_path / "s/sweep.json").read_text())["jobs"]
    assert [(job["code"], job["metrics"]["step"]) for job in jobs] == [(0, 2), (0, 2)]
    assert [job["metrics"]["loss"] for job in jobs] == [one[-1], two[-1]]
