"""Objects that a Python program passes: by name where they can be imported, else by a name that stands for them."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ldm_train.diffusion.schedules.named import cosine
from ldm_train.samplers.heun import Heun
from ldm_train.settings.composition import compose
from ldm_train.settings.constructors import build, check_constructors
from ldm_train.settings.python_values import PythonValues
from ldm_train.settings.schema.options import Part
from ldm_train.settings.shipped import ConfigError
from ldm_train.settings.trust import Grants, granted, read_grants


class Net(nn.Module):
    def __init__(self, in_channels: int, context_width: int, vector_width: int, width: int = 3) -> None:
        super().__init__()
        self.width = width

    def forward(self, x_t: object, t: object, conditioning: object) -> object:
        return x_t


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        *((np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), (torch.tensor(3), 3), (torch.tensor(0.5), 0.5)),
        ([np.int64(3), 4], [3, 4]),
    ],
)
def test_a_number_of_numpy_or_torch_is_a_number(value: object, plain: object) -> None:
    read = PythonValues("train", {"max_steps": value}).values["max_steps"]
    assert (read, type(read)) == (plain, type(plain))


@pytest.mark.parametrize("value", [np.zeros(3), torch.zeros(1), {1, 2}, b"text"])
def test_what_no_setting_holds_is_named(value: object) -> None:
    with pytest.raises(ConfigError, match=f"max_steps .*{type(value).__name__}"):
        PythonValues("train", {"max_steps": value})


def make_local() -> type[Net]:
    class Local(Net):
        pass

    return Local


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of a module that can be imported."""
    (tmp_path / "passed_net.py").write_text("class Net:\n    pass\nclass Owner:\n    class Inner:\n        pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import passed_net  # type: ignore[import-not-found]

    return passed_net


LOCAL = make_local()
VALUES = {"in_channels": 1, "context_width": 1, "vector_width": 1}


@pytest.mark.parametrize(
    ("group", "value", "node"),
    [
        ("schedule", cosine, {"_target_": "ldm_train.diffusion.schedules.named.cosine"}),
        ("schedule", partial(cosine, shift=2.0), {"_target_": "ldm_train.diffusion.schedules.named.cosine", "shift": 2.0}),
        ("sampler", Heun, {"_target_": "ldm_train.samplers.heun.Heun"}),
        ("optimizer", partial(torch.optim.NAdam, lr=1), {"_target_": "torch.optim.NAdam", "_partial_": True, "lr": 1}),
    ],
)
def test_what_a_group_lists_is_recorded_by_its_name_and_needs_no_grant(group: str, value: object, node: object) -> None:
    read = PythonValues("train", {group: value})
    assert read.values == {group: node}
    assert read.objects == {}


def test_a_class_of_a_module_is_recorded_by_its_name(package: type) -> None:
    read = PythonValues("train", {"network": partial(package.Net, width=5)})
    assert read.values == {"network": {"_target_": "passed_net.Net", "width": 5}}
    assert read.objects["passed_net.Net"].make is package.Net


@pytest.mark.parametrize(
    ("value", "width"),
    [
        (LOCAL, 3),
        (partial(LOCAL, width=5), 5),
        (LOCAL(1, 1, 1, width=7), 7),
        (partial(LOCAL, 1, 1), 9),
        (lambda **values: LOCAL(**values, width=8), 8),
        (torch.nn.Identity, None),
    ],
    ids=["class", "partial", "instance", "positional", "function", "library"],
)
def test_another_object_has_a_name_that_stands_for_it(value: object, width: int | None) -> None:
    read = PythonValues("train", {"network": value})
    node = read.values["network"]
    assert isinstance(node, dict)
    target = node.pop("_target_")
    assert target.startswith("from_python.")
    arguments = {"vector_width": 1, "width": 9} if width == 9 else {} if width is None else VALUES
    with granted(Grants(objects=read.objects)):
        made = read.objects[target].make(**node, **arguments)
        assert build(Part(target, node), "network", **arguments) is not None if width else made is not None
    assert getattr(made, "width", None) == width


def test_an_instance_is_copied_and_its_name_has_no_signs_that_a_config_cannot_hold() -> None:
    network = make_local()(1, 1, 1)
    read = PythonValues("train", {"network": network})
    [(target, passed)] = read.objects.items()
    assert target.endswith("make_local.locals.Local")
    assert passed.make(**VALUES) is not network


def test_objects_of_lists_are_described_and_plain_values_kept() -> None:
    settings = {"metrics": [LOCAL], "callbacks": ["mypackage.Class"], "run_dir": Path("a") / "b", "pictures": {"every": 2}}
    read = PythonValues("train", settings)
    assert [item["_target_"] for item in read.values["metrics"]] == [*read.objects]  # type: ignore[index,union-attr]
    assert read.values["callbacks"] == ["mypackage.Class"]
    assert read.values["run_dir"] == "a/b"
    assert read.values["pictures"] == {"every": 2}


def test_two_objects_of_one_class_have_two_names() -> None:
    first, second = LOCAL(**VALUES), LOCAL(**VALUES)
    found = PythonValues("train", {"callbacks": [first, second, first]})
    names = [item["_target_"] for item in found.values["callbacks"]]  # type: ignore[index,union-attr]
    assert names[0] == names[2] != names[1]
    assert found.objects[names[0]].make.value is first  # type: ignore[attr-defined]
    assert found.objects[names[1]].make.value is second  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_steps": nn.Identity()}, "max_steps.*Identity"),
        ({"pictures": {"every": nn.Identity()}}, "pictures.every.*Identity"),
        ({"optimizer": nn.Identity()}, r"optimizer.*Identity.*functools\.partial"),
        ({"trainer": nn.Identity()}, "trainer.*Identity"),
        ({"trust": "mypackage"}, "trust"),
        ({"config_path": "folder"}, "config_path"),
        ({"hydra": {"launcher": "joblib"}}, "--multirun"),
    ],
)
def test_what_no_setting_takes_is_named(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PythonValues("train", settings)


def test_a_name_that_stands_for_an_object_builds_nothing_unless_it_is_passed() -> None:
    node = {"_target_": "from_python.__main__.Net"}
    check_constructors(node, "network", name="network")
    with pytest.raises(ValueError, match=r"network.*from_python\.__main__\.Net.*load_run\(run_dir, network="):
        build(Part("from_python.__main__.Net", {}), "network")
    with pytest.raises(ConfigError, match="from_python"):
        read_grants(["trust=from_python"])


def test_values_are_the_words_of_the_command_line() -> None:
    values = {
        "cache": "a cache",
        "run_dir": "r",
        "schedule": "cosine",
        "schedule.shift": 2.0,
        "optimizer": {"lr": 1e-3},
        "pictures": {"every": 7, "prompts": ["1e3", "no"]},
        "logger": None,
        "features": None,
    }
    words = [
        *("cache=a cache", "run_dir=r", "schedule=cosine", "schedule.shift=2.0", "optimizer.lr=0.001", "pictures.every=7"),
        *("pictures.prompts=['1e3','no']", "logger=null", "features=null"),
    ]
    assert compose("train", [], values) == compose("train", words)


def test_values_override_a_file_and_say_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("schedule: cosine\nmax_steps: 5\nbatch_size: 3\n")
    values = {"cache": "c", "run_dir": "r", "schedule": "linear", "max_steps": 7}
    settings = compose("train", [f"config={file}"], values).as_plain()
    assert settings["schedule"]["_target_"].endswith("linear")
    assert (settings["max_steps"], settings["batch_size"]) == (7, 3)
    for wrong, named in (({"max_steps": "many"}, False), ({}, True)):
        file.write_text("schedule: cosine\nmax_steps: few\nbatch_size: 3\n")
        with pytest.raises(ConfigError, match="max_steps=") as error:
            compose("train", [f"config={file}"], {"cache": "c", "run_dir": "r", **wrong})
        assert ("mine.yaml" in str(error.value)) == named
