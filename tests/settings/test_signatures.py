"""Constructors read from their sources are what Python says they are."""

import importlib.util
import inspect
import re
from typing import Any, get_args

import pytest
from diffusers import UNet2DConditionModel
from hydra.utils import get_object
from omegaconf import OmegaConf

from ldm_train.settings.composition import folder
from ldm_train.settings.constructors import EXTRAS
from ldm_train.settings.schema.kinds import describe, takes_null
from ldm_train.settings.signatures import FURTHER, signature
from ldm_train.settings.strict import TRAINER

TARGETS = sorted({OmegaConf.load(f).get("_target_") for f in folder().rglob("*.yaml")} - {None})
OTHERS = ["torch.optim.SGD", "torch.optim.RMSprop", "pytorch_lightning.loggers.CSVLogger", TRAINER]
ABSENT = tuple(f"{package}." for package in EXTRAS if importlib.util.find_spec(package) is None)
WHOLE = [
    pytest.param(t, marks=pytest.mark.skipif(t.startswith(ABSENT), reason="its package is not installed"))
    for t in [*TARGETS, *OTHERS]
    if t not in FURTHER
]


@pytest.mark.parametrize("target", WHOLE)
def test_a_constructors_arguments_are_those_of_its_source(target: str) -> None:
    found = signature(target)
    assert found is not None
    real = inspect.signature(get_object(target)).parameters
    if [one.kind for one in real.values()] == [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]:
        assert found.kinds == {}, "nn.Module's own constructor takes nothing"
    else:
        assert list(found.kinds) == [name for name, one in real.items() if one.kind != inspect.Parameter.VAR_KEYWORD]


@pytest.mark.parametrize("target", WHOLE)
def test_what_defaults_to_none_may_be_null(target: str) -> None:
    found = signature(target)
    assert found is not None
    real = inspect.signature(get_object(target)).parameters
    wrong = [
        name
        for name, kind in found.kinds.items()
        if not takes_null(kind)
        and kind is not Any
        and (real[name].default is None or type(None) in get_args(real[name].annotation))
    ]
    assert wrong == []


@pytest.mark.parametrize(("name", "may"), [("gradient_clip_val", True), ("num_nodes", False), ("devices", False)])
def test_null_is_for_those_that_say_so(name: str, may: bool) -> None:
    found = signature(TRAINER)
    assert found is not None
    assert (takes_null(found.kinds[name]) or found.kinds[name] is Any) is may


def test_further_arguments_are_those_of_what_takes_them() -> None:
    found = signature("ldm_train.networks.diffusers_unet.DiffusersUNet")
    assert found is not None
    assert set(inspect.signature(UNet2DConditionModel).parameters) < set(found.kinds)
    assert "map_channels" in found.kinds
    assert not found.further


def test_what_is_not_there_has_none() -> None:
    assert signature("ldm_train.nothing.Here") is None
    assert signature("nowhere.at.all") is None
    assert signature("os.system") is None


def test_names_of_choices_are_read_as_their_values() -> None:
    found = signature("ldm_train.data.sources.folder.Folder")
    assert found is not None
    assert describe(found.kinds["lines"]) == "each, one"
    assert {"auto", "metadata", "sidecar", "template"} <= set(re.findall(r"\w+", describe(found.kinds["captions"])))
