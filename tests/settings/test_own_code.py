"""Own code of another kind is refused in one message that names the class, the group and what is missing."""

from pathlib import Path

import pytest

from ldm_train.settings.constructors import build
from ldm_train.settings.own_code import KINDS
from ldm_train.settings.schema.options import Part
from ldm_train.settings.trust import Grants, granted

CODE = """
from torch import nn
class Nothing:
    pass
class Failing:
    def __init__(self):
        raise TypeError("no such argument")
class Silent(nn.Module):
    pass
class Narrow(nn.Module):
    def forward(self, x):
        return x
class Right(nn.Module):
    def forward(self, x_t, t, conditioning):
        return x_t
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_kinds.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "own_kinds"


def make(package: str, name: str, group: str) -> object:
    with granted(Grants((package,))):
        return build(Part(f"{package}.{name}", {}), group)


@pytest.mark.parametrize("group", [*KINDS, "network"])
def test_an_object_of_another_kind_is_named(group: str, package: str) -> None:
    with pytest.raises(ValueError, match=rf"{group}._target_={package}.Nothing .*Nothing.* no {group}"):
        make(package, "Nothing", group)


@pytest.mark.parametrize(
    ("name", "reason"), [("Silent", "forward"), ("Narrow", "x_t, t, conditioning"), ("Failing", "no such argument")]
)
def test_a_network_that_cannot_be_called_is_named(name: str, reason: str, package: str) -> None:
    with pytest.raises(ValueError, match=rf"{package}.{name}.*{reason}"):
        make(package, name, "network")


def test_a_network_needs_no_class_of_this_package(package: str) -> None:
    assert type(make(package, "Right", "network")).__name__ == "Right"
