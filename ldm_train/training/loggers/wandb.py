"""Weights & Biases: one wandb run per run directory, with one row for each logged step on an axis that never goes back.

A run that is killed has logged steps after its last checkpoint, which it repeats when it continues; and wandb may have lost
rows that it had not written yet. So a continued run first reads which steps wandb has: rows up to the checkpoint that wandb
lacks are copied from `metrics.jsonl`, and repeated steps are not logged until new ones come.
"""

import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_only

from ldm_train.training.loggers.dashboards import PlainConfig
from ldm_train.training.loggers.row_dashboard import MediaDashboard, MediaLibrary
from ldm_train.training.loggers.step_rows import read_identity, write_identity
from ldm_train.training.loggers.wandb_files import read_last_step
from ldm_train.util.messages import note, warn

if TYPE_CHECKING:
    from wandb.wandb_run import Run

IDENTITY = re.compile("[0-9a-z]{8}")
FLUSH_SECONDS = 0.25  # after which wandb has written a row to its file
INIT, FINISH, FINISH_ARTIFACTS = 30.0, 120.0, 1800.0  # seconds to wait for a server


class Wandb(MediaDashboard):
    """Log to Weights & Biases, online, or on disk for `wandb sync`; on disk too if the server does not answer.

    Args:
        save_dir: the run directory.
        project, entity, group, tags, notes: as in `wandb.init`.
        name: name of the wandb run; None for the run directory's name.
        offline: log only to disk.
        artifacts: upload every checkpoint too.
        further: other arguments of `wandb.init`.

    Raises:
        ValueError: online, but no API key is found.
    """

    write_seconds = 2 * FLUSH_SECONDS

    def __init__(
        self,
        save_dir: str,
        *,
        project: str = "ldm-train",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        offline: bool = False,
        artifacts: bool = False,
        **further: Any,
    ) -> None:
        super().__init__(save_dir, name=name)
        self.settings: dict[str, Any] = {"project": project, "name": self.run_name, "entity": entity}
        self.settings |= {"group": group, "tags": list(tags), "notes": notes, **further}
        self.mode = "offline" if offline else os.environ.get("WANDB_MODE", "online")
        self.artifacts = artifacts
        self.advice = f"; `wandb sync {self.run_dir}/wandb/*run-*` uploads what is on disk"
        self._run: Run | None = None
        if self.mode == "online":
            rank_zero_only(require_login)()

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        identity = self._identity(anew=step is None)
        known = 0 if step is None else read_last_step(self.run_dir / "wandb", identity)
        self._run = self._online(identity) if self.mode == "online" else self._init(identity, self.mode)
        if self.mode == "online" and step is not None:  # rows on disk may not have been sent
            known = int(self._run.summary.get("step") or 0)
        self._run.config.update(dict(settings), allow_val_change=True)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        self._begin_rows(known=known, until=step or 0)
        if self.mode == "online":
            note(f"wandb: {self._run.url}")

    def checkpoint(self, path: Path, step: int) -> None:
        if self.artifacts and self._run is not None:
            import wandb

            os.environ.setdefault("WANDB_DATA_DIR", str(self.run_dir.resolve() / "wandb"))  # where wandb copies artifacts
            artifact = wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"step": step})
            artifact.add_file(str(path), name="last.ckpt")  # copied now, because the next checkpoint replaces the file
            self._run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def close(self, *, failed: bool) -> None:
        self._rows.commit()
        run, self._run = self._run, None
        if run is not None:
            finish_run(run, failed=failed)
            if self.mode != "online":
                note(f"wandb: `wandb sync {self.run_dir}/wandb/*run-*` uploads this run")

    def _media(self) -> MediaLibrary:
        import wandb

        return wandb

    def _log_row(self, values: Mapping[str, object], step: int) -> None:
        if self._run is not None:
            self._run.log({**values, "step": step})

    def _identity(self, *, anew: bool) -> str:
        """Return the wandb run's id, which stays the same while the run is continued."""
        path = self.run_dir / "wandb.json"
        if anew or not path.exists():
            write_identity(path, secrets.token_hex(4))
        identity = read_identity(path, IDENTITY)
        assert identity is not None
        return identity

    def _online(self, identity: str) -> "Run":
        import wandb

        try:
            return self._init(identity, "online")
        except (wandb.errors.CommError, TimeoutError) as error:
            wandb.teardown()
            self.mode = "offline"
            reason = str(error).splitlines()[0]
            warn(f"wandb cannot be reached ({reason}); logging to disk instead{self.advice}")
            return self._init(identity, "offline")

    def _init(self, identity: str, mode: str) -> "Run":
        import wandb

        finish_run = FINISH_ARTIFACTS if self.artifacts else FINISH
        quiet = wandb.Settings(
            silent=True,
            console="off",
            reinit="create_new",
            init_timeout=INIT,
            finish_timeout=finish_run,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
        )
        where: dict[str, Any] = {"id": identity, "dir": self.run_dir, "mode": mode}
        if mode == "online":
            where["resume"] = "allow"
        return wandb.init(settings=quiet, **where, **self.settings)


def finish_run(run: "Run", *, failed: bool) -> None:
    """Let wandb send the rest of a run.

    If wandb's service is gone, shut wandb down too; otherwise it would fail when Python exits.
    """
    import wandb

    try:
        run.finish(exit_code=int(failed))
    except ConnectionError:
        with suppress(ConnectionError):
            wandb.teardown()
        raise


def require_login() -> None:
    """Raise if wandb would ask for an API key.

    Raises:
        ValueError: no API key; the message says how to log in, and how to log offline.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "logger=wandb found no API key; run `wandb login`, set WANDB_API_KEY, or log to disk with logger.offline=true "
            "(`wandb sync` uploads it later)"
        )
