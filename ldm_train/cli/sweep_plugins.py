"""Hydra's sweepers and launchers: which ones a command line chooses, and how they run the jobs of a sweep.

Hydra composes a small config for them that holds the swept settings only, as they were typed. The settings of a job are
composed in the job's own process, from the words of its command line.
"""

import logging
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hydra import initialize
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from ldm_train.assembly.child_processes import ENDED_EARLY, SIGNALS
from ldm_train.cli.plugin_words import PluginWords, compose_plugins
from ldm_train.cli.sweep_jobs import TABLE, read_table
from ldm_train.cli.sweep_objective import Objective
from ldm_train.cli.sweep_plan import SweepPlan, nest
from ldm_train.cli.sweep_task import JobTask, SweepStoppedError
from ldm_train.settings.quoting import quote
from ldm_train.settings.shipped import ConfigError, key_of
from ldm_train.util.text import list_names

APP = "ldm_train_sweep"
PROGRAM = (sys.executable, "-m", "ldm_train")
SUBMITIT = ".submitit"
RESULTS = ("multirun.yaml", "optimization_results.yaml", "optuna.db", SUBMITIT)  # what Hydra's plugins write
LOGS = "hydra_plugins"  # the logger of all plugins
ON_CLUSTER = ("submitit_slurm",)  # launchers with jobs that go on when this process ends


def run_jobs(plan: SweepPlan, plugins: PluginWords, objective: Objective | None) -> int:
    """Let Hydra's sweeper and launcher run the jobs; return an exit code if the sweep itself ended early, else 0."""
    with tempfile.TemporaryDirectory(prefix="ldm-train-") as temporary:
        stop = None if plugins.launcher in ON_CLUSTER else Path(temporary) / "stop"
        count = None if plan.searches else len(plan.jobs())
        task = JobTask(plan.template, plan.keys, objective, count, stop, PROGRAM)
        try:
            with stopping_by(stop), plugin_logs():
                run_hydra(plan, plugins, objective, task)
        except SweepStoppedError as end:
            print(f"ldm-train: {end}", file=sys.stderr)
            return end.code
        except ConfigError as error:  # of a study, before its first job
            print(f"ldm-train: {error}", file=sys.stderr)
            return 1
        except Exception as error:
            if "debug=true" in plan.template.plain:
                raise
            if objective is not None and (failed := list_failed(plan.template.base)):
                print(
                    f"ldm-train: no job of {plan.template.base} has a value of objective={objective.name}: "
                    f"{list_names(failed)}. What each printed is above; the same command tries them again",
                    file=sys.stderr,
                )
                return 1
            if stop is None or not stop.exists():
                print(
                    f"ldm-train: {plugins.sweeper} on {plugins.launcher}: {str(error) or type(error).__name__}",
                    file=sys.stderr,
                )
                return 1
        return task.read_code() if stop is not None and stop.exists() else 0


def launcher_words(base: Path, plugins: PluginWords) -> list[str]:
    """Return where submitit keeps the files of local jobs, unless a word says.

    By default each job has a folder with its number as the name, which submitit makes after it started the job: a job that
    is faster cannot open its log, and ends without a result.
    """
    place = "hydra.launcher.submitit_folder"
    if plugins.launcher != "submitit_local" or any(key_of(word) == place for word in plugins.words):
        return []
    return [f"{place}={quote(str(base.absolute() / SUBMITIT))}"]


def list_failed(base: Path) -> list[str]:
    """Return the jobs of a search with their exit codes if all of them failed; nothing if one has a value."""
    jobs = read_table(base)
    failed = [f"{job.name} (exit code {job.code})" for job in jobs if job.code not in (0, None, *ENDED_EARLY)]
    return failed if len(failed) == len(jobs) else []


def run_hydra(plan: SweepPlan, plugins: PluginWords, objective: Objective | None, task: JobTask) -> None:
    """Run Hydra's multirun; a study of Optuna goes on where it ended."""
    base = plan.template.base
    words = [*plugins.words]
    if plugins.sweeper == "optuna" and objective is not None:
        from ldm_train.cli.optuna_study import continue_study, study_words

        words += study_words(base, plugins, objective)
        left = continue_study(base, compose_plugins(words)["sweeper"], objective, plan.lists)
        if left is None:
            return print(f"all jobs of {base / TABLE} have ended; a larger hydra.sweeper.n_trials adds some")
        words += left
    if plugins.sweeper == "ax" and objective is not None:
        lowest = str(objective.lowest).lower()
        words += [f"hydra.sweeper.ax_config.{part}.minimize={lowest}" for part in ("experiment", "early_stop")]
    ConfigStore.instance().store(name=APP, node=nest(list(plan.keys.values())))
    GlobalHydra.instance().clear()
    with initialize(config_path=None, job_name="ldm-train", version_base="1.3"):  # the options of groups are texts here
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        places = [f"hydra.sweep.dir={quote(str(base))}", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
        quiet = ["hydra/hydra_logging=none", "hydra/job_logging=none"]  # which would replace all handlers of the process
        hydra.multirun(APP, task, [*places, *quiet, *launcher_words(base, plugins), *words, *plan.hydra_words()])
    return None


@contextmanager
def stopping_by(stop: Path | None) -> Iterator[None]:
    """At a signal, ask all jobs to save and end, by a file that they look for; a second signal raises KeyboardInterrupt."""
    if stop is None:
        yield
        return

    def request(number: int, frame: FrameType | None) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.write_text(str(128 + number))
        print("ldm-train: stopping; the jobs that run are saved first", file=sys.stderr)

    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def plugin_logs() -> Iterator[None]:
    """Print what the plugins report, such as where a job's output goes and what was best."""
    handler, logger = logging.StreamHandler(sys.stdout), logging.getLogger(LOGS)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
