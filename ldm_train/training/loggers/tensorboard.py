"""TensorBoard's event files, to look at offline: curves, pictures, tables, histograms and the config."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from ldm_train.training.loggers.dashboards import Dashboard, PlainConfig, TableCell
from ldm_train.util.files import flush_file
from ldm_train.util.held_out_figures import taught_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


OPTIMIZER = ("lr", "grad_norm", "grad_norms")
HEALTH = "health/"
ERRORS = ("loss", "noise_mse")  # of training, and with a prefix of held-out examples


def name_card(name: str) -> str:
    """Return TensorBoard's name of a metric: it shows groups in alphabetical order, and the losses should come first."""
    if name.startswith(HEALTH):
        return f"training {name}"
    for error in ERRORS:
        if name == error:
            return f"{error}/training"
        for kind in ("validation_", taught_name("validation_")):
            if name.startswith(f"{kind}{error}"):
                return f"{error}/{kind.rstrip('_')}{name.removeprefix(f'{kind}{error}')}"
    if "/" in name:
        return name
    if name in OPTIMIZER:
        return f"optimizer/{name}"
    return f"metrics/{name}" if name.endswith("_psnr") else f"loss/{name}"


def flatten(settings: PlainConfig, prefix: str = "") -> dict[str, float | str | bool]:
    """Return settings by their dotted names, with the values that TensorBoard's table of hyperparameters can hold."""
    found: dict[str, float | str | bool] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{key}.")
        elif value is not None:
            found[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return found


class TensorBoard(Dashboard):
    """Write `run_dir/tensorboard`, one file for each start of the run; steps that a later file has again are hidden."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.folder = run_dir / "tensorboard"
        self._writer: SummaryWriter | None = None

    def begin(self, settings: PlainConfig, step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        start = 0 if step is None else step + 1
        self._writer = SummaryWriter(str(self.folder), purge_step=start, flush_secs=30)
        lines = json.dumps(settings, indent=2).splitlines()
        self._writer.add_text("config", "\n".join(f"    {line}" for line in lines), start)

        for summary in hparams(flatten(settings), {name_card("validation_loss"): 0.0}):
            self._writer._get_file_writer().add_summary(summary)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items() if self._writer else ():
            self._writer.add_scalar(name_card(name), value, step)  # type: ignore[union-attr]

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        if self._writer:
            self._writer.add_image(f"pictures/{name}", picture, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[TableCell]], step: int) -> None:
        if self._writer:
            lines = [columns, ["---"] * len(columns), *rows]
            self._writer.add_text(name, "\n".join(f"| {' | '.join(map(_format_cell, line))} |" for line in lines), step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        if self._writer:
            self._writer.add_histogram(name_card(name), values.float().cpu(), step)

    def flush(self) -> None:
        if self._writer:
            self._writer.flush()
            for path in self.folder.glob("events.out.tfevents.*"):
                flush_file(path)

    def close(self, *, failed: bool) -> None:
        if self._writer:
            self._writer.close()


def _format_cell(cell: TableCell) -> str:
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)
