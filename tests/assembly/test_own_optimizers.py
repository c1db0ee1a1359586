"""An own optimizer takes a step before any data is read: one that leaves out the forward and backward pass is refused."""

from pathlib import Path

import pytest

from ldm_train.assembly.optimization_checks import refuse_optimization
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.trust import Grants, granted

CODE = """
import torch
class Base(torch.optim.Optimizer):
    def __init__(self, params, lr=1.0, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
class Right(Base):
    def step(self, closure=None):
        return None if closure is None else closure()
class Ignoring(Base):
    def step(self, closure=None):
        return None
class Without(Base):
    def step(self):
        return None
class Needing(Base):
    def step(self, closure):
        return closure()
class Matrices(Base):
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p @ p.mT @ torch.zeros(2, 2)
        return None if closure is None else closure()
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    (tmp_path / "own_optimizers.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str) -> TrainSettings:
        return compose_as(TrainSettings, ["cache=c", "run_dir=r", f"optimizer._target_=own_optimizers.{name}"])

    with granted(Grants(("own_optimizers",))):
        yield make


def test_one_that_calls_the_closure_passes(settings: object) -> None:
    refuse_optimization(settings("Right"))  # type: ignore[operator]


@pytest.mark.parametrize("name", ["Ignoring", "Without", "Needing", "Matrices"])
def test_others_are_named(name: str, settings: object) -> None:
    says = "closure" if name != "Matrices" else "vectors, matrices and convolutions"
    with pytest.raises(ValueError, match=rf"own_optimizers\.{name}.*({says}|takes 1 positional)"):
        refuse_optimization(settings(name))  # type: ignore[operator]
