"""One job of a sweep as the function that Hydra's launchers call: here, in another process, or on another machine."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from ldm_train.assembly.child_processes import ENDED_EARLY, Jobs
from ldm_train.cli.sweep_jobs import Job, JobTemplate, last_metrics, record_end
from ldm_train.cli.sweep_objective import MissingMetricError, Objective
from ldm_train.cli.sweep_plan import look_up
from ldm_train.settings.composition import plain
from ldm_train.settings.config_file import text
from ldm_train.util.processes import launched_rank


class SweepStoppedError(BaseException):
    """A sweep ends before its last job. No Exception: a sweeper would count it as a failed job, and start the next one."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class JobFailedError(Exception):
    """A job has no value; a search goes on without it."""


@dataclass(frozen=True)
class SweepEnd:
    """What a job returns instead of its value, to end the sweep; it may travel from another process, unlike an exception."""

    message: str
    code: int

    def __float__(self) -> float:
        """Raise in the process of the sweeper, which asks each job for its value."""
        raise SweepStoppedError(self.message, self.code)


@dataclass(frozen=True)
class JobTask:
    """Run the job that a config of Hydra stands for, as a process, and return its value.

    Args:
        keys: the name in that config of each swept setting.
        count: of the jobs; None if a search chooses them.
        stop: a file that exists once the sweep must end, with its exit code; None if each job ends on its own, as on a
            cluster.
        program: the beginning of a job's command line.
    """

    template: JobTemplate
    keys: Mapping[str, str]
    objective: Objective | None
    count: int | None
    stop: Path | None
    program: tuple[str, ...]

    def __call__(self, config: DictConfig) -> float | SweepEnd | None:
        job = self.find_job(plain(config, resolve=False))
        if self.stop is not None and self.stop.exists():
            return SweepEnd("the sweep was stopped before this job", self.read_code())
        number = f"{int(HydraConfig.get().job.num) + 1}" + (f" of {self.count}" if self.count else "")
        Console().rule(f"job {number}: {job.name}", align="left")
        sys.stdout.flush()
        with Jobs(self.stop) as running:
            job.code = running.run([*self.program, *job.words])
        if running.stopped or job.code in ENDED_EARLY:
            code = running.code(job.code)
            if self.stop is not None and not self.stop.exists():
                self.stop.write_text(str(code))
            return self.record(job) or SweepEnd(f"{job.directory} was interrupted", code)
        return self.record(job)

    def find_job(self, values: object) -> Job:
        """Return the job with the values of a config; texts in it are as they were typed."""
        chosen = {name: look_up(values, key) for name, key in self.keys.items()}
        return self.template.job(
            [f"{name}={value if isinstance(value, str) else text(value)}" for name, value in chosen.items()]
        )

    def record(self, job: Job) -> float | SweepEnd | None:
        """Write how a job ended into the sweep's table, and return its value, if the sweep has an objective.

        Raises:
            JobFailedError: it has none.
        """
        if launched_rank() > 0:  # of the tasks of one job on a cluster, the first one records it
            return None
        directory, missing = Path(job.directory), None
        job.metrics = last_metrics(directory)
        if self.objective is not None and job.code == 0:
            try:
                job.value = self.objective.read_best(directory)
            except MissingMetricError as error:
                missing = SweepEnd(str(error), 1)
            except (OSError, ValueError) as error:
                record_end(self.template.base, job)
                raise JobFailedError(str(error)) from error
        record_end(self.template.base, job)
        if self.objective is not None and job.code not in (0, *ENDED_EARLY):
            raise JobFailedError(f"{job.directory} ended with exit code {job.code}")
        return missing or job.value

    def read_code(self) -> int:
        assert self.stop is not None
        return int(self.stop.read_text() or 1)
