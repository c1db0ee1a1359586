"""Command lines one after another in one process, which sends itself signals at chosen moments of each.

    python signalled.py '[{"words": [...], "signals": [{"number": 15, "rank": 1, "step": 3, "moment": "step"}]}]'

The moment is "step", before the step's checkpoint, or "writing", in the middle of that. Prints each command's exit code.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ldm_train.cli.main import main
from ldm_train.training.callbacks.stop import REPEAT_SECONDS, Stop
from ldm_train.util.processes import launched_rank

rank = launched_rank()
folder = Path(os.environ["PIDS"])
(folder / f"rank-{rank}").write_text(str(os.getpid()))
due: list[dict[str, Any]] = []
stop_original, save_original = Stop.on_train_batch_end, torch.save


def send(moment: str, step: int) -> None:
    for wanted in due:
        if (wanted["moment"], wanted["step"], wanted.get("rank", 0)) == (moment, step, rank):
            os.kill(os.getpid(), wanted["number"])


def at_step(self: Stop, trainer: Any, *rest: Any) -> None:
    send("step", trainer.global_step)
    stop_original(self, trainer, *rest)


def while_writing(checkpoint: Any, file: Any, *rest: Any, **more: Any) -> None:
    step = checkpoint.get("global_step") if isinstance(checkpoint, dict) else None
    if any(wanted["moment"] == "writing" and wanted["step"] == step for wanted in due):
        file.write(b"half a checkpoint")
        file.flush()
        time.sleep(1.1 * REPEAT_SECONDS)
        send("writing", step)
    save_original(checkpoint, file, *rest, **more)


Stop.on_train_batch_end = at_step  # type: ignore[method-assign]
torch.save = while_writing
for number, job in enumerate(json.loads(sys.argv[1])):
    due[:] = job.get("signals", [])
    try:
        main(job["words"])
    except SystemExit as ended:
        (folder / f"code-{number}-of-rank-{rank}").write_text(str(ended.code))
sys.stdout.flush()
