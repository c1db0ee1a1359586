"""How this process was called, and the processes that a launcher started, as their environment tells."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_python_call: ContextVar[str | None] = ContextVar("python_call", default=None)  # of each thread


def is_only_process(*, num_nodes: int) -> bool:
    """Return whether no launcher started other processes that wait for this one.

    Lightning's own processes do not count: it starts them when there is work.
    """
    return count_launched() == 1 and num_nodes == 1


def count_launched() -> int:
    """Return how many processes a launcher started of which this is one, on all nodes."""
    return int(os.environ.get("WORLD_SIZE") or count_slurm_tasks())


def count_slurm_tasks() -> int:
    """Return how many processes srun started of which this is one.

    SLURM_NTASKS does not tell: salloc, sbatch and `srun --pty` set it in the one shell that they start.
    """
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def launched_rank() -> int:
    """Return the rank that Lightning, torchrun or SLURM gave this process, before any process group is set up."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" not in os.environ and count_slurm_tasks() > 1:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("NODE_RANK", "0")) or int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def called_from_python(call: str) -> Iterator[None]:
    """Let `describe_call` return this call of the package's Python functions until the block ends."""
    token = _python_call.set(call)
    try:
        yield
    finally:
        _python_call.reset(token)


def describe_call() -> str:
    """Return the command line of this process, or the Python call that is being answered."""
    return _python_call.get() or shlex.join(["ldm-train", *sys.argv[1:]])


def in_terminal() -> bool:
    """Return whether somebody can type to this process, and sees what it prints."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
