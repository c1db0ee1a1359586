"""Any other Lightning logger as a dashboard, which then has the curves and the config."""

from collections.abc import Mapping

from pytorch_lightning.loggers.logger import Logger

from ldm_train.training.loggers.dashboards import Dashboard, PlainConfig


class LightningDashboard(Dashboard):
    """Pass scalars and the config on to a Lightning logger."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger

    @property
    def name(self) -> str:
        return type(self.logger).__name__

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        self.logger.log_hyperparams(dict(settings))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.logger.log_metrics(dict(values), step)

    def flush(self) -> None:
        self.logger.save()

    def close(self, *, failed: bool) -> None:
        self.logger.finalize("failed" if failed else "success")


def as_dashboard(logger: Logger) -> Dashboard:
    """Return a Lightning logger as a dashboard; a dashboard as it is."""
    return logger if isinstance(logger, Dashboard) else LightningDashboard(logger)
