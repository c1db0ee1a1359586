"""`import ldm_train` gives its names lazily; each is documented, and the API reference has exactly these."""

import importlib
import inspect
import re
from types import ModuleType

import pytest
from manual import public_names

import ldm_train

PUBLIC = public_names.list_public()


def find(name: str) -> object:
    found: object = ldm_train
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_type_checkers_and_the_reference_take_it_for(name: str) -> None:
    module, _, own = PUBLIC[name].rpartition(".")
    assert find(name) is getattr(importlib.import_module(module), own)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    found = find(name)
    assert found.__doc__
    assert not found.__doc__.startswith(f"{own_name(name)}(")  # what a dataclass says of itself
    if inspect.isfunction(found) and inspect.signature(found).return_annotation is inspect.Signature.empty:
        pytest.fail(f"{name} has no types")


def own_name(name: str) -> str:
    return name.rpartition(".")[2]


FUNCTIONS = [name for name in PUBLIC if name.count(".") == 1 and own_name(name).islower()]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "ldm_train.picture_grid"])
def test_a_function_of_the_package_says_what_it_raises(name: str) -> None:
    assert "Raises:" in str(find(name).__doc__)


def test_dir_lists_every_name_before_and_after_it_is_used() -> None:
    assert {*ldm_train.__all__} <= {*dir(ldm_train)}
    for name in ldm_train.__all__:
        if isinstance(module := getattr(ldm_train, name), ModuleType):
            assert {*module.__all__} <= {*dir(module)}
    assert {*ldm_train.__all__} <= {*dir(ldm_train)}


@pytest.mark.parametrize("module", ["ldm_train", "ldm_train.networks"])
def test_another_name_is_an_attribute_error(module: str) -> None:
    with pytest.raises(AttributeError, match=f"{module}.*nothing"):
        importlib.import_module(module).nothing  # noqa: B018


def test_the_reference_has_exactly_the_public_names() -> None:
    page = public_names.make_page()
    assert sorted(re.findall(r"^ +heading: (.*)$", page, re.MULTILINE)) == sorted(PUBLIC)
    assert sorted(re.findall(r"^::: (.*)$", page, re.MULTILINE)) == sorted(PUBLIC.values())
