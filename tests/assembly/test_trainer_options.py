"""Settings of Lightning's Trainer read as Lightning gets them, also where one was deleted; loggers are tried by check."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ldm_train.assembly.trainer import build_loggers, trainer_options
from ldm_train.commands.check.trials import Attempts, try_settings
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.options import TrainerSettings
from ldm_train.settings.schema.training import CheckSettings, TrainSettings

NEEDED = ["cache=x", "run_dir=x"]


@pytest.mark.parametrize(
    "name", [name for name in TrainerSettings.model_fields if name not in ("log_every_n_steps", "tf32", "timeout_minutes")]
)
def test_a_deleted_setting_is_the_same_in_the_settings_and_in_lightning(name: str) -> None:
    settings = compose_as(TrainSettings, [*NEEDED, f"~trainer.{name}"])
    assert trainer_options(settings.trainer)[name] == getattr(settings.trainer, name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_processes_wait_for_each_other_as_long_as_is_set(strategy: str) -> None:
    words = [*NEEDED, f"trainer.strategy={strategy}", "trainer.timeout_minutes=90"]
    made = trainer_options(compose_as(TrainSettings, words).trainer)["strategy"]
    assert made._timeout == timedelta(minutes=90)  # type: ignore[attr-defined]


def test_without_a_limit_the_gradient_is_not_clipped() -> None:
    settings = compose_as(TrainSettings, [*NEEDED, "~trainer.gradient_clip_val"])
    assert settings.trainer.gradient_clip_val is None
    assert trainer_options(settings.trainer)["gradient_clip_val"] is None
    assert compose_as(TrainSettings, NEEDED).trainer.gradient_clip_val == 1


@pytest.fixture
def without_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import wandb

    wandb.teardown()  # it reads the environment once
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield
    wandb.teardown()


@pytest.mark.usefixtures("without_login")
def test_check_refuses_the_logger_that_training_refuses() -> None:
    words = ["logger=wandb", "logger.project=mine"]
    with pytest.raises(ValueError, match=r"logger\.offline=true") as refused:
        build_loggers(compose_as(TrainSettings, [*NEEDED, *words]))
    attempt = Attempts()
    try_settings(compose_as(CheckSettings, ["source.path=x", *words]), attempt)
    assert str(refused.value) in attempt.reasons
    attempt = Attempts()
    try_settings(compose_as(CheckSettings, ["source.path=x", *words, "logger.offline=true"]), attempt)
    assert not [reason for reason in attempt.reasons if "wandb" in reason]
