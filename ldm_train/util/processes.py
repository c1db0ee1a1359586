"""The processes that a launcher started, as their environment tells before any of them is set up."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def is_only_process(*, num_nodes: int) -> bool:
    """Return whether no launcher started other processes that wait for this one.

    Lightning's own processes do not count: it starts them when there is work.
    """
    launched = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_NTASKS") or 1)
    return launched == 1 and num_nodes == 1


def launched_rank() -> int:
    """Return the rank that Lightning, torchrun or SLURM gave this process, before any process group is set up."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if "LOCAL_RANK" not in os.environ and int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        return int(os.environ.get("SLURM_PROCID", "0"))
    return int(os.environ.get("NODE_RANK", "0")) or int(os.environ.get("LOCAL_RANK", "0"))
