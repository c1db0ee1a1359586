"""A rank that another process started ends with it: in a collective without it, it would wait for ever."""

import ctypes
import os
import signal
import sys

LAUNCHER = "LDM_TRAIN_LAUNCHER"
SET_PARENT_DEATH_SIGNAL = 1  # prctl's


def end_with_launcher() -> None:
    """Called at the start of every process: of those that Lightning started, Linux ends each when its parent ends."""
    launcher = os.environ.get(LAUNCHER)
    os.environ[LAUNCHER] = str(os.getpid())
    launched = int(os.environ.get("LOCAL_RANK", "0")) > 0 and "TORCHELASTIC_RUN_ID" not in os.environ
    if launcher is None or not launched or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(launcher):
        sys.exit(f"the process {launcher} that started this rank is gone")
