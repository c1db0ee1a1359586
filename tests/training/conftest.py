"""What tests of runs that go wrong share: values that are not finite at chosen steps, and the state after every step."""

import copy
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import Tensor

Place = Literal["loss", "gradient", "one example"]


@dataclass
class State:
    """What a step may change: weights, averages, the optimizer's own, bit for bit."""

    weights: dict[str, "Tensor"]
    averages: dict[str, Any]
    optimizer: list[Any]


@dataclass
class Seen:
    """What training saw by step (from 1): raw latents or images, timesteps, losses; and the state after it."""

    states: dict[int, State] = field(default_factory=dict)
    inputs: dict[int, list["Tensor"]] = field(default_factory=dict)
    t: dict[int, list["Tensor"]] = field(default_factory=dict)
    losses: dict[int, list["Tensor"]] = field(default_factory=dict)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Records all runs of the test, the latest over the ones before."""
    from ldm_train.training.checkpoints.checkpoint_callback import Checkpoints
    from ldm_train.training.ema.ema import EMA
    from ldm_train.training.module import NoisePredictorTraining

    found = Seen()
    after_step, losses = Checkpoints.on_train_batch_end, NoisePredictorTraining.losses

    def record(self: Checkpoints, trainer: "pl.Trainer", module: Any, *rest: Any) -> None:
        averages = next((c.averages for c in trainer.callbacks if isinstance(c, EMA)), {})  # type: ignore[attr-defined]
        found.states[trainer.global_step] = State(
            {name: p.detach().clone() for name, p in module.trained_parameters().items()},
            copy.deepcopy(averages),
            copy.deepcopy(list(trainer.optimizers[0].state.values())),
        )
        after_step(self, trainer, module, *rest)

    def watched(self: Any, batch: Any, t: "Tensor", *, stream: str, **more: Any) -> Any:
        result = losses(self, batch, t, stream=stream, **more)
        if not stream:
            step = self.global_step + 1
            for kept, value in ((found.inputs, batch.moments.mean), (found.t, t), (found.losses, result.loss.detach())):
                kept.setdefault(step, []).append(value)
        return result

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", record)
    monkeypatch.setattr(NoisePredictorTraining, "losses", watched)
    return found


@pytest.fixture
def spoiled() -> Callable[..., Any]:
    """`with spoiled({4, 5}, "gradient", inf): …` makes these steps not finite, in that place of their last micro-batch."""
    import torch

    from ldm_train.training.autoencoder_module import AutoencoderTraining
    from ldm_train.training.base_module import Training
    from ldm_train.training.callbacks.step_log import step_ended
    from ldm_train.training.module import NoisePredictorTraining

    @contextmanager
    def spoil(steps: set[int], place: Place, value: float = float("nan")) -> Iterator[None]:
        backward, losses = Training.backward, NoisePredictorTraining.losses

        def bad(self: Training) -> bool:
            return self.global_step + 1 in steps and step_ended(self.trainer, self._micro)  # type: ignore[attr-defined]

        def start(self: Training, batch: object, batch_idx: int) -> None:
            self._micro = batch_idx  # type: ignore[attr-defined]

        def spoil_backward(self: Training, loss: "Tensor", *rest: Any, **more: Any) -> None:
            backward(self, loss, *rest, **more)
            if place == "gradient" and bad(self):
                next(p for p in self.trained_parameters().values() if p.grad is not None).grad.view(-1)[0] = value  # type: ignore[union-attr]

        def spoil_losses(self: Any, batch: Any, t: "Tensor", *, stream: str, **more: Any) -> Any:
            result = losses(self, batch, t, stream=stream, **more)
            if place == "one example" and not stream and bad(self):
                factor = torch.ones_like(result.loss)
                factor[1] = value
                result = type(result)(result.loss * factor, result.noise_mse)
            return result

        def spoil_step(original: Any) -> Any:
            def step(self: Any, batch: Any, batch_idx: int) -> Any:
                result = original(self, batch, batch_idx)
                return result | {"loss": result["loss"] + value} if place == "loss" and bad(self) else result

            return step

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "on_train_batch_start", start)
            for kind in (NoisePredictorTraining, AutoencoderTraining):
                patch.setattr(kind, "training_step", spoil_step(kind.training_step))
            patch.setattr(Training, "backward", spoil_backward)
            patch.setattr(NoisePredictorTraining, "losses", spoil_losses)
            yield

    return spoil


@pytest.fixture(scope="session")
def whole(run_with: Callable) -> Path:
    """The run with checkpoints that nothing happened to."""
    from tests.training.checkpoints.checkpointed import KEPT

    return run_with(*KEPT)


@pytest.fixture(scope="session")
def cut(cache: Path, train: Callable, power_cut: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, cut after step 7: there are checkpoints of steps 2, 4 and 6, the last one by two names."""
    from ldm_train.training.checkpoints.checkpoint_files import numbered
    from tests.training.checkpoints.checkpointed import KEPT, last

    run_dir = tmp_path_factory.mktemp("cut") / "run"
    with power_cut(7):
        train(cache, run_dir, *KEPT)
    assert list(numbered(run_dir)) == [2, 4, 6]
    assert last(run_dir).samefile(numbered(run_dir)[6])
    return run_dir


@pytest.fixture
def copied(cut: Path, tmp_path: Path) -> Path:
    """Of that run, whose files are linked as they are there."""
    subprocess.run(["cp", "-a", cut, tmp_path / "run"], check=True)
    return tmp_path / "run"
