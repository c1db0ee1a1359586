"""Sweeps by Hydra's own launchers and sweepers: which are accepted, what a job counts with, and how a search goes on."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ldm_train.assembly.child_processes import Jobs
from ldm_train.cli import plugin_words, sweep_plugins
from ldm_train.cli.plugin_words import split_plugins
from ldm_train.cli.sweep import sweep
from ldm_train.cli.sweep_objective import MissingMetricError, Objective, choose_objective
from ldm_train.cli.sweep_plan import plan_sweep
from ldm_train.settings.composition import ConfigError
from ldm_train.settings.trust import Grants, granted


def needs(plugin: str, extra: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(plugin) is None
    return pytest.mark.skipif(missing, reason=f"{plugin} is not installed: pip install 'ldm-train[{extra}]'")


JOBLIB = needs("hydra_plugins.hydra_joblib_launcher", "joblib")
SUBMITIT = needs("hydra_plugins.hydra_submitit_launcher", "submitit")
AX = needs("hydra_plugins.hydra_ax_sweeper", "ax")
WITHOUT_AX = pytest.mark.skipif(not AX.args[0], reason="hydra_plugins.hydra_ax_sweeper is installed")
OPTUNA = needs("hydra_plugins.hydra_optuna_sweeper", "optuna")
IGNORE = pytest.mark.filterwarnings("ignore")  # what Optuna and its libraries deprecate of each other
TRAIN = ["cache=x", "max_steps=4"]
SEARCH = ["--multirun", *TRAIN, "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=1"]


def write_job(directory: Path, lines: Sequence[dict[str, float]]) -> None:
    """Write what the table, the search and `ldm-train runs` read of a run."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text("max_steps: 4\nseed: 0\n")
    (directory / "run.json").write_text('{"content": "x", "starts": []}')
    (directory / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i + 1, **line}) + "\n" for i, line in enumerate(lines))
    )


def directory_of(command: Sequence[str]) -> Path:
    return Path(command[-1].partition("=")[2].strip('"'))


def value_in(command: Sequence[str], name: str) -> float:
    [word] = [word for word in command if word.startswith(f"{name}=")]
    return float(word.partition("=")[2])


class FakeJobs:
    """Answers instead of a job's process: a run with a loss that a rate of 0.01 makes lowest.

    Args:
        codes: exit codes by the number of the job, from 0; all others end with 0.
    """

    def __init__(self) -> None:
        self.codes: dict[int, int] = {}
        self.rates: list[float] = []

    def __call__(self, jobs: Jobs, command: list[str]) -> int:
        rate = value_in(command, "optimizer.lr")
        self.rates.append(rate)
        code = self.codes.get(len(self.rates) - 1, 0)
        if code == 0:
            loss = abs(rate - 0.01)
            write_job(directory_of(command), [{"validation_loss": loss}, {"validation_loss": loss + 1}])
        return code


@pytest.fixture
def fake_jobs(monkeypatch: pytest.MonkeyPatch) -> FakeJobs:
    fake = FakeJobs()
    monkeypatch.setattr(Jobs, "run", lambda self, command: fake(self, command))
    return fake


def read_jobs(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep.json").read_text())["jobs"]


# Which words are accepted


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["hydra/launcher=jolib"], ["hydra/launcher=jolib", "basic", "joblib", "submitit_slurm", "did you mean 'joblib'"]),
        (["hydra/sweeper=optuma"], ["hydra/sweeper=optuma", "basic", "ax", "did you mean 'optuna'"]),
        pytest.param(["hydra/sweeper=ax"], ["pip install 'ldm-train[ax]'", "hydra-core 1.4"], marks=WITHOUT_AX),
        (["hydra/launcher=absent"], ["pip install 'ldm-train[anywhere]'"]),
        (["hydra.run.dir=x"], ["hydra.run.dir=x", "hydra/launcher", "hydra.sweeper.NAME"]),
        (["hydra.sweep.dir=x"], ["hydra.sweep.dir=x"]),
        (["hydra/job_logging=none"], ["hydra/job_logging=none"]),
        (["hydra/launcher"], ["hydra/launcher"]),
        (["hydra.searchpath=[x]"], ["hydra.searchpath=[x]"]),
        (["hydra.launcher._target_=os.system"], ["_target_"]),
        (["+hydra.launcher.x={_target_:os.system}"], ["_target_"]),
        (["hydra.sweeper.custom_search_space=mine.space"], ["custom_search_space", "trust="]),
        (["objective=validation_loss"], ["objective=validation_loss", "hydra/sweeper=optuna"]),
    ],
)
def test_words_that_are_refused_name_what_is_accepted(
    words: list[str], reported: list[str], ldm_train: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(plugin_words.EXTRAS["launcher"], "absent", "anywhere")
    answer = ldm_train("train", "--multirun", *TRAIN, f"run_dir={tmp_path}/s", "seed=0,1", *words)
    assert answer.code == 2
    for text in reported:
        assert text in answer.err
    assert not (tmp_path / "s").exists()


@JOBLIB
def test_an_unknown_setting_of_a_plugin_is_reported_with_the_nearest(ldm_train: Callable) -> None:
    words = ["hydra/launcher=joblib", "hydra.launcher.n_job=2"]
    answer = ldm_train("train", "--multirun", *TRAIN, "run_dir=s", "seed=0,1", *words)
    assert answer.code == 2
    assert "did you mean 'n_jobs'" in answer.err


@pytest.mark.parametrize("word", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "objective=loss"])
def test_what_only_a_sweep_has_is_refused_without_one(word: str, ldm_train: Callable) -> None:
    answer = ldm_train("train", *TRAIN, "run_dir=x", word)
    assert answer.code == 2
    assert "--multirun" in answer.err
    assert word in answer.err


FILES = ["hydra: {launcher: {_target_: os.system}}", "hydra/launcher: joblib", "hydra.searchpath: [x]", "objective: loss"]


@pytest.mark.parametrize("text", FILES)
def test_a_file_cannot_choose_a_launcher(text: str, ldm_train: Callable, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    answer = ldm_train("train", *TRAIN, "run_dir=x", f"config={tmp_path}/settings.yaml")
    assert answer.code == 2
    assert text.partition(":")[0] in answer.err


def test_a_function_of_a_trusted_package_may_make_the_search_space() -> None:
    word = "hydra.sweeper.custom_search_space=mine.space"
    with granted(Grants(packages=("mine",))):
        assert split_plugins(["seed=1", word]) == (["seed=1"], plugin_words.PluginWords((word,)))


# What is swept, as the sweeper gets it


def test_a_search_draws_from_ranges_and_from_texts_as_they_were_typed() -> None:
    words = ["cache=1e3,a b", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "seed=range(0,3)", "schedule=linear,cosine"]
    plan = plan_sweep("train", [*words, "run_dir=s"], searches=True)
    assert plan.hydra_words() == [
        'cache="1e3","a b"',
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "seed=range(0,3)",
        'schedule="linear","cosine"',
    ]
    jobs = plan.jobs()
    assert len(jobs) == 4
    for name, values in (("optimizer.lr", {"0.0001", "0.01"}), ("seed", {"0", "1", "2", "3"}), ("cache", {"1e3", "a b"})):
        assert {job.swept[name] for job in jobs} == values


def test_an_option_and_a_setting_of_it_may_both_be_swept() -> None:
    plan = plan_sweep("train", ["optimizer=adamw,adam", "optimizer.lr=1e-3,1e-4", "run_dir=s"], searches=False)
    assert [word.partition("=")[0] for word in plan.hydra_words()] == ["optimizer.option", "optimizer.lr"]


@OPTUNA
def test_the_ends_of_a_search_are_checked_before_the_first_job(ldm_train: Callable, fake_jobs: FakeJobs) -> None:
    answer = ldm_train("train", *SEARCH, "run_dir=s", "optimizer.lr=interval(-1.0,1.0)")
    assert answer.code == 2
    assert "optimizer.lr=-1.0" in answer.err
    assert fake_jobs.rates == []


@OPTUNA
def test_a_dry_run_of_a_search_prints_the_ends(ldm_train: Callable) -> None:
    answer = ldm_train("train", *SEARCH, "--dry-run", "run_dir=s", "optimizer.lr=interval(0.001,0.1)")
    assert answer.code == 0
    assert [line.split()[4] for line in answer.out.splitlines()] == ["optimizer.lr=0.001", "optimizer.lr=0.1"]
    assert "optuna" in answer.err


# The objective


@pytest.mark.parametrize(
    ("name", "lowest", "value"),
    [("validation_loss", True, 1.0), ("validation_loss", False, 3.0), ("kid_x", True, 0.5), ("metrics/kid_x", True, 0.5)],
)
def test_a_job_counts_with_its_best_finite_value(name: str, lowest: bool, value: float, tmp_path: Path) -> None:
    lines = [{"validation_loss": 3.0, "metrics/kid_x": 0.5}, {"validation_loss": 1.0}, {"validation_loss": float("nan")}]
    write_job(tmp_path / "run", lines)
    assert Objective(name, lowest).read_best(tmp_path / "run") == value


def test_an_evaluation_counts_with_a_number_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"kind": "evaluation", "kid_x": 0.25}')
    assert Objective("kid_x", lowest=True).read_best(tmp_path / "one.json") == 0.25


def test_a_metric_that_no_job_logged_is_reported_with_the_nearest(tmp_path: Path) -> None:
    write_job(tmp_path / "run", [{"validation_loss": 3.0, "metrics/kid_x": 0.5}])
    with pytest.raises(MissingMetricError, match=r"objective=kid_y .*kid_x.*validation_loss.*did you mean 'kid_x'"):
        Objective("kid_y", lowest=True).read_best(tmp_path / "run")
    write_job(tmp_path / "run", [{"validation_loss": float("nan")}])
    with pytest.raises(ValueError, match="no finite value of objective=validation_loss"):
        Objective("validation_loss", lowest=True).read_best(tmp_path / "run")


@pytest.mark.parametrize(
    ("verb", "words", "minimizes", "expected"),
    [
        ("train", ["seed=1"], None, Objective("validation_loss", lowest=True)),
        ("train_autoencoder", [], None, Objective("held_out_psnr", lowest=False)),
        ("evaluate", ["objective=clip_score_x"], None, Objective("clip_score_x", lowest=False)),
        ("train", ["objective=loss"], False, Objective("loss", lowest=False)),
    ],
)
def test_the_objective_has_a_default_and_a_direction(
    verb: str, words: list[str], minimizes: bool | None, expected: Objective
) -> None:
    assert choose_objective(verb, words, searches=True, minimizes=minimizes)[1] == expected


@pytest.mark.parametrize(
    ("verb", "words", "reported"),
    [
        ("train", ["objective=validation_los"], "did you mean 'validation_loss'"),
        ("evaluate", [], "objective=NAME"),
        ("sample", [], "train"),
    ],
)
def test_an_objective_that_cannot_be_is_refused_before_any_job(verb: str, words: list[str], reported: str) -> None:
    with pytest.raises(ConfigError, match=reported):
        choose_objective(verb, words, searches=True)


SWEEPERS = [
    pytest.param([], id="basic"),
    pytest.param(
        ["hydra/sweeper=optuna", "hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=30"], id="optuna", marks=OPTUNA
    ),
]


@IGNORE
@pytest.mark.slow
@pytest.mark.parametrize("sweeper", SWEEPERS)
def test_a_job_gets_the_words_that_were_typed_whatever_they_hold(
    sweeper: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        "1e3",
        "007",
        "a b",
        " a ",
        "it's",
        "a=b",
        "'a, b'",
        "a:b",
        "{a}",
        "[a]",
        "a\\\\b",
        "a\\",
        'say "a"',
        "ünï",
        "#a",
        "~a",
        "$(a)",
    ]
    words = ["prompts=" + ",".join(texts), "seed=choice(1)", "run_dir=r", "objective=kid_x"]
    started: list[list[str]] = []

    def run(self: Jobs, command: list[str]) -> int:
        started.append(command[3:])
        return 1

    monkeypatch.setattr(Jobs, "run", run)
    given = [*words[:3], f"out={tmp_path}/s", *(sweeper and words[3:])]
    sweep("evaluate", ["-m", *given, *sweeper])
    jobs = plan_sweep("evaluate", [*words[:3], f"out={tmp_path}/s"], searches=False).jobs()
    assert len(jobs) == len(texts)
    assert sorted(started) == sorted(job.words for job in jobs)


# Searches


@OPTUNA
@IGNORE
@pytest.mark.slow
def test_a_search_improves_the_objective_and_prints_the_best_first(
    fake_jobs: FakeJobs, tmp_path: Path, ldm_train: Callable
) -> None:
    fake_jobs.codes = {1: 3}  # which a search survives
    words = [*SEARCH, f"run_dir={tmp_path}/s", "hydra.sweeper.n_trials=4", "optimizer.lr=interval(0.001,0.1)"]
    answer = ldm_train("train", *words, "schedule=linear,cosine")
    assert answer.code == 1, answer.err
    jobs = read_jobs(tmp_path / "s")
    assert [job["code"] for job in jobs] == [0, 3, 0, 0]
    rates = [float(job["swept"]["optimizer.lr"]) for job in jobs]
    assert rates == fake_jobs.rates
    assert [job["value"] for job in jobs if job["code"] == 0] == pytest.approx(
        [abs(r - 0.01) for r in rates[:1] + rates[2:]]
    )
    rows = [line.split("│")[1:-1] for line in answer.out.splitlines() if line.startswith("│")]
    values = [float(row[3]) for row in rows if row[3].strip()]
    assert values == sorted(values)
    assert len(values) == 3
    listed = ldm_train("runs", f"{tmp_path}/s")
    assert listed.code == 0
    assert all(job["directory"].rpartition("/")[2] in listed.out for job in jobs if job["code"] == 0)


@OPTUNA
@IGNORE
@pytest.mark.parametrize("sampler", ["cmaes", "grid"])
def test_a_sampler_that_unpickles_gets_no_study_from_the_folder(sampler: str, tmp_path: Path) -> None:
    from ldm_train.cli.optuna_study import study_words

    objective = Objective("loss", lowest=True)
    for given, stored in (([], True), ([f"hydra/sweeper/sampler={sampler}"], False)):
        _, plugins = split_plugins(["hydra/sweeper=optuna", *given])
        assert any("optuna.db" in word for word in study_words(tmp_path, plugins, objective)) == stored


@OPTUNA
def test_a_storage_of_ones_own_needs_the_name_of_a_study(tmp_path: Path) -> None:
    from ldm_train.cli.optuna_study import study_words

    _, plugins = split_plugins(["hydra/sweeper=optuna", "hydra.sweeper.storage=sqlite:///a.db"])
    with pytest.raises(ConfigError, match="study_name"):
        study_words(tmp_path, plugins, Objective("loss", lowest=True))


@OPTUNA
@IGNORE
@pytest.mark.slow
@pytest.mark.parametrize("code", [75, -signal.SIGINT])
def test_an_interrupted_search_goes_on_with_the_job_that_was_cut_off(
    code: int, fake_jobs: FakeJobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*SEARCH, f"run_dir={tmp_path}/s", "hydra.sweeper.n_trials=3", "optimizer.lr=interval(0.001,0.1)"]
    fake_jobs.codes = {1: code}
    assert sweep("train", words) == (75 if code == 75 else 130)
    assert len(fake_jobs.rates) == 2
    assert (tmp_path / "s/optuna.db").is_file()
    assert sweep("train", words) == 0
    first, cut_off, again, last = fake_jobs.rates
    assert again == cut_off
    assert len({first, cut_off, last}) == 3, "a sampler with a seed draws other values"
    assert [job["code"] for job in read_jobs(tmp_path / "s")] == [0, 0, 0]
    assert sweep("train", words) == 0
    assert len(fake_jobs.rates) == 4, "all three trials have a value"
    assert sweep("train", [*words, "objective=loss"]) == 1
    assert "objective=validation_loss" in capsys.readouterr().err


@OPTUNA
@IGNORE
@pytest.mark.slow
def test_a_search_keeps_its_lists_of_values(fake_jobs: FakeJobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SEARCH, f"run_dir={tmp_path}/s", "hydra.sweeper.n_trials=1", "optimizer.lr=interval(0.001,0.1)"]
    assert sweep("train", [*words, "schedule=linear,cosine"]) == 0
    more = [*words, "hydra.sweeper.n_trials=2"]
    assert sweep("train", [*more, "schedule=linear,rectified_flow"]) == 1
    assert "schedule=linear,cosine" in (said := capsys.readouterr().err)
    assert "linear,rectified_flow" in said
    assert "optuna on basic" not in said
    assert sweep("train", [*more[:-2], "optimizer.lr=0.01,0.02", "schedule=linear,cosine", more[-1]]) == 1
    assert "optimizer.lr=a range" in capsys.readouterr().err
    assert len(fake_jobs.rates) == 1
    assert sweep("train", [*more, "schedule=linear,cosine"]) == 0
    assert len(fake_jobs.rates) == 2


@OPTUNA
@IGNORE
@pytest.mark.slow
def test_a_search_of_which_all_jobs_fail_names_them(
    fake_jobs: FakeJobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_jobs.codes = {0: 3, 1: 1}
    words = [*SEARCH, f"run_dir={tmp_path}/s", "hydra.sweeper.n_trials=2", "optimizer.lr=interval(0.001,0.1)"]
    assert sweep("train", words) == 1
    said = capsys.readouterr().err
    for part in ("objective=validation_loss", "exit code 3", "exit code 1", "optimizer.lr="):
        assert part in said
    assert "optuna on basic" not in said


@OPTUNA
@IGNORE
@pytest.mark.slow
def test_a_search_for_what_no_job_logs_ends_after_the_first_job_which_is_kept(
    fake_jobs: FakeJobs, tmp_path: Path, ldm_train: Callable
) -> None:
    words = [*SEARCH, f"run_dir={tmp_path}/s", "hydra.sweeper.n_trials=3", "optimizer.lr=interval(0.001,0.1)"]
    answer = ldm_train("train", *words, "objective=clip_score_x")
    assert answer.code == 1
    assert "objective=clip_score_x" in answer.err
    assert "validation_loss" in answer.err
    assert len(fake_jobs.rates) == 1
    assert [job["code"] for job in read_jobs(tmp_path / "s")] == [0]
    assert sweep("train", words) == 0
    assert fake_jobs.rates[1] == fake_jobs.rates[0], "the first job gives its value"
    assert len(read_jobs(tmp_path / "s")) == 3


@AX
@IGNORE
@pytest.mark.slow
def test_ax_searches_too(fake_jobs: FakeJobs, tmp_path: Path) -> None:
    ax = ["hydra/sweeper=ax", "hydra.sweeper.ax_config.max_trials=3"]
    assert sweep("train", ["-m", *TRAIN, *ax, f"run_dir={tmp_path}/s", "optimizer.lr=interval(0.001,0.1)"]) == 0
    jobs = read_jobs(tmp_path / "s")
    assert [float(job["swept"]["optimizer.lr"]) for job in jobs] == pytest.approx(fake_jobs.rates)
    assert [job["value"] for job in jobs] == pytest.approx([abs(rate - 0.01) for rate in fake_jobs.rates])
    assert len(jobs) == 3


# Launchers: real processes

STUB = """
import json, sys
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[2:])
run_dir = Path(words["run_dir"].strip('"'))
run_dir.mkdir()
(run_dir / "config.yaml").write_text("max_steps: 4\\nseed: " + words["seed"] + "\\n")
(run_dir / "run.json").write_text('{"content": "x", "starts": []}')
(run_dir / "metrics.jsonl").write_text(json.dumps({"step": 4, "validation_loss": float(words["seed"])}) + "\\n")
sys.exit(int(words["seed"]) // 3)
"""
SLEEPER = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
Path(sys.argv[0] + sys.argv[-1].strip('"')[-1]).touch()
time.sleep(100)
"""
START = """
import sys
from ldm_train.cli import sweep_plugins
from ldm_train.cli.sweep import sweep
sweep_plugins.PROGRAM = (sys.executable, sys.argv[1])
raise SystemExit(sweep("train", sys.argv[2:]))
"""


@pytest.mark.slow
@IGNORE
@pytest.mark.parametrize("launcher", [pytest.param("joblib", marks=JOBLIB), pytest.param("submitit_local", marks=SUBMITIT)])
def test_a_launcher_runs_each_job_into_its_own_directory(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(sweep_plugins, "PROGRAM", (sys.executable, str(tmp_path / "stub.py")))
    words = [*TRAIN, f"run_dir={tmp_path}/s", f"hydra/launcher={launcher}"]
    assert sweep("train", ["-m", *words, "seed=1,3"]) == 1
    jobs = read_jobs(tmp_path / "s")
    assert [(job["swept"]["seed"], job["code"], job["metrics"]["validation_loss"]) for job in jobs] == [
        ("1", 0, 1.0),
        ("3", 1, 3.0),
    ]
    assert (tmp_path / "s/seed=1/metrics.jsonl").is_file()
    assert "seed=3" in capsys.readouterr().out


@pytest.mark.slow
@IGNORE
@SUBMITIT
def test_a_local_job_that_starts_before_submitit_named_its_files_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine with more processes than cores: its folder must be there when it opens its log."""
    from submitit.core.utils import JobPaths

    move = JobPaths.move_temporary_file

    def move_late(*arguments: object, **named: object) -> None:
        time.sleep(8)
        move(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(JobPaths, "move_temporary_file", move_late)
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(sweep_plugins, "PROGRAM", (sys.executable, str(tmp_path / "stub.py")))
    words = [*TRAIN, f"run_dir={tmp_path}/s", "hydra/launcher=submitit_local"]
    assert sweep("train", ["-m", *words, "seed=1,2"]) == 0
    assert [job["metrics"]["validation_loss"] for job in read_jobs(tmp_path / "s")] == [1.0, 2.0]


@SUBMITIT
def test_a_folder_of_submitits_files_that_is_given_counts() -> None:
    _, plugins = split_plugins(["hydra/launcher=submitit_local", "hydra.launcher.submitit_folder=x/%j"])
    assert sweep_plugins.launcher_words(Path("s"), plugins) == []


@pytest.mark.slow
@JOBLIB
def test_a_signal_saves_the_jobs_that_run_and_starts_no_other(tmp_path: Path) -> None:
    stub = tmp_path / "stub.py"
    stub.write_text(SLEEPER)
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    words = ["-m", *TRAIN, f"run_dir={tmp_path}/s", *launcher, "seed=0,1,2"]
    with subprocess.Popen([sys.executable, "-c", START, str(stub), *words]) as process:
        deadline = time.monotonic() + 200
        while len(list(tmp_path.glob("stub.py?"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(200) == 143
    assert sorted(str(job["code"]) for job in read_jobs(tmp_path / "s")) == ["75", "75", "None"]


@pytest.mark.slow
@JOBLIB
@IGNORE
def test_real_trainings_side_by_side_are_listed_by_runs(
    cache: Path, train_words: list[str], tmp_path: Path, ldm_train: Callable
) -> None:
    words = [f"cache={cache}", f"run_dir={tmp_path}/s", *train_words, "max_steps=2", "hydra/launcher=joblib"]
    answer = ldm_train("train", "-m", *words, "seed=0,1")
    assert answer.code == 0, answer.err
    assert [(job["code"], job["metrics"]["step"]) for job in read_jobs(tmp_path / "s")] == [(0, 2), (0, 2)]
    runs = json.loads(ldm_train("runs", f"{tmp_path}/s", "format=json").out)
    assert sorted((Path(run["run_dir"]).name, run["state"]) for run in runs) == [
        ("seed=0", "finished"),
        ("seed=1", "finished"),
    ]
