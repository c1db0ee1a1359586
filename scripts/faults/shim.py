"""The shim that counts, fails and kills file operations: building it, and calling it in a process that loaded it."""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
LOADED = "LDM_TRAIN_FAULTS"  # the environment's name of the library in a process that loaded it


class Action(IntEnum):
    """What happens at the chosen operation."""

    COUNT = 0
    FAIL_ONCE = 1
    FAIL_FROM_HERE = 2  # all that takes room, as on a full disk
    KILL = 3
    POWER_CUT = 4
    STOP = 5  # by SIGSTOP, until somebody sends SIGCONT


@dataclass(frozen=True)
class Fault:
    """One fault: what happens at which operation (from 1), with which error."""

    kind: str
    at: int
    action: Action
    error: str = "EIO"

    def __str__(self) -> str:
        return f"{self.kind} at operation {self.at}"


COUNTING = Fault("count", -1, Action.COUNT)


@dataclass(frozen=True)
class Operation:
    """One line of the log."""

    number: int
    takes_room: bool
    changes_nothing: bool  # on the disk: a folder that is there already, a name that is not
    name: str
    path: str
    hit: bool


def compiler() -> str | None:
    """The C compiler of this machine."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> Path:
    """Compile the shim into a folder.

    Raises:
        RuntimeError: there is no C compiler.
    """
    command, library = compiler(), folder / "shim.so"
    if command is None:
        raise RuntimeError("no C compiler (gcc or cc) is on the PATH; on Debian: apt-get install gcc")
    subprocess.run([command, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl", "-lpthread"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """What a process needs in its environment to load the shim."""
    return {"LD_PRELOAD": str(library), LOADED: str(library)}


def arm(roots: Sequence[Path], fault: Fault, log: Path) -> None:
    """Start counting in this process, which loaded the shim."""
    folders = ":".join(map(str, roots)).encode()
    _library().faults_arm(
        folders, ctypes.c_long(fault.at), int(fault.action), getattr(errno, fault.error), str(log).encode()
    )


def cut_power() -> None:
    """End this process as a power cut would, here."""
    _library().faults_cut_power()


def _library() -> ctypes.CDLL:
    return ctypes.CDLL(os.environ[LOADED])


def read_log(log: Path) -> list[Operation]:
    """The operations of a command, in order."""
    found = []
    for line in log.read_text(errors="replace").splitlines():
        kind, _, rest = line.partition(" ")
        if kind in ("OP", "HIT"):
            number, flags, name, path = rest.split(" ", 3)
            bits = int(flags)
            found.append(Operation(int(number), bool(bits & 1), bool(bits & 4), name, path, kind == "HIT"))
    return found


def cut_files(log: Path, root: Path) -> list[str]:
    """Cut the files below a folder back to what was flushed before the power cut; the names of those."""
    flushed = {}
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("LOST "):
            device, inode, size = map(int, line.split()[1:])
            flushed[device, inode] = size
    cut = []
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            size = flushed.get((status.st_dev, status.st_ino), status.st_size)
            if status.st_size > size:
                os.truncate(path, size)
                cut.append(path.relative_to(root).as_posix())
    return cut
