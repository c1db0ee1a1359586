"""Trackio: one of its runs for each run directory, in a database of the run directory, to look at with `trackio show`.

A continued run logs no step twice: steps that the database has are passed over, and rows that it lacks, because the process
was killed before they were written, are copied from `metrics.jsonl`.
"""

import os
import re
import secrets
import shlex
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldm_train.training.loggers.dashboards import PlainConfig
from ldm_train.training.loggers.row_dashboard import MediaDashboard, MediaLibrary
from ldm_train.training.loggers.step_rows import read_identity, require_packages, write_identity
from ldm_train.util.messages import note

if TYPE_CHECKING:
    from types import ModuleType

    from trackio import Run

IDENTITY = re.compile("[0-9a-f]{8}")
FOLDER = "TRACKIO_DIR"  # the variable that names the folder of its databases, which trackio reads when it is imported
WRITES = 1.0  # seconds after which trackio's thread has written a row


class Trackio(MediaDashboard):
    """Log scalars, pictures, tables, histograms and the config to Trackio.

    Args:
        save_dir: the run directory; its folder `trackio` has the database unless the variable TRACKIO_DIR names another.
        project: the project's name.
        name: of the run, before its id; None for the run directory's name.
        group: of the run.
        space_id: a Hugging Face Space, USER/SPACE, to which everything is sent; None for none.

    Raises:
        ValueError: the package is not installed, or this process already logs into another folder.
    """

    write_seconds = WRITES

    def __init__(
        self,
        save_dir: str,
        *,
        project: str = "ldm-train",
        name: str | None = None,
        group: str | None = None,
        space_id: str | None = None,
    ) -> None:
        super().__init__(save_dir, name=name)
        require_packages("trackio", "trackio")
        self.folder = Path(os.environ.get(FOLDER) or self.run_dir.resolve() / "trackio")
        self.run_name = as_folder_name(self.run_name)
        self.settings: dict[str, Any] = {"project": as_folder_name(project), "group": group, "space_id": space_id}
        self._run: Run | None = None
        if (used := read_folder()) not in (None, self.folder):
            raise ValueError(
                f"logger=trackio already writes into {used} in this process, and cannot write into {self.folder}: start "
                f"another process, or set {FOLDER} to one folder for all runs"
            )

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        trackio, path = import_trackio(self.folder), self.run_dir / "trackio.json"
        identity = None if step is None else read_identity(path, IDENTITY)
        if identity is None:
            identity = secrets.token_hex(4)
            write_identity(path, identity)
        name, quiet = f"{self.run_name}-{identity}", {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        with redirect_stdout(StringIO()):
            self._run = trackio.init(name=name, resume="allow", config=dict(settings), **quiet, **self.settings)
        known = trackio.sqlite_storage.SQLiteStorage.get_max_step_for_run(self.settings["project"], name) or 0
        self._begin_rows(known=known, until=step or 0)

    def close(self, *, failed: bool) -> None:
        self._rows.commit()
        run, self._run = self._run, None
        if run is not None:
            with redirect_stdout(StringIO()):
                run.finish()
            command = (
                f"{FOLDER}={shlex.quote(str(self.folder))} trackio show --project {shlex.quote(self.settings['project'])}"
            )
            note(f"trackio: `{command}` shows this run")

    def _media(self) -> MediaLibrary:
        import trackio

        return trackio

    def _log_row(self, values: Mapping[str, object], step: int) -> None:
        if self._run is not None:
            self._run.log(dict(values), step=step)


def as_folder_name(name: str) -> str:
    """Return a name without what leads out of a folder, since trackio makes folders of names."""
    return re.sub(r"[/\\]|^\.+", "_", name)


def read_folder() -> Path | None:
    """Return the folder into which trackio writes in this process; None if it is not imported."""
    return sys.modules["trackio.utils"].TRACKIO_DIR if "trackio.utils" in sys.modules else None


def import_trackio(folder: Path) -> "ModuleType":
    """Import trackio so that it writes into a folder."""
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    try:
        import trackio
        import trackio.sqlite_storage
    finally:
        if before is None:
            del os.environ[FOLDER]
    return trackio
