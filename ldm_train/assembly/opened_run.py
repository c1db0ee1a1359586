"""A run with its weights in memory, into which adapters are merged anew whenever their factors change."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ldm_train.assembly.stacked_adapters import list_adapters, merge_listed, put_weights
from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.assembly.trained_part import parameters_of
from ldm_train.run_dir.record import LAST
from ldm_train.settings.schema.using import SampleSettings

LOADED = ("run_dir", "weights", "device", "moved", "embeddings", "control_scale")  # settings that decide what is loaded
Stamp = tuple[int, int, int]


class OpenedRun:
    """A run with its weights in memory.

    Args:
        settings: only those of `LOADED` and the weaker model of guidance have an effect.

    Raises:
        ValueError: as `open_run`.
    """

    def __init__(self, settings: SampleSettings) -> None:
        self.key = self.key_of(settings)
        self.trained = open_run(settings.with_values(adapters=None))
        self._merged: Sequence[tuple[str, float]] | None = []  # None while weights are written
        self._before: dict[str, Tensor] = {}  # the weights that adapters change, without adapters, on the CPU

    @staticmethod
    def key_of(settings: SampleSettings) -> str:
        """Return what settings must share to use the same weights in memory."""
        weak = None if settings.guidance is None else settings.guidance.get("weak")
        return str([weak, *(getattr(settings, name) for name in LOADED)])

    def merge(self, adapters: object) -> TrainedRun:
        """Return the run with adapters merged into its weights as they were loaded.

        Args:
            adapters: a setting as of `add_adapters`.

        Raises:
            ValueError: as `add_adapters`; the weights are as before.
        """
        wanted = list_adapters(adapters)
        if wanted != self._merged:
            parts = self.trained.parts
            weights = {name: p.detach().cpu() for name, p in parameters_of(parts).items()} | self._before
            changed = merge_listed(wanted, self.trained.config, parts, weights)
            self._before = {name: weights[name].clone() for name in changed} | self._before
            self._merged = None
            put_weights(parts, self._before | changed)
            self._merged = wanted
        return self.trained


def read_stamp(settings: SampleSettings) -> Stamp | None:
    """Return what changes with the file of a run's weights; None if it is not there."""
    path = Path(settings.weights) if settings.weights.endswith(".safetensors") else Path(settings.run_dir) / LAST
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
