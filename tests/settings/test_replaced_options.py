"""Own code replaces a shipped option with the settings that are given for it, and nothing but the command line allows it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm_train.settings import signatures
from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.schema.options import select
from ldm_train.settings.trust import Grants, granted, read_grants
from ldm_train.settings.validation import out_of_range

RUN = ["cache=c", "run_dir=r"]
CODE = """
from ldm_train.networks.unet import UNet
class Net:
    def __init__(self, in_channels: int, context_width: int, vector_width: int, width: int = 8, kind: str = "a"):
        pass
class Other(Net):
    def __init__(self, width: int = 8, kind: str = "a", scale: float = 1.0):
        pass
"""


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a module."""
    (tmp_path / "replacing.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    for function in (signatures.signature, signatures._parsed):
        function.cache_clear()
    yield tmp_path
    for function in (signatures.signature, signatures._parsed):
        function.cache_clear()


@pytest.fixture
def folder(code: Path) -> Iterator[Path]:
    """The same, trusted."""
    with granted(read_grants(["trust=."])):
        yield code


@pytest.mark.usefixtures("folder")
def test_only_what_is_given_is_passed() -> None:
    network = compose("train", [*RUN, "network._target_=replacing.Net", "network.width=16", "network.kind=1e3"]).network
    assert network.arguments == {"width": 16, "kind": "1e3"}
    assert network.kept == {"weights": None, "averaged": True, "add_input_channels": False}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("group", ["optimizer", "guidance"])
def test_what_gets_more_from_the_run_is_only_bound(group: str) -> None:
    part = getattr(compose("train", [*RUN, f"{group}._target_=replacing.Other"]), group)
    assert part.call == {"_partial_": True}
    assert part.arguments == ({"scale": 2.0} if group == "guidance" else {})


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("group", ["source", "autoencoder", "text_encoder", "logger", "features"])
def test_no_option_need_be_chosen(group: str) -> None:
    part = getattr(compose("train", [*RUN, f"{group}._target_=replacing.Other", f"{group}.kind=b"]), group)
    assert part.arguments == {"kind": "b"}


def test_a_file_and_an_unsaid_option_do_the_same(folder: Path) -> None:
    text = "network: {_target_: replacing.Net, width: 16}\noptimizer: {_target_: replacing.Net}\nmetrics: [replacing.Net]"
    (folder / "mine.yaml").write_text(text)
    settings = compose("train", [*RUN, "config=mine.yaml", "network.kind=c"])
    assert settings.network.arguments == {"width": 16, "kind": "c"}
    assert settings.metrics.own == [{"_target_": "replacing.Net"}]
    assert (settings.optimizer.arguments, settings.optimizer.call) == ({}, {"_partial_": True})


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["network._target_=replacing.Net", "network.widht=3"], "network.width"),
        (["network._target_=replacing.Net", "network.width=wide"], "a whole number"),
        (["network._target_=replacing.Net", "network.width={_target_: subprocess.Popen}"], "subprocess.Popen"),
        (["network._target_=replacing.Net", "network.in_channels=3"], "set by the run"),
        (["network._target_=elsewhere.Net", "optimizer._target_=other.Best"], "trust=[elsewhere,other]"),
        (["callbacks=[elsewhere.Print]"], "trust=elsewhere"),
        (["metrics.own=[{_target_:elsewhere.Blur,size:3}]"], "trust=elsewhere"),
        (["callbacks=[os.system]"], "nothing was run"),
        (["callbacks=[{_target_:replacing.Net,width:{_target_:os.system}}]"], "os.system"),
        (["trainer.callbacks=[a]"], "callbacks=["),
    ],
)
def test_what_is_wrong_is_named(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose("train", [*RUN, *words])
    assert says in str(error.value)


@pytest.mark.usefixtures("folder")
def test_a_list_of_own_classes_takes_names_and_settings() -> None:
    words = ["callbacks=[replacing.Net,{_target_:replacing.Other,width:3}]", "metrics.own=replacing.Net"]
    settings = compose("train", [*RUN, *words])
    assert select(settings, "callbacks") == [{"_target_": "replacing.Net"}, {"_target_": "replacing.Other", "width": 3}]
    assert select(settings, "metrics.own") == [{"_target_": "replacing.Net"}]
    short = compose("train", [*RUN, "metrics=[replacing.Net]", "metrics.every=3"])
    assert short.metrics == settings.metrics.model_copy(update={"every": 3})


def test_a_trusted_runs_own_sampler_stays_if_a_setting_of_it_changes(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run/config.yaml").write_text("sampler: {_target_: replacing.Net, width: 3, kind: b}")
    words = ["run_dir=run", "out=o", "prompts=p", "sampler.width=4"]
    assert select(compose("sample", words), "sampler") == {"_target_": "replacing.Net", "width": 4, "kind": "b"}
    with granted(Grants()), pytest.raises(ConfigError, match=r"sampler\.width"):
        compose("sample", words)


def test_the_current_folder_is_looked_in_last(code: Path) -> None:
    (code / "pack/inner").mkdir(parents=True)
    (code / "pack/__init__.py").write_text("")
    for name in ("torch", "rich", "a-b"):
        (code / f"{name}.py").write_text("raise SystemExit")
    grants = read_grants(["trust=."])
    assert grants == Grants(("pack", "replacing"), folder=str(code))
    with granted(grants):
        assert sys.path[-1] == str(code)
    assert read_grants(["trust=replacing"]).folder == str(code)
    assert str(code) not in sys.path
    assert read_grants(["trust=rich"]).folder is None


def test_an_empty_folder_has_nothing_to_grant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="trust="):
        read_grants(["trust=."])


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ("{}", ["condition"]),
        ("{size:{},number:{column:age}}", ["size", "number", "condition"]),
        ("{number:age}", ["number", "age", "condition"]),
        ("number", ["condition=number", "column"]),
        ("{map:{channels:3}}", ["condition=map", "name"]),
        ("{number:{column:age,low:abc}}", ["conditions[1].low=abc", "a number or null"]),
        ("{map:{name:depth,nearest:maybe}}", ["conditions[1].nearest=maybe", "true or false"]),
    ],
)
def test_an_entry_of_a_list_of_options_is_one_option_with_settings_of_its_types(entry: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        compose("train", [*RUN, f"conditions=[size,{entry}]"])
    assert all(name in str(error.value) for name in names)


def test_the_settings_of_each_option_in_a_list_have_their_ranges() -> None:
    settings = compose("train", [*RUN, "conditions=[{number:{column:age,dropout:1}},{map:{name:depth,channels:0}}]"])
    assert [problem.partition(" ")[0] for problem in out_of_range(settings)] == [
        "conditions[0].dropout=1",
        "conditions[1].channels=0",
    ]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("conditions.number.column=age", ["conditions", "number.column", "[size,"]),
        ("network.channels.foo=3", ["network.channels", "foo", "a list"]),
        ("condition=size", ["'condition'", "'conditions'"]),
    ],
)
def test_a_list_is_given_as_a_whole(word: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        compose("train", [*RUN, word])
    assert all(name in str(error.value) for name in names)
