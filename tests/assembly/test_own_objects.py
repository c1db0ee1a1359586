"""Callbacks and metrics of own code that would disturb each other or a checkpoint are refused where they are built."""

from pathlib import Path

import pytest

from ldm_train.assembly.own_objects import build_callbacks, build_own_metrics
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.trust import Grants, granted

MODULE = """
import numpy as np
import torch
from pytorch_lightning import Callback
class Counting(Callback):
    def __init__(self, state=None):
        self.state = {"steps": 3, "mean": torch.zeros(2), "names": ["a", None]} if state is None else eval(state)
    def state_dict(self):
        return self.state
class Named(Counting):
    def __init__(self, name):
        super().__init__()
        self.name = name
    @property
    def state_key(self):
        return self.name
class Late(Callback):
    def state_dict(self):
        return {"model": self.model}
class Plain(Callback):
    pass
class Score:
    def __init__(self, name="score"):
        self.name = name
    def __call__(self, comparison):
        return {self.name: torch.zeros(len(comparison.captions))}
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_watching.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))


def settings(**lists: list[dict[str, object]]) -> TrainSettings:
    def name_class(of: str, **arguments: object) -> dict[str, object]:
        return {"_target_": f"own_watching.{of}", **arguments}

    items = {name: [name_class(**item) for item in given] for name, given in lists.items()}  # type: ignore[arg-type]
    config = compose_as(TrainSettings, ["cache=c", "run_dir=r"])
    metrics = config.metrics.model_copy(update={"own": items.get("metrics", [])})
    return config.with_values(callbacks=items.get("callbacks", []), metrics=metrics)


def test_callbacks_with_a_state_that_is_kept_pass() -> None:
    given: list[dict[str, object]] = [
        *({"of": "Counting"}, {"of": "Named", "name": "a"}, {"of": "Named", "name": "b"}),
        *({"of": "Plain"}, {"of": "Plain"}, {"of": "Late"}),
    ]
    with granted(Grants(("own_watching",))):
        assert len(build_callbacks(settings(callbacks=given))) == 6


def test_two_states_under_one_name_are_refused() -> None:
    with granted(Grants(("own_watching",))), pytest.raises(ValueError, match="several Counting with state_key="):
        build_callbacks(settings(callbacks=[{"of": "Counting"}, {"of": "Counting"}]))


@pytest.mark.parametrize(
    ("state", "kind"),
    [("{'f': len}", "builtin_function"), ("{'a': [np.float64(1)]}", "numpy.float64"), ("{'n': object()}", "object")],
)
def test_a_state_that_no_checkpoint_keeps_is_refused(state: str, kind: str) -> None:
    with granted(Grants(("own_watching",))), pytest.raises(ValueError, match=f"Counting .*{kind}"):
        build_callbacks(settings(callbacks=[{"of": "Counting", "state": state}]))


def test_metrics_with_one_name_are_refused() -> None:
    with granted(Grants(("own_watching",))):
        assert len(build_own_metrics(settings(metrics=[{"of": "Score"}, {"of": "Score", "name": "other"}]))) == 2
        for given, of in (
            ([{"of": "Score"}, {"of": "Score"}], "Score gives score, which Score"),
            ([{"of": "Score", "name": "retrieval_at_1"}], "Score gives retrieval_at_1, which Retrieval"),
        ):
            with pytest.raises(ValueError, match=f"metrics.own: {of}"):
                build_own_metrics(settings(metrics=given))
