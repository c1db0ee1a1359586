"""A process that has imported everything and forks a child for each command, so that a tiny command takes a moment."""

import atexit
import copy
import gc
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from faults.shim import Action, Fault, arm, cut_power

MODULES = (
    "ldm_train.data.cache.writer",
    "ldm_train.assembly.encode_batches",
    "ldm_train.training.callbacks.samples",
    "ldm_train.training.validation.validation_callback",
    "ldm_train.assembly.limits",
    "safetensors.torch",
    "tensorboard.backend.event_processing.event_file_loader",
    "torch.utils.tensorboard",
    "diffusers",
)
LIMIT = 900.0  # seconds of a command, on a busy machine


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus the signal that ended it, and what it printed."""

    code: int
    output: str
    seconds: float


def import_everything() -> None:
    """Import what the commands use, with one thread, so that a fork has nothing left to do."""
    import torch

    from ldm_train.cli.main import VERBS

    torch.set_num_threads(1)
    for name in (*MODULES, *(f"ldm_train.commands.{verb}.command" for verb in VERBS)):
        importlib.import_module(name)
    compose_once()
    gc.collect()
    gc.freeze()  # a child that looked for garbage among all that would copy every page


def compose_once() -> None:
    """Let Hydra compose each config once: it takes longer than most of the commands, and reads no file of the world."""
    from ldm_train.settings import composition

    original, composed = composition._hydra, dict[tuple[str, ...], DictConfig]()

    def compose(verb: str, overrides: list[str]) -> DictConfig:
        key = (verb, *overrides)
        if key not in composed:
            composed[key] = original(verb, overrides)
        return copy.deepcopy(composed[key])

    composition._hydra = compose


class Child:
    """A process that runs a command line in a folder, with a fault in its operations below `roots`.

    Args:
        output, log: files for what it prints, and for its operations.
    """

    def __init__(
        self, words: Sequence[str], *, folder: Path, output: Path, log: Path, roots: Sequence[Path], fault: Fault
    ) -> None:
        self.output, self.log, self.start = output, log, time.monotonic()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                os.setpgid(0, 0)
                code = _live(words, folder, output, roots, fault, log)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code & 0xFF)

    def wait(self) -> Ended | None:
        """Wait for its end; None if it stopped (`resume` lets it go on)."""
        while True:
            done, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                return None
            if done:
                break
            if time.monotonic() - self.start > LIMIT:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.004)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started and left
        code, output = os.waitstatus_to_exitcode(status), self.output.read_text(errors="replace")
        return Ended(code, output, time.monotonic() - self.start)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def _live(words: Sequence[str], folder: Path, output: Path, roots: Sequence[Path], fault: Fault, log: Path) -> int:
    """The child's life: as a process of the command line has it, ends of threads and exit handlers included."""
    import ldm_train.assembly.limits as ending
    from ldm_train.cli.main import main

    printed = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(folder)
    sys.argv = ["ldm-train", *words]
    ending.STARTED = time.monotonic()
    arm(roots, fault, log)
    code = 0
    try:
        main(list(words))
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 97
    sys.stdout.flush()
    sys.stderr.flush()
    with suppress(BaseException):
        atexit._run_exitfuncs()
    if fault.action is Action.POWER_CUT:
        cut_power()  # after its end: what it said it wrote must be there
    return code
