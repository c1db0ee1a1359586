"""The jobs of a sweep: their command lines, their directories, and the table in which each is recorded once it has ended."""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ldm_train.settings.config_file import text
from ldm_train.settings.schema.typed_values import unquote
from ldm_train.settings.shipped import ConfigError, key_of
from ldm_train.training.run_files import METRICS
from ldm_train.util.files import atomic_write, hidden_path
from ldm_train.util.locks import LOCK_SUFFIX, hold_lock
from ldm_train.util.safe_json import parse_json, read_json, read_text

LONGEST = 120  # characters of a name, which file systems end at 255 bytes
TABLE = "sweep.json"
LOCK_SECONDS = 60.0  # jobs that end at the same time write the table one after the other


@dataclass
class Job:
    """One combination of the swept values.

    Args:
        swept: the values by their settings' names, as they are written on a command line.
        directory: what it writes.
        words: of its command line, after `ldm-train`.
        code: its exit code, once it has ended.
        metrics: the last of each.
        value: the best value of the sweep's objective, if the sweep has one.
    """

    swept: dict[str, str]
    directory: str
    words: list[str]
    code: int | None = None
    metrics: dict[str, float | str] = field(default_factory=dict)
    value: float | None = None

    @property
    def command(self) -> str:
        return shlex.join(["ldm-train", *self.words])

    @property
    def name(self) -> str:
        return Path(self.directory).name


@dataclass(frozen=True)
class JobTemplate:
    """What all jobs of a sweep have in common.

    Args:
        verb: the command.
        plain: words with one value.
        place: the setting that names what a job writes.
        base: the sweep's folder.
    """

    verb: str
    plain: tuple[str, ...]
    place: str
    base: Path

    def job(self, combination: Sequence[str]) -> Job:
        """Return the job with these words for the swept settings."""
        swept = dict(sorted((key_of(word), unquote(word.partition("=")[2])) for word in combination))
        directory = str(self.base / (job_name(swept) + (".json" if self.verb == "evaluate" else "")))
        return Job(swept, directory, [self.verb, *self.plain, *combination, f"{self.place}={text(directory)}"])


def job_name(swept: Mapping[str, str]) -> str:
    """Return a directory's name for these settings, with a checksum if characters were replaced or cut off."""
    whole = ",".join(f"{name}={value}" for name, value in swept.items())
    safe = re.sub(r"[^\w.=,+-]+", "_", whole, flags=re.ASCII)[:LONGEST]
    return safe if safe == whole else f"{safe}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def list_jobs(folder: Path, jobs: Sequence[Job]) -> None:
    """Write jobs first into the table of a sweep; what is known of how one of them ended earlier stays.

    Raises:
        ConfigError: the table cannot be read or written.
    """

    def add(before: list[Job]) -> list[Job]:
        known = {job.name: job for job in before}
        ends = [known.pop(job.name, job) for job in jobs]
        listed = [
            replace(job, code=end.code, metrics=end.metrics, value=end.value) for job, end in zip(jobs, ends, strict=True)
        ]
        return [*listed, *known.values()]

    change_table(folder, add)


def record_end(folder: Path, ended: Job) -> None:
    """Write into the table of a sweep how a job ended.

    Raises:
        ConfigError: the table cannot be read or written.
    """

    def put(before: list[Job]) -> list[Job]:
        return list(({job.name: job for job in before} | {ended.name: ended}).values())

    change_table(folder, put)


def change_table(folder: Path, change: Callable[[list[Job]], list[Job]]) -> None:
    """Replace the jobs in the table of a sweep, while no other process does."""
    table = folder / TABLE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(hidden_path(table, LOCK_SUFFIX), busy=f"{table} is being written", wait=LOCK_SECONDS, remove=True):
            content = {"jobs": [asdict(job) for job in change(read_table(folder))]}
            atomic_write(table, json.dumps(content, indent=2) + "\n")
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def read_table(folder: Path) -> list[Job]:
    """Return the jobs in the table of a sweep; none if it has no table yet.

    Raises:
        ConfigError: the table cannot be read.
    """
    table = folder / TABLE
    if not table.is_file():
        return []
    try:
        return read_jobs(table)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{table} cannot be read as the table of a sweep; move it away") from error


def read_jobs(table: Path) -> list[Job]:
    """Return the jobs of a table.

    Raises:
        OSError, ValueError, LookupError, TypeError: it cannot be read, or is no table of a sweep.
    """
    content = read_json(table)
    jobs = [Job(**job) for job in content["jobs"]]  # type: ignore
    for job in jobs:
        texts = [job.directory, *job.words, *job.swept, *job.swept.values()]
        numbers = isinstance(job.code, int | None) and isinstance(job.value, int | float | None)
        if not all(isinstance(text, str) for text in texts) or not numbers:
            raise ValueError(f"{table} holds other values than a sweep writes")
        job.metrics = {name: value for name, value in job.metrics.items() if isinstance(value, int | float | str)}
    return jobs


def last_metrics(directory: Path) -> dict[str, float | str]:
    """Return the last value of each metric of a run, or the numbers of an evaluation."""
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
