"""Any other logger of Lightning's as a dashboard, which has the curves alone."""

from collections.abc import Mapping

from pytorch_lightning.loggers.logger import Logger

from ldm_train.training.loggers.dashboards import Dashboard, Settings


class Others(Dashboard):
    """Hands on scalars and the config."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger

    @property
    def name(self) -> str:
        return type(self.logger).__name__

    def begin(self, settings: Settings, step: int | None) -> None:
        self.logger.log_hyperparams(dict(settings))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def flush(self) -> None:
        self.logger.save()

    def close(self, *, failed: bool) -> None:
        self.logger.finalize("failed" if failed else "success")


def as_dashboard(logger: Logger) -> Dashboard:
    """A logger that is none becomes one."""
    return logger if isinstance(logger, Dashboard) else Others(logger)
