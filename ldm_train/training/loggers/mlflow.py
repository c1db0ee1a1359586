"""MLflow: one of its runs for each run directory, by Lightning's logger; in a database of the run directory, or on a server.

A continued run logs no step twice: steps that the database has are passed over, and rows that it lacks, because a server did
not answer, are copied from `metrics.jsonl` at the next checkpoint or start.
"""

import json
import logging
import os
import re
import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ldm_train.training.loggers.dashboards import PlainConfig, TableCell
from ldm_train.training.loggers.row_dashboard import RowDashboard
from ldm_train.training.loggers.step_rows import read_identity, require_packages, write_identity
from ldm_train.training.loggers.tensorboard import flatten
from ldm_train.util.files import make_folder
from ldm_train.util.messages import note

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

IDENTITY = re.compile("[0-9a-f]{32}")
RETRY_SECONDS = 120.0  # after which a checkpoint tries again to start a run on a server that did not answer
FOLDER, DATABASE = "mlflow", "mlflow.db"
# Unless a user says otherwise: nothing is sent to anyone but the server, and one that does not answer stops no training.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "GIT_PYTHON_REFRESH": "quiet",
}


class MLflow(RowDashboard):
    """Log scalars, pictures, tables and the config to MLflow.

    Args:
        save_dir: the run directory.
        experiment: the experiment's name.
        name: of the run; None for the run directory's name.
        tracking_uri: a server's address; None for `save_dir/mlflow`.

    Raises:
        ValueError: a package is not installed.
    """

    advice = "; a later checkpoint tries again"

    def __init__(
        self,
        save_dir: str,
        *,
        experiment: str = "ldm-train",
        name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        super().__init__(save_dir, name=name)
        require_packages("mlflow", "mlflow", *(("sqlalchemy", "alembic") if tracking_uri is None else ()))
        self.experiment, self.tracking_uri = experiment, tracking_uri
        self._logger: MLFlowLogger | None = None
        self._logged = 0  # the last step up to which MLflow has all rows
        self._waits = False  # for the next checkpoint, since a row could not be logged
        self._waiting: PlainConfig | None = None  # settings with which MLflow's run could not be started yet
        self._tried = 0.0  # when it was tried to start it
        self._anew = True  # whether MLflow's run is still to be made

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        """Start or continue MLflow's run; if the server does not answer, a later checkpoint tries again."""
        self._anew = step is None
        self._try_start(settings, until=step or 0)

    def _try_start(self, settings: PlainConfig, *, until: int) -> None:
        self._tried, self._waiting = time.monotonic(), settings
        try:
            self._start(settings, until)
        except ValueError:  # which no later try changes
            self._logger = self._waiting = None
            raise
        except Exception:
            self._logger = None
            raise
        self._waiting = None

    def _start(self, settings: PlainConfig, until: int) -> None:
        path = self.run_dir / "mlflow.json"
        self._logger = self._open(None if self._anew else read_identity(path, IDENTITY))
        write_identity(path, self._id)
        self._anew = False
        client = self._logger.experiment
        run = client.get_run(self._id)
        self._check_place(str(run.info.artifact_uri))
        data = run.data
        self._logger.log_hyperparams({k: v for k, v in flatten(settings).items() if k not in data.params})
        client.log_text(self._id, json.dumps(settings, indent=2) + "\n", "config.json")
        steps = [metric.step for name in data.metrics for metric in client.get_metric_history(self._id, name)]
        self._logged, self._waits = max(steps, default=0), False
        self._begin_rows(known=self._logged, until=until)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        if self._is_new(step):
            pixels = picture.permute(1, 2, 0).cpu().numpy()
            self._client.log_image(self._id, pixels, key=name, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]], step: int) -> None:
        if self._is_new(step):
            table = {column: [row[place] for row in rows] for place, column in enumerate(columns)}
            self._client.log_table(self._id, table, f"tables/{name}-step-{step:08d}.json")

    def flush(self) -> None:
        """Log the step's row, and the rows since one that could not be logged; start anew what could not be started."""
        super().flush()
        if self._waiting is not None and time.monotonic() - self._tried >= RETRY_SECONDS:
            self._try_start(self._waiting, until=self._rows.step)
        elif self._waits and self._logger is not None:
            self._waits = False
            self._copy_missing(after=self._logged, until=self._rows.step)

    def close(self, *, failed: bool) -> None:
        self.flush()
        logger, self._logger = self._logger, None
        if logger is not None:
            logger.finalize("failed" if failed else "success")
            if self.tracking_uri is None:
                note(f"mlflow: `mlflow ui --backend-store-uri {shlex.quote(self._local_uri)}` shows this run")

    @property
    def _client(self) -> "MlflowClient":
        assert self._logger is not None
        return self._logger.experiment

    @property
    def _id(self) -> str:
        assert self._logger is not None
        assert self._logger.run_id is not None
        return self._logger.run_id

    @property
    def _local_uri(self) -> str:
        return f"sqlite:///{(self.run_dir / FOLDER).resolve() / DATABASE}"

    def _is_new(self, step: int) -> bool:
        return self._logger is not None and not self._waits and step > self._rows.last_known

    def _check_place(self, artifacts: str) -> None:
        """Raise if the database in the run directory would put pictures elsewhere, as that of a run that was moved does."""
        own = (self.run_dir / FOLDER).resolve()
        if self.tracking_uri is None and not artifacts.startswith(f"{own.as_uri()}/"):
            self._logger = None
            raise ValueError(f"{own} was made elsewhere and puts pictures into {artifacts}; remove that folder to log anew")

    def _open(self, identity: str | None) -> "MLFlowLogger":
        """Return Lightning's logger of the run with this id, or of a new run if there is no such run."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for library in ("mlflow", "alembic"):
            logging.getLogger(library).setLevel(logging.WARNING)
        with warnings.catch_warnings(action="ignore"):  # deprecations among mlflow's libraries
            if self.tracking_uri is None:
                import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
            from mlflow.exceptions import MlflowException
        from pytorch_lightning.loggers import MLFlowLogger

        folder = (self.run_dir / FOLDER).resolve()
        if self.tracking_uri is None:
            make_folder(folder)
        arguments: dict[str, Any] = {
            "experiment_name": self.experiment,
            "run_name": self.run_name,
            "tracking_uri": self.tracking_uri or self._local_uri,
            "artifact_location": (folder / "artifacts").as_uri() if self.tracking_uri is None else None,
        }
        logging.getLogger("pytorch_lightning.loggers.mlflow").setLevel(logging.ERROR)  # of a new experiment
        if identity is not None:
            logger = MLFlowLogger(**arguments, run_id=identity)
            try:
                logger.experiment.update_run(identity, status="RUNNING")
                return logger
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        return MLFlowLogger(**arguments)

    def _log_row(self, values: Mapping[str, object], step: int) -> None:
        if self._logger is None or self._waits:
            return
        self._waits = True  # unless this goes well: a server that does not answer would stop every step for seconds
        self._logger.log_metrics(dict(values), step)  # type: ignore[arg-type]
        self._logged, self._waits = step, False
