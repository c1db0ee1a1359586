"""Own options and experiments are chosen by name from the folder of `config_path=DIR`, as shipped ones are."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.help_text import describe_command
from ldm_train.settings.schema.options import select
from ldm_train.settings.shipped import groups, searching
from ldm_train.settings.trust import Grants, granted

RUN = ["cache=c", "run_dir=r"]
FILES = {
    "network/slim.yaml": "# Few channels.\n_target_: ldm_train.networks.unet.UNet\nchannels: [8, 16] # of both levels\n",
    "network/owned.yaml": "_target_: ownednet.Net\nwidth: 8\n",
    "optimizer/owned.yaml": "_target_: ownednet.Descent\nlr: 0.5\n",
    "experiment/quick.yaml": "defaults:\n  - override /schedule: cosine\n  - override /network: slim\nmax_steps: 7\n",
    "memory/least.yaml": "micro_batch_size: 2\n",
    "trainer/slow.yaml": "log_every_n_steps: 3\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    with searching([f"config_path={tmp_path}/own"]):
        yield tmp_path / "own"
    assert "slim" not in groups()["network"]


@pytest.mark.usefixtures("folder")
def test_an_option_is_chosen_by_name_and_changed_by_words() -> None:
    settings = compose("train", [*RUN, "network=slim", "network.channels=[4]", "memory=least", "trainer=slow"])
    assert select(settings, "network.channels") == [4]
    assert select(settings, "network.weights") is None
    assert "blocks" not in settings.network.arguments
    assert (settings.micro_batch_size, settings.trainer.log_every_n_steps) == (2, 3)


@pytest.mark.usefixtures("folder")
def test_an_experiment_may_choose_own_and_shipped_options() -> None:
    settings = compose("train", [*RUN, "experiment=quick", "max_steps=9"])
    assert settings.max_steps == 9
    assert select(settings, "network.channels") == [8, 16]
    assert str(select(settings, "schedule._target_")).endswith("cosine")
    other = compose("train", [*RUN, "experiment=quick", "network=unet_small"])
    assert select(other, "network.channels") == [96, 160]


@pytest.mark.usefixtures("folder")
def test_own_code_in_an_option_needs_trust() -> None:
    words = [*RUN, "network=owned", "optimizer=owned"]
    with pytest.raises(ConfigError, match="trust=ownednet"):
        compose("train", words)
    with granted(Grants(("ownednet",))):
        settings = compose("train", [*words, "network.depth=2"])
    assert settings.network.arguments == {"width": 8, "depth": 2}
    assert (settings.optimizer.arguments, settings.optimizer.call) == ({"lr": 0.5}, {"_partial_": True})


@pytest.mark.usefixtures("folder")
def test_help_and_messages_know_them() -> None:
    assert "slim" in describe_command("train", [])
    assert "of both levels" in describe_command("train", ["network=slim"])
    with pytest.raises(ConfigError, match="did you mean 'slim'"):
        compose("train", [*RUN, "network=slimm"])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("network/unet_small.yaml", "", "unet_small"),
        ("netwrok/mine.yaml", "", "network"),
        ("network/mine.yaml", "_target_: os.system\n", "os.system"),
        ("network/mine.yaml", "_target_: ldm_train.networks.unet.UNet\nchannels: ${oc.env:HOME}\n", "interpolation"),
        ("network/mine.yaml", "!!python/object:os.system {}\n", "tag"),
        ("experiment/mine.yaml", "trust: mine\n", "trust"),
        ("experiment/mine.yaml", "config_path: /tmp\n", "config_path"),
        ("experiment/mine.yaml", "defaults:\n  - override /hydra/launcher: x\n", "hydra/launcher"),
    ],
)
def test_what_may_not_be_there_is_named(name: str, text: str, says: str, tmp_path: Path, ldm_train: Callable) -> None:
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    group, option = name.removesuffix(".yaml").split("/")
    answer = ldm_train("train", *RUN, f"config_path={tmp_path}", f"{group}={option}")
    assert answer.code == 2
    assert says in answer.err


def test_a_missing_folder_is_named(tmp_path: Path, ldm_train: Callable) -> None:
    assert f"{tmp_path}/nowhere" in ldm_train("train", *RUN, f"config_path={tmp_path}/nowhere").err


def test_a_sweep_passes_it_on(folder: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = ["cache=c", f"run_dir={tmp_path}/sweep", f"config_path={folder}", "network=slim,unet_small"]
    answer = ldm_train("train", "--multirun", "--dry-run", *words)
    assert answer.code == 0, answer.err
    assert [f"config_path={folder}" in line for line in answer.out.splitlines()] == [True, True]
