"""TensorBoard shows the losses first, and the settings in its table of hyperparameters."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata, plugin_data_pb2

from ldm_train.training.loggers.tensorboard import TensorBoard, flatten, name_card
from ldm_train.training.validation.metrics_callback import MetricsCallback

LOGGED = [
    *("loss", "noise_mse", "validation_loss", "validation_loss_raw_low", "validation_noise_mse", "grad_norm", "lr"),
    *("health/clipped", "metrics/kid_x", "validation_bins/log_snr", "time/memory_gib", "held_out_psnr", "grad_norms", "kl"),
]


def test_the_losses_come_first() -> None:
    names = sorted([*map(name_card, LOGGED), "pictures/forward"])
    assert names[:4] == ["loss/kl", "loss/training", "loss/validation", "loss/validation_raw_low"]
    assert all(
        not name.startswith("loss/") for name in names[names.index(max(n for n in names if n.startswith("loss/"))) + 1 :]
    )
    assert len(set(names)) == len(LOGGED) + 1


def test_hyperparameters_are_the_settings(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    settings = {"seed": 3, "network": {"channels": [1, 2], "dropout": 0.5}, "cache": "a", "fused": False, "weights": None}
    board.begin(settings, None)
    board.scalars({"validation_loss": 0.25}, 1)
    board.close(failed=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    found = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert set(found) == set(flatten(settings)) == {"seed", "network.channels", "network.dropout", "cache", "fused"}
    assert found["network.dropout"].number_value == 0.5
    assert found["cache"].string_value == "a"
    assert [event.value for event in events.Scalars("loss/validation")] == [0.25]


@pytest.mark.slow
def test_too_few_pictures_are_said_once(
    cache: Path, train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldm_train.training.validation import metrics_callback

    measured: list[int] = []
    measure = MetricsCallback._measure

    def counted(self: MetricsCallback, trainer, module) -> None:  # type: ignore[no-untyped-def]
        measured.append(trainer.global_step)
        measure(self, trainer, module)

    monkeypatch.setattr(MetricsCallback, "_measure", counted)
    monkeypatch.setattr(metrics_callback, "choose_comparisons", lambda *arguments, **more: [])
    answer = train(cache, tmp_path / "run", "max_steps=6", "metrics.every=2", "metrics.count=4")
    assert answer.code == 0, answer.err
    assert measured == [2, 4, 6]
    assert answer.out.count("no metrics of sets of pictures") == 1
