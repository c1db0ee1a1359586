"""Weights & Biases: a row a logged step, on an axis of our own that never goes backwards, under one id for the whole run.

A run that is killed has logged steps after its last checkpoint, which come again, and wandb may have lost rows that it had
not yet written. So where a run is continued, what wandb has is asked first; rows that it lacks up to the checkpoint are
taken from `metrics.jsonl`, and steps that it has are left out until there are new ones.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from ldm_train.training.loggers.dashboards import CLOCK, Cell, Dashboard, Settings
from ldm_train.training.loggers.wandb_files import last_step
from ldm_train.training.run_files import METRICS, TIMING
from ldm_train.util.files import atomic_write
from ldm_train.util.safe_json import numbers_of, parse_json, read_object

if TYPE_CHECKING:
    from wandb.wandb_run import Run

IDENTITY = re.compile("[0-9a-z]{8}")
FLUSHED = 0.25  # seconds in which wandb has a row in its file
INIT, FINISH, FINISH_ARTIFACTS = 30.0, 120.0, 1800.0  # seconds that an unreachable server may take


class Wandb(Dashboard):
    """Weights & Biases, online or on the disk for `wandb sync`; where the server does not answer, on the disk.

    Args:
        save_dir: the run directory.
        project, entity, group, tags, notes: as wandb has them.
        name: of the run; null: the run directory's.
        offline: on the disk alone.
        artifacts: keep every checkpoint there too.
        further: what else `wandb.init` takes.

    Raises:
        ValueError: nobody is logged in, online.
    """

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
        super().__init__()
        self.run_dir = Path(save_dir)
        self.settings: dict[str, Any] = {"project": project, "name": name or self.run_dir.resolve().name, "entity": entity}
        self.settings |= {"group": group, "tags": list(tags), "notes": notes, **further}
        self.mode = "offline" if offline else os.environ.get("WANDB_MODE", "online")
        self.artifacts = artifacts
        self.advice = f"; `wandb sync {self.run_dir}/wandb/*run-*` uploads what wandb has on the disk"
        self._run: Run | None = None
        self._row: dict[str, object] = {}
        self._step = 0  # of that row
        self._there = 0  # the last step that wandb has of an earlier start
        self._pictures = False
        if self.mode == "online":
            rank_zero_only(refuse_stranger)()

    def begin(self, settings: Settings, step: int | None) -> None:
        identity = self._identity(anew=step is None)
        self._there = 0 if step is None else last_step(self.run_dir / "wandb", identity)
        self._run = self._online(identity) if self.mode == "online" else self._init(identity, self.mode)
        if self.mode == "online" and step is not None:  # what is on the disk may not have been sent
            self._there = int(self._run.summary.get("step") or 0)
        self._run.config.update(dict(settings), allow_val_change=True)
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        if step is not None:
            for number, row in missing_rows(self.run_dir, after=self._there, until=step):
                self._run.log({**row, "step": number})
            self._there = max(self._there, step)
        if self.mode == "online":
            print(f"wandb: {self._run.url}")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._add(dict(values), step)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        import wandb

        self._add({name: wandb.Image(picture.permute(1, 2, 0).cpu().numpy())}, step)
        self._pictures = True

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]], step: int) -> None:
        import wandb

        self._add({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        import wandb

        self._add({name: wandb.Histogram(values.float().cpu().flatten().tolist())}, step)

    def checkpoint(self, path: Path, step: int) -> None:
        if self.artifacts and self._run is not None:
            import wandb

            os.environ.setdefault("WANDB_DATA_DIR", str(self.run_dir.resolve() / "wandb"))  # where it copies them to
            artifact = wandb.Artifact(f"checkpoint-{self._run.id}", type="model", metadata={"step": step})
            artifact.add_file(str(path), name="last.ckpt")  # copied, for the next one takes its place
            self._run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def flush(self) -> None:
        """A picture of a checkpoint's past does not come again; wandb cannot be told to write, only waited for."""
        self._commit()
        if self._pictures and self._run is not None:
            time.sleep(2 * FLUSHED)
        self._pictures = False

    def close(self, *, failed: bool) -> None:
        self._commit()
        run, self._run = self._run, None
        if run is not None:
            finish(run, failed=failed)
            if self.mode != "online":
                print(f"wandb: `wandb sync {self.run_dir}/wandb/*run-*` uploads this run")

    def _add(self, values: Mapping[str, object], step: int) -> None:
        if step <= self._there:
            return
        if step != self._step:
            self._commit()
        self._step = step
        self._row |= values

    def _commit(self) -> None:
        row, self._row = self._row, {}
        if row and self._run is not None:
            self._run.log({**row, "step": self._step})

    def _identity(self, *, anew: bool) -> str:
        """The run's id, which stays for as long as it is continued."""
        path = self.run_dir / "wandb.json"
        if anew or not path.exists():
            atomic_write(path, json.dumps({"id": secrets.token_hex(4)}) + "\n")
        identity = read_object(path).get("id")
        if not isinstance(identity, str) or not IDENTITY.fullmatch(identity):
            raise ValueError(f"{path} holds no id of a run of wandb's; restore it, or remove it to log to a new one")
        return identity

    def _online(self, identity: str) -> "Run":
        import wandb

        try:
            return self._init(identity, "online")
        except (wandb.errors.CommError, TimeoutError) as error:
            wandb.teardown()
            self.mode = "offline"
            reason = str(error).splitlines()[0]
            print(f"warning: wandb cannot be reached ({reason}); this start is logged on the disk{self.advice}")
            return self._init(identity, "offline")

    def _init(self, identity: str, mode: str) -> "Run":
        import wandb

        finish = FINISH_ARTIFACTS if self.artifacts else FINISH
        quiet = wandb.Settings(
            silent=True,
            console="off",
            reinit="create_new",
            init_timeout=INIT,
            finish_timeout=finish,
            finish_timeout_raises=True,
            x_transaction_log_flush_interval=FLUSHED,
        )
        where: dict[str, Any] = {"id": identity, "dir": self.run_dir, "mode": mode}
        if mode == "online":
            where["resume"] = "allow"
        return wandb.init(settings=quiet, **where, **self.settings)


def finish(run: "Run", *, failed: bool) -> None:
    """Let wandb have the rest of a run; where its service is gone, forget that, for the process would stumble on it."""
    import wandb

    try:
        run.finish(exit_code=int(failed))
    except ConnectionError:
        with suppress(ConnectionError):
            wandb.teardown()
        raise


def refuse_stranger() -> None:
    """Refuse to start where wandb would ask who one is.

    Raises:
        ValueError: it says how to log in, and how to go without.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise ValueError(
            "logger=wandb finds no API key; run `wandb login`, set WANDB_API_KEY, or keep the run on the disk by "
            "logger.offline=true (`wandb sync` uploads it later)"
        )


def missing_rows(run_dir: Path, *, after: int, until: int) -> list[tuple[int, dict[str, float]]]:
    """What a run logged at the steps in between, by step."""
    rows: dict[int, dict[str, float]] = {}
    for name, prefix in ((METRICS, ""), (TIMING, CLOCK)):
        path = run_dir / name
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            values = numbers_of(parse_json(line))
            step = int(values.pop("step"))
            if after < step <= until:
                rows.setdefault(step, {}).update({prefix + key: value for key, value in values.items()})
    return sorted(rows.items())
