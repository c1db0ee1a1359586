"""Replace a folder as a whole: the next one is made in a hidden folder next to it, and takes its name when it is complete.

The hidden folder `.NAME.ldm-train-working` carries a mark, holds the next folder as `new` and, between two renames, what was
replaced as `previous`. So nothing outside `NAME` and this folder is touched, and after a kill at any moment the next command
finds either the old folder or the new one.
"""

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ldm_train.util.files import atomic_write, flush_folder, hidden_path, make_folder, remove_temporaries
from ldm_train.util.locks import LOCK_SUFFIX, hold_lock
from ldm_train.util.ownership import FolderKind, check_folder, check_given, is_system_file

WORKING = FolderKind("a working folder of ldm-train", "working.json", frozenset({"ldm_train_works_on"}))


class ReplacedFolder:
    """A folder that is there whole or not at all.

    Args:
        folder: what is replaced; no symbolic link.
        setting: the name of the setting that names it.
        check: raises ValueError unless `folder` may be replaced; called once the lock is held, and before the replacement.
    """

    def __init__(self, folder: Path, *, setting: str, check: Callable[[], None]) -> None:
        self.folder = folder
        self.setting = setting
        self.check = check
        self.working = hidden_path(folder, ".ldm-train-working")
        self.new = self.working / "new"
        self.previous, self.discarded = self.working / "previous", self.working / "discarded"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing the same folder, put right what a killed one left, and clear up at the end.

        What stands in the working folder at the end stays there only if `is_worth_keeping` says so.

        Raises:
            ValueError: another process writes it, or it is something that may not be replaced.
        """
        make_folder(self.folder.parent)
        lock = hidden_path(self.folder, LOCK_SUFFIX)
        busy = f"{self.setting}={self.folder} is being written by another process; wait for it, or stop it"
        with hold_lock(lock, busy=busy, remove=True):
            check_folder(self.working, WORKING, setting=self.setting)
            self._recover()
            self.check()
            try:
                yield
            except BaseException:
                with suppress(OSError):  # the first error says more
                    self._clear_or_keep()
                raise
            self._clear_or_keep()

    def _clear_or_keep(self) -> None:
        if not self.is_worth_keeping():
            self.clear()

    def is_worth_keeping(self) -> bool:
        """Return whether the working folder holds what a later attempt can use."""
        return False

    def start(self) -> None:
        """Make the working folder with its mark, and an empty new folder."""
        make_folder(self.working)
        if not (self.working / WORKING.mark).exists():
            atomic_write(self.working / WORKING.mark, f'{{"ldm_train_works_on": "{WORKING.noun}"}}\n')
        remove_temporaries(self.working)
        for leftover in (self.new, self.discarded):
            remove_folder(leftover)
        make_folder(self.new)

    def put_in_place(self) -> None:
        """Give the new folder its name, and remove what had it before.

        Raises:
            ValueError: what is there now may not be replaced, and stays.
        """
        self.check()
        flush_tree(self.new)
        try:
            if self.folder.exists():
                self._move(self.folder, self.previous)
            self._move(self.new, self.folder)
        except BaseException:
            self._recover()
            raise
        self._recover()

    def clear(self) -> None:
        """Remove the working folder, its mark last: without it the next command would take the rest for a user's.

        Raises:
            OSError: something in it cannot be removed; the next command tries again.
        """
        if self.working.is_dir():
            for path in self.working.iterdir():
                if path.is_dir():
                    remove_folder(path)
                elif path.name != WORKING.mark:
                    path.unlink(missing_ok=True)
            if [path.name for path in self.working.iterdir()] != [WORKING.mark]:
                return  # a network drive keeps files that somebody still reads; the next command removes them
            (self.working / WORKING.mark).unlink(missing_ok=True)
            self.working.rmdir()

    def _recover(self) -> None:
        """Bring the replaced folder back if nothing has its name, else mark it as one that can be removed."""
        if not self.previous.exists():
            return
        if not self.folder.exists() or not any(self.folder.iterdir()):
            self._move(self.previous, self.folder)
        else:
            remove_folder(self.discarded)
            self._move(self.previous, self.discarded)

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
        except PermissionError as error:  # a folder without the right to write in it cannot be moved
            raise PermissionError(
                f"{self.setting}={self.folder} cannot be replaced ({error}); nothing was changed. Allow writing to it "
                f"(chmod u+w {shlex.quote(str(self.folder))}) and repeat the command, or choose another {self.setting}"
            ) from error
        flush_folder(target.parent)
        flush_folder(source.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there; what a network drive keeps for its readers (.nfs…) may stay.

    Raises:
        OSError: naming the folder, of which a part may be left.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        left = [path for path in folder.rglob("*") if not path.is_dir()]
        if left and all(map(is_system_file, left)):
            return
        raise OSError(f"cannot remove {folder}: {error.strerror}") from error


def check_replaceable(folder: Path, *, setting: str, given: str) -> None:
    """Raise if replacing this folder would take away what a user works in, whatever it holds.

    Raises:
        ValueError: it is the current or the home folder, one around them, a mount point, or the setting is empty.
    """
    check_given(given, setting=setting)
    if Path(given).is_symlink() and not Path(given).exists():
        raise ValueError(
            f"{setting}={given} is a link to {folder}, which is not there; mount that disk, make that folder, "
            "or remove the link"
        )
    for place, noun in ((Path.cwd(), "the current folder"), (Path.home(), "the home folder")):
        if folder in (place, *place.parents):
            raise ValueError(f"{setting}={given} is {noun}, or contains it, and would be replaced; name a folder in it")
    if os.path.ismount(folder):
        raise ValueError(f"{setting}={given} is a mount point, which cannot be replaced as a whole; name a folder in it")


def flush_tree(folder: Path) -> None:
    """Flush the names in a folder and in all folders below it."""
    for place, _, _ in os.walk(folder):
        flush_folder(Path(place))
