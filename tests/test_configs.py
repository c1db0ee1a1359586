"""Every shipped config composes, names a real constructor, and fits its signature."""

import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ldm_train.cli.main import VERBS
from ldm_train.settings.composition import as_yaml, build, compose, compose_as, defaults, folder, groups
from ldm_train.settings.constructors import COMMANDS, EXTRAS
from ldm_train.settings.explained_training import OF_TRAINING
from ldm_train.settings.schema.options import PART_LISTS, PASSED, READ_BY_RUN, Part, read_part
from ldm_train.settings.schema.training import TrainSettings
from ldm_train.settings.strict import SET_BY_THE_RUN

FILES = sorted(folder().rglob("*.yaml"))
NAMES = [path.relative_to(folder()).as_posix() for path in FILES]
WITH_TARGET = [name for name in NAMES if "_target_" in OmegaConf.load(folder() / name)]
EXPERIMENTS = groups().get("experiment", [])
MAX_EXPERIMENT_LINES = 25
IF_TAKEN = {"condition": PASSED["condition"], "guidance": {"unconditional"}}  # passed to the constructors that take it
SETTINGS = {"experiment", "memory"}  # groups whose options set what others read


LISTS = {"spacing.timesteps": "[1000,500]", "schedule.betas": "[0.1,0.2]", "text_encoder.encoders": "[small]"}


def dummies(verb: str, overrides: list[str]) -> list[str]:
    """A value for each mandatory key of a verb with these overrides; those named in LISTS take lists."""
    return [f"{key}={LISTS.get(key, 'x')}" for key in sorted(OmegaConf.missing_keys(defaults(verb, tuple(overrides))))]


def groups_of(verb: str) -> list[str]:
    """The groups in a verb's defaults list."""
    config = OmegaConf.load(folder() / f"{verb}.yaml")
    assert isinstance(config, DictConfig)
    entries = [str(key) for entry in config.defaults if isinstance(entry, DictConfig) for key in entry]
    return [key.removeprefix("optional ").removeprefix("override ") for key in entries]


CHOICES = [(verb, group, option) for verb in VERBS for group in groups_of(verb) for option in groups()[group]]


def test_every_verb_has_a_config_and_every_config_a_verb() -> None:
    assert {name.removesuffix(".yaml") for name in NAMES if "/" not in name} == set(VERBS)


def test_every_group_is_used() -> None:
    assert {group for _, group, _ in CHOICES} | {*PART_LISTS.values()} == set(groups())


@pytest.mark.parametrize("verb", VERBS)
def test_verb_composes(verb: str) -> None:
    settings = compose(verb, dummies(verb, []))
    assert "???" not in as_yaml(settings)
    assert settings.debug is False


@pytest.mark.parametrize(("verb", "group"), sorted({choice[:2] for choice in CHOICES}))
def test_options_compose_and_arrive(verb: str, group: str) -> None:
    for option in groups()[group]:
        choice = [f"{group}={option}", *["cache=x"] * (verb == "explain" and group in OF_TRAINING)]
        config = compose(verb, choice + dummies(verb, choice))
        if group not in SETTINGS:
            own = OmegaConf.load(folder() / group / f"{option}.yaml")
            assert isinstance(own, DictConfig)
            chosen = config.as_plain()[group]
            assert set(own) <= set(chosen), option
            assert chosen.get("_target_") == own.get("_target_"), option


@pytest.mark.parametrize("name", WITH_TARGET)
def test_target_is_allowed_and_its_arguments_fit(name: str) -> None:
    config = OmegaConf.load(folder() / name)
    assert isinstance(config, DictConfig)
    package = config._target_.partition(".")[0]
    if package in EXTRAS and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    group = name.partition("/")[0]
    keys = {str(key) for key in config if key not in ("_target_", "_partial_")} - READ_BY_RUN.get(group, set())
    passed = PASSED.get(group, set()) - ({*COMMANDS.values()} if config._target_ not in COMMANDS else set())
    signature = inspect.signature(get_object(config._target_))
    passed -= IF_TAKEN.get(group, set()) - signature.parameters.keys()
    arguments: dict[str, object] = dict.fromkeys(keys | passed)
    bind = signature.bind_partial if config.get("_partial_") else signature.bind
    bind(**arguments)  # raises TypeError where a key is unknown, or an argument has no value


@pytest.mark.parametrize("option", groups()["trainer"])
def test_trainer_settings_are_lightnings(option: str) -> None:
    config = OmegaConf.load(folder() / "trainer" / f"{option}.yaml")
    assert isinstance(config, DictConfig)
    known = set(inspect.signature(pl.Trainer).parameters)
    assert set(config) <= known | {"tf32", "timeout_minutes"}
    assert not set(config) & SET_BY_THE_RUN.keys()


def test_options_with_settings_have_no_target_missing() -> None:
    """A group's option is an object's settings, so it names the object; the Trainer alone is made in code."""
    made_in_code = {name for name in NAMES if "/" not in name or name.partition("/")[0] in {"trainer"} | SETTINGS}
    assert set(NAMES) - made_in_code == set(WITH_TARGET)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_is_short_and_says_its_command(experiment: str) -> None:
    lines = (folder() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_EXPERIMENT_LINES
    header = "\n".join(line for line in lines[:8] if line.startswith("#"))
    found = re.search(rf"ldm-train (.*experiment={experiment}.*)", header)
    assert found, f"the header should hold a command with experiment={experiment}"
    verb, *overrides = shlex.split(found[1])
    assert "???" not in as_yaml(compose(verb, overrides))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_overrules_the_defaults_and_the_command_line_overrules_both(experiment: str) -> None:
    own = OmegaConf.load(folder() / "experiment" / f"{experiment}.yaml")
    needed = [f"experiment={experiment}", *dummies("train", [f"experiment={experiment}"])]
    assert compose_as(TrainSettings, needed).max_steps == own.max_steps
    assert compose_as(TrainSettings, [*needed, "max_steps=7"]).max_steps == 7


def as_part(values: dict[str, object]) -> Part:
    part = read_part("sampler", values)
    assert isinstance(part, Part)
    return part


class Nowhere:
    """Configs that would make a file if they were carried out."""

    @staticmethod
    def touching(target: str, mark: Path) -> dict[str, object]:
        return {"_target_": target, "_args_": [f"touch {mark}"]}


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.getoutput", "builtins.eval", "ldm_trainer.anything", "torch.hub.load", "torch.load"]
)
@pytest.mark.parametrize("nested", ["plain", "in a value", "in a list", "partial"])
def test_a_target_outside_the_allowed_packages_is_refused(target: str, nested: str, tmp_path: Path) -> None:
    bad = Nowhere.touching(target, tmp_path / "mark")
    config = {
        "plain": bad,
        "in a value": {"_target_": "ldm_train.samplers.ddim.DDIM", "eta": bad},
        "in a list": {"_target_": "ldm_train.samplers.ddim.DDIM", "eta": [bad]},
        "partial": bad | {"_partial_": True},
    }[nested]
    with pytest.raises(ValueError, match=re.escape(target)):
        build(as_part(config), "sampler")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "target",
    ["ldm_train.data.cache.writer.os.system", "ldm_train.data.cache.writer.shutil.rmtree", "torch.optim.sgd.torch.load"],
)
def test_an_allowed_module_is_no_way_to_what_it_imports(target: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(target)):
        build(as_part(Nowhere.touching(target, tmp_path / "mark")), "optimizer")
    assert not (tmp_path / "mark").exists()


def test_a_refused_target_on_the_command_line_names_what_is_accepted(trained: Path, ldm_train, tmp_path: Path) -> None:
    words = ["sample", f"run_dir={trained}", "prompts=[x]", f"out={tmp_path}/out"]
    answer = ldm_train(*words, "sampler._target_=os.system")
    assert answer.code == 2
    assert "os.system" in answer.err
    assert "ldm_train.samplers.heun.Heun" in answer.err


def test_a_constructor_that_refuses_says_so_in_its_own_words() -> None:
    with pytest.raises(ValueError, match="eta=2"):
        build(Part("ldm_train.samplers.ddim.DDIM", {"eta": 2}), "sampler")


def test_an_argument_that_is_unknown_is_named() -> None:
    with pytest.raises(ValueError, match="etta"):
        build(Part("ldm_train.samplers.ddim.DDIM", {"etta": 1}), "sampler")
