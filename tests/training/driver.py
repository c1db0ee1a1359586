"""Several command lines one after another in each process that torchrun starts, which spares the imports."""

import json
import sys
from typing import Any

from ldm_train.tasks.command import main
from ldm_train.training import sharding


class PowerCut(BaseException):
    """What ends a run in the middle."""


def cut_at(step: int) -> None:
    """End the run when the shares of this step's checkpoint are written and its file is not."""
    original = sharding.write_shares

    def write_and_fail(checkpoint: dict[str, Any], *rest: Any) -> dict[str, Any]:
        written = original(checkpoint, *rest)
        if checkpoint["global_step"] == step:
            sharding.write_shares = original
            raise PowerCut
        return written

    sharding.write_shares = write_and_fail


for job in json.loads(sys.argv[1]):
    if "cut_at" in job:
        cut_at(job["cut_at"])
    try:
        main(job["words"])
    except SystemExit as ended:
        if ended.code:
            raise
    except PowerCut:
        assert "cut_at" in job
