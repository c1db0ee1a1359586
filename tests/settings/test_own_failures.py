"""Code that cannot be imported, or whose constructor fails: one message names the setting, the class and the reason."""

from pathlib import Path

import pytest

from ldm_train.settings.constructors import build, check_constructors
from ldm_train.settings.schema.options import Part
from ldm_train.settings.trust import Grants, UntrustedCodeError, granted, raised_in_own_code

MODULES = {
    "own_broken": "def f(:\n",
    "own_needs": "import absent_library\n",
    "own_ends": "import sys\nsys.exit(3)\n",
    "own_raises": "raise RuntimeError('no licence')\n",
    "own_whole": """
import functools, sys
from pathlib import Path
from torch.nn import Conv2d
from ldm_train.networks.unet import UNet
class Network:
    def __init__(self, kind="value", width=3, **arguments):
        if kind == "exit":
            sys.exit(4)
        if kind == "file":
            open("absent-file")
        if kind == "type":
            raise KeyError("dose")
        raise ValueError("the width is odd")
instance, part = object(), functools.partial(Network)
""",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("own_broken.Network", "SyntaxError.*own_broken.py, line 1"),
        ("own_needs.Network", "absent_library"),
        ("own_ends.Network", "exit code 3"),
        ("own_raises.Network", "RuntimeError: no licence"),
        ("own_absent.Network", "is not there.*own_absent.*PYTHONPATH"),
        ("own_whole.Netwrk", "is not there.*did you mean 'Network'"),
        ("own_whole.instance", "is a object.*class or a function"),
        ("own_whole.part", "is a partial"),
        ("own_whole.sys", "is a module"),
        ("own_whole.UNet", r"defined in ldm_train.networks.unet.*name ldm_train\.networks\.unet\.UNet"),
        ("own_whole.Conv2d", "defined in torch.nn.modules.conv"),
    ],
)
def test_what_cannot_be_imported_is_named(target: str, says: str) -> None:
    with (
        granted(Grants((target.partition(".")[0],))),
        pytest.raises(ValueError, match=rf"network\._target_={target}.*{says}"),
    ):
        build(Part(target, {}), "network")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("value", "the width is odd"),
        ("exit", "exit code 4"),
        ("file", "FileNotFoundError.*absent-file"),
        ("type", "KeyError"),
    ],
)
def test_a_constructor_that_fails_is_named_with_what_it_got(kind: str, says: str) -> None:
    part = Part("own_whole.Network", {"kind": kind, "width": 3})
    with (
        granted(Grants(("own_whole",))),
        pytest.raises(ValueError, match=rf"network\._target_=own_whole.Network: .*{says}") as e,
    ):
        build(part, "network")
    assert "network.width=3" in str(e.value)


def test_an_argument_that_is_an_object_is_named_by_its_place() -> None:
    part = Part("own_whole.Network", {"inner": {"_target_": "own_whole.Network", "kind": "type"}})
    with granted(Grants(("own_whole",))), pytest.raises(ValueError, match=r"^network\.inner\._target_=own_whole.Network"):
        build(part, "network")


def test_a_librarys_words_get_the_setting_of_a_shipped_class() -> None:
    target = "ldm_train.networks.diffusers_unet.DiffusersUNet"
    given = {"block_out_channels": [30, 60], "norm_num_groups": 7}
    with pytest.raises(ValueError, match=rf"^network\._target_={target}: .*network\.norm_num_groups=7"):
        build(Part(target, given), "network", in_channels=4, context_width=8, vector_width=None)


@pytest.mark.parametrize("target", ["Net", "own_whole", "own_whole.Network()", "own_whole:Network", ".Network", "", None])
def test_a_name_in_another_form_gets_the_form_and_no_advice_on_trust(target: object) -> None:
    with granted(Grants(("own_whole",))), pytest.raises(ValueError, match=r"PACKAGE\.CLASS") as error:
        check_constructors({"_target_": target}, "network", name="network")
    assert not isinstance(error.value, UntrustedCodeError)


def test_the_traceback_of_own_code_is_told_from_messages_of_this_package(tmp_path: Path) -> None:
    (tmp_path / "own_late.py").write_text(
        "from pathlib import Path\nfrom ldm_train.util.safe_json import read_json\n"
        "def fail():\n    raise ValueError('mine')\ndef library():\n    Path('absent').read_text()\n"
        "def ours():\n    read_json(Path('absent'))\n"
    )
    import own_late  # type: ignore[import-not-found]

    for name, own in (("fail", True), ("library", True), ("ours", False)):
        with granted(Grants(("own_late",))), pytest.raises((ValueError, OSError)) as error:
            getattr(own_late, name)()
        with granted(Grants(("own_late",))):
            assert raised_in_own_code(error.value) == own
        assert not raised_in_own_code(error.value), "it is not trusted any more"
