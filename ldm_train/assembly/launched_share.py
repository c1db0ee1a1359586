"""Share work among the processes that torchrun or SLURM started, before the Trainer has them form a group.

They exchange texts through the store in which the group will form later: it is opened at the same address, and stays open.
"""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from itertools import count
from typing import TYPE_CHECKING

from ldm_train.assembly.trainer import slurm_plugins
from ldm_train.data.cache.verification import ALONE, Share
from ldm_train.util.processes import count_launched, launched_rank

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments import ClusterEnvironment

POLL_SECONDS = 0.1


def launched_share(timeout_minutes: float) -> Share | None:
    """Return this process's share of what is done before training; None if it starts only after the first one did all.

    Args:
        timeout_minutes: how long processes wait for each other.
    """
    launcher = find_launcher() if count_launched() > 1 else None
    if launcher is None:
        return ALONE if launched_rank() == 0 else None
    exchange = open_exchange(launcher.main_address, launcher.main_port, timeout_minutes)
    return Share(launched_rank(), count_launched(), exchange)


def find_launcher() -> "ClusterEnvironment | None":
    """Return what Lightning knows of torchrun or SLURM, if one of them started this process together with others."""
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    return next((plugin for plugin in slurm_plugins() if isinstance(plugin, SLURMEnvironment)), None)


@cache  # the store has to stay open: the processes' group is formed in it
def open_exchange(address: str, port: int, timeout_minutes: float) -> Callable[[str], list[str]]:
    """Return a function that all processes call with a text, and that returns all their texts by rank."""
    from torch.distributed import DistError, PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, processes, numbers = launched_rank(), count_launched(), count()
    late = (
        f"not all of the {processes} processes verified their share of the cache within trainer.timeout_minutes="
        f"{timeout_minutes:g}; look at what the others printed, or set a larger number"
    )
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}  # as Lightning sets them for the group
    try:
        opened, _, _ = next(rendezvous("env://", rank, processes, timeout=timedelta(minutes=timeout_minutes)))
    except DistError as error:
        raise ValueError(late) from error
    store = PrefixStore("ldm-train", opened)

    def wait_for(key: str) -> str:
        """Return a value once it is there. The store's own waiting would leave signals to this process unanswered."""
        end = time.monotonic() + 60 * timeout_minutes
        while not store.check([key]):
            if time.monotonic() > end:
                raise ValueError(late)
            time.sleep(POLL_SECONDS)
        value: str = store.get(key).decode()
        return value

    def exchange(text: str) -> list[str]:
        number = next(numbers)
        try:
            store.set(f"{number}/{rank}", text)
            texts = [wait_for(f"{number}/{other}") for other in range(processes)]
            if store.add(f"{number}/read", 1) == processes:
                store.set(f"{number}/done", "")
            if rank == 0:  # whose end may close the store
                wait_for(f"{number}/done")
        except DistError as error:
            raise ValueError(late) from error
        return texts

    return exchange
