"""`ldm-train VERB --multirun key=a,b …`: every combination, or those that a search chooses, each in a directory of its own.

Stages: split the words into what all jobs share and what is swept (`plan_sweep`), check all jobs before the first one starts
(`refuse`), let Hydra's sweeper and launcher start them (`sweep_plugins`), and print a table. The words are Hydra's: `a,b`,
`choice(a,b)`, `range(1,4)`, `interval(0,1)`, and `glob(*)` of a group's options; but texts and paths are kept as they were
typed. A job is the command that a person would type, so it may itself start processes (`trainer.devices=2`), is continued by
the same sweep typed again, and can be started by other programs (`--dry-run` prints the commands).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ldm_train.assembly.child_processes import ENDED_EARLY
from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.cli.plugin_words import PluginWords, check_plugins, split_plugins
from ldm_train.cli.sweep_jobs import TABLE, Job, list_jobs, read_table
from ldm_train.cli.sweep_objective import Objective, choose_objective
from ldm_train.cli.sweep_plan import SweepPlan, place_of, plan_sweep
from ldm_train.cli.sweep_plugins import RESULTS, run_jobs
from ldm_train.settings.composition import ConfigError, compose
from ldm_train.util.locks import hold_lock
from ldm_train.util.ownership import LOCK, FolderKind, check_folder
from ldm_train.util.processes import count_launched

WIDTH = 160  # of the table in a file
SHOWN = 4  # metrics in the table on the terminal; all are in the file


def sweep(verb: str, arguments: list[str]) -> int:
    """Run all jobs of a command line; 0 where all ended well, 1 where one failed, its own code where one was interrupted.

    Raises:
        ConfigError: nothing is swept, a plugin is not installed, or one of the jobs' own command lines is wrong.
    """
    flags = {word for word in arguments if word.startswith("-")}
    if not flags & {"-m", "--multirun"}:
        raise ConfigError("--dry-run prints the commands of a sweep, and goes with --multirun")
    words, plugins = split_plugins([word for word in arguments if word not in flags])
    check_plugins(plugins)
    words, objective = choose_objective(verb, words, searches=plugins.searches, minimizes=plugins.minimizes)
    plan = plan_sweep(verb, words, searches=plugins.searches)
    jobs = plan.jobs()
    refuse(verb, jobs)
    if "--dry-run" in flags:
        return print_commands(jobs, plugins)
    refuse_several_processes()
    folder = plan.template.base
    refuse_folder(verb, folder, jobs)
    read_table(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / LOCK, busy=f"another sweep runs in {folder}; wait until it has ended", remove=True):
        return run_sweep(plan, plugins, objective, jobs)


def run_sweep(plan: SweepPlan, plugins: PluginWords, objective: Objective | None, jobs: list[Job]) -> int:
    """Run the jobs, print their table, and return the exit code."""
    folder, console = plan.template.base, Console(width=None if sys.stdout.isatty() else WIDTH)
    list_jobs(folder, [] if objective else jobs)
    code = run_jobs(plan, plugins, objective)
    names = {job.name for job in jobs}
    ended = [job for job in read_table(folder) if objective or job.name in names]
    if objective:
        ended.sort(key=lambda job: objective.rank(job.value))
    if ended:
        console.print(build_table(ended, objective))
    print(f"written to {folder / TABLE}")
    codes = [job.code for job in ended]
    return code or next((one for one in codes if one in ENDED_EARLY), 0) or int(any(one != 0 for one in codes))


def print_commands(jobs: Sequence[Job], plugins: PluginWords) -> int:
    """Print the jobs' command lines; of a search, some that it may choose."""
    if plugins.searches:
        print(f"note: {plugins.sweeper} chooses the values as results come in; these are the ends of each", file=sys.stderr)
    for job in jobs:
        print(job.command)
    return 0


def refuse(verb: str, jobs: list[Job]) -> None:
    """Compose all jobs' configs, before the first one starts.

    Raises:
        ConfigError: the first problem, and which job has it.
    """
    for number, job in enumerate(jobs, start=1):
        try:
            refuse_at_once(verb, compose(verb, job.words[1:]))
        except (ConfigError, ValueError) as error:
            values = " ".join(f"{name}={value}" for name, value in job.swept.items())
            raise ConfigError(f"job {number} of {len(jobs)} ({values}): {error}") from error


def refuse_several_processes() -> None:
    """Started once a process, a sweep would run as often."""
    if (count := count_launched()) > 1:
        raise ConfigError(
            f"--multirun was started in {count} processes, and each would run the whole sweep; start it once (a job "
            "starts its own processes, trainer.devices=2), or print the commands with --dry-run"
        )


def refuse_folder(verb: str, folder: Path, jobs: list[Job]) -> None:
    """Raise unless the folder is missing, empty, or a sweep's; jobs that another launcher ran may be there.

    Raises:
        ConfigError: it holds something else, and nothing was changed.
    """
    names = frozenset({LOCK, *RESULTS, *(job.name for job in jobs)})
    kind = FolderKind("a folder of a sweep", TABLE, frozenset({"jobs"}), unfinished=names)
    try:
        check_folder(folder, kind, setting=place_of(verb))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def build_table(jobs: Sequence[Job], objective: Objective | None) -> Table:
    """Return the table for a terminal: what was swept, how it ended, the objective or the first few metrics."""
    names = list(
        dict.fromkeys(name for job in jobs for name, value in job.metrics.items() if isinstance(value, int | float))
    )
    first = sorted(names, key=lambda name: (name != "step", not name.endswith("loss"), "validation" not in name))[:SHOWN]
    best = [f"best {objective.name}"] if objective else []
    table = Table(*jobs[0].swept, "exit code", *best, *first, "directory", title=str(Path(jobs[0].directory).parent))
    table.columns[-1].overflow = "fold"
    for job in jobs:
        code = "not run" if job.code is None else str(job.code)
        values = [*([job.value] if objective else []), *(job.metrics.get(name) for name in first)]
        cells = [f"{value:.4g}" if isinstance(value, int | float) else "" for value in values]
        table.add_row(*(job.swept.get(name, "") for name in jobs[0].swept), code, *cells, job.name)
    return table
