"""`ldm-train VERB --multirun key=a,b …`: every combination, one after the other, each in a process and directory of its own.

The words are Hydra's: `a,b`, `choice(a,b)`, `range(1,4)`, and `glob(*)` of a group's options; but texts and paths are kept
as they were typed. A job is the command that a person would type, so it may itself start processes (`trainer.devices=2`), is
continued by the same sweep typed again, and can be handed to another launcher (`--dry-run` prints the commands).
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from rich.console import Console
from rich.table import Table

from ldm_train.assembly.child_processes import ENDED_EARLY, Jobs
from ldm_train.assembly.trainer import refuse_at_once
from ldm_train.cli.sweep_jobs import job_name
from ldm_train.settings.composition import ConfigError, compose, folder, last_words, targets_of
from ldm_train.settings.config_file import CONFIG, text
from ldm_train.settings.quoting import kind_of_texts
from ldm_train.settings.schema.typed_values import expand_home, split_items, unquote
from ldm_train.settings.shipped import CONFIG_PATH, key_of
from ldm_train.settings.trust import is_trust
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write
from ldm_train.util.ownership import LOCK, FolderKind, check_folder
from ldm_train.util.processes import count_launched
from ldm_train.util.safe_json import parse_json, read_json, read_text

PLACES = {"train": "run_dir", "train_autoencoder": "run_dir", "encode": "cache"}  # of others: out
TABLE = "sweep.json"
WIDTH = 160  # of the table in a file
CHOICE = re.compile(r"choice\(.*\)", re.DOTALL)
SHOWN = 4  # metrics in the table on the terminal; all are in the file


@dataclass
class Job:
    """One combination of the swept values.

    Args:
        swept: the values by their settings' names, as they are written on a command line.
        directory: what it writes.
        words: of its command line, after `ldm-train`.
        code: its exit code, once it has ended.
        metrics: the last of each.
    """

    swept: dict[str, str]
    directory: str
    words: list[str]
    code: int | None = None
    metrics: dict[str, float | str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        return shlex.join(["ldm-train", *self.words])


def sweep(verb: str, arguments: list[str]) -> int:
    """Run all jobs of a command line; 0 where all ended well, 1 where one failed, its own code where one was interrupted.

    Raises:
        ConfigError: nothing is swept, or one of the jobs' own command lines is wrong.
    """
    flags = {word for word in arguments if word.startswith("-")}
    if not flags & {"-m", "--multirun"}:
        raise ConfigError("--dry-run prints the commands of a sweep, and goes with --multirun")
    jobs = expand(verb, [word for word in arguments if word not in flags])
    refuse(verb, jobs)
    if "--dry-run" in flags:
        for job in jobs:
            print(job.command)
        return 0
    refuse_several_processes()
    table = Path(jobs[0].directory).parent / TABLE
    refuse_folder(verb, table.parent, jobs)
    known = earlier(table, jobs)
    write(table, [*jobs, *known])
    code, console = 0, Console(width=None if sys.stdout.isatty() else WIDTH)
    with Jobs() as running:
        for number, job in enumerate(jobs, start=1):
            console.rule(f"job {number} of {len(jobs)}: {Path(job.directory).name}", align="left")
            sys.stdout.flush()
            job.code = running.run([sys.executable, "-m", "ldm_train", *job.words])
            job.metrics = last_metrics(Path(job.directory))
            write(table, [*jobs, *known])
            code = max(code, 1 if job.code else 0)
            if running.stopped or job.code in ENDED_EARLY:
                code = running.code(job.code)
                break
    console.print(shown(jobs))
    print(f"written to {table}")
    return code


def expand(verb: str, words: list[str]) -> list[Job]:
    """The jobs of a command line: several values by Hydra's own rules, and of texts and paths as they were typed.

    Raises:
        ConfigError: a word that cannot be read, no word with several values, or a place to write that is not one.
    """
    place = PLACES.get(verb, "out")
    words = last_words(words)
    targets = targets_of(verb, words)
    swept, plain, base = list[list[str]](), [], ""
    with initialize_config_dir(str(folder()), version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for word in words:
            if is_trust(word) or key_of(word) in (CONFIG, CONFIG_PATH) or kind_of_texts(verb, word, targets) is not None:
                choices = split_texts(word)
            else:
                choices = list_choices(parser, word)
            if key_of(word) == place:
                base = unquote(word.partition("=")[2]) if len(choices) == 1 else ""
            elif choices != [word]:
                swept.append(choices)
            else:
                plain.append(word)
    if not swept:
        raise ConfigError(f"--multirun sweeps nothing: give a setting of {verb} several values, as in seed=0,1")
    if not base.strip() or base == "null":
        raise ConfigError(f"--multirun needs {place}=…, the one folder in which each job has its own")
    return [job(verb, plain, [*combination], place, Path(expand_home(base))) for combination in product(*swept)]


def split_texts(word: str) -> list[str]:
    """Return a word for each of the texts that it gives a setting, `a,b` or `choice(a,b)`, as they were typed."""
    name, equals, value = word.partition("=")
    chosen = value.removeprefix("choice(").removesuffix(")") if CHOICE.fullmatch(value) else value
    values = split_items(chosen) if equals and not is_trust(word) else [value]
    return [word] if len(values) == 1 and chosen == value else [f"{name}={one}" for one in values]


def list_choices(parser: OverridesParser, word: str) -> list[str]:
    """Return a word for each value that Hydra's grammar reads in it; the word itself if it is one value.

    Raises:
        ConfigError: it cannot be read, or has values that cannot be listed.
    """
    [override] = parsed(parser, [word])
    if not override.is_sweep_override():
        return [word]
    try:
        return [one for [one] in BasicSweeper.split_arguments([override], None)[0]]
    except HydraException as error:
        raise ConfigError(str(error)) from error


def parsed(parser: OverridesParser, words: Iterable[str]) -> list[Override]:
    overrides = []
    for word in words:
        try:
            overrides += parser.parse_overrides([word])  # which tells it the options of groups
        except HydraException as error:
            raise ConfigError(f"{word!r} cannot be read: {error}") from error
    return overrides


def job(verb: str, plain: list[str], combination: list[str], place: str, base: Path) -> Job:
    """The job of one combination, with what it writes under `base` by its name."""
    swept = dict(sorted((key_of(word), unquote(word.partition("=")[2])) for word in combination))
    directory = str(base / (job_name(swept) + (".json" if verb == "evaluate" else "")))
    return Job(swept, directory, [verb, *plain, *combination, f"{place}={text(directory)}"])


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
    names = frozenset({LOCK, *(Path(job.directory).name for job in jobs)})
    kind = FolderKind("a folder of a sweep", TABLE, frozenset({"jobs"}), unfinished=names)
    try:
        check_folder(folder, kind, setting=PLACES.get(verb, "out"))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def earlier(table: Path, jobs: list[Job]) -> list[Job]:
    """The jobs of the same sweep before it was changed: they keep their lines."""
    if not table.is_file():
        return []
    named = {Path(job.directory).name: job for job in jobs}
    try:
        known = read_jobs(table)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{table} cannot be read as the table of a sweep; move it away") from error
    for before in known:
        if now := named.get(Path(before.directory).name):
            now.code, now.metrics = before.code, before.metrics
    return [job for job in known if Path(job.directory).name not in named]


def read_jobs(table: Path) -> list[Job]:
    """Return the jobs of a table.

    Raises:
        OSError, ValueError, LookupError, TypeError: it cannot be read, or is no table of a sweep.
    """
    content = read_json(table)
    jobs = [Job(**job) for job in content["jobs"]]  # type: ignore
    for job in jobs:
        texts = [job.directory, *job.words, *job.swept, *job.swept.values()]
        if not all(isinstance(text, str) for text in texts) or not isinstance(job.code, int | None):
            raise ValueError(f"{table} holds other values than a sweep writes")
        job.metrics = {name: value for name, value in job.metrics.items() if isinstance(value, int | float | str)}
    return jobs


def write(table: Path, jobs: list[Job]) -> None:
    """The table as a file, whole or not at all."""
    try:
        atomic_write(table, json.dumps({"jobs": [asdict(job) for job in jobs]}, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(str(error)) from error


def last_metrics(directory: Path) -> dict[str, float | str]:
    """The last value of each metric of a run, or the numbers of an evaluation."""
    file = directory if directory.suffix == ".json" else directory / METRICS
    if not file.is_file():
        return {}
    try:
        whole = read_text(file)
    except (OSError, ValueError):
        return {}
    found: dict[str, float | str] = {}
    for line in [whole] if file == directory else whole.splitlines():
        try:
            values = parse_json(line)
        except ValueError:
            continue  # a line that an interruption cut off
        if isinstance(values, dict):
            found |= {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    return found


def shown(jobs: list[Job]) -> Table:
    """The table for a terminal: what was swept, how it ended, the first few metrics."""
    names = list(
        dict.fromkeys(name for job in jobs for name, value in job.metrics.items() if isinstance(value, int | float))
    )
    first = sorted(names, key=lambda name: (name != "step", not name.endswith("loss"), "validation" not in name))[:SHOWN]
    table = Table(*jobs[0].swept, "exit code", *first, "directory", title=str(Path(jobs[0].directory).parent))
    table.columns[-1].overflow = "fold"
    for job in jobs:
        code = "not run" if job.code is None else str(job.code)
        metrics = [f"{value:.4g}" if isinstance(value := job.metrics.get(name), int | float) else "" for name in first]
        table.add_row(*job.swept.values(), code, *metrics, Path(job.directory).name)
    return table
