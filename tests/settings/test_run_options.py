"""What a command line does not say of how pictures are drawn is the run's own, also where it changes one setting of it."""

from pathlib import Path

import pytest

from ldm_train.settings.composition import ConfigError, compose
from ldm_train.settings.schema.options import select

CONFIG = """
sampler: {_target_: ldm_train.samplers.ddim.DDIM, eta: 0.5}
spacing: {_target_: ldm_train.samplers.spacings.Karras, rho: 5.0, sigma_min: null, sigma_max: null}
guidance:
  {_target_: ldm_train.diffusion.guidance.classifier_free, _partial_: true, scale: 1.25, rescale: 0.1, interval: [0.3, 5]}
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run/config.yaml").write_text(CONFIG)
    return tmp_path / "a run"


def settings(verb: str, run_dir: object, *words: str) -> object:
    needed = ["out=o", "prompts=p"] if verb == "sample" else ["out=o.json"]
    return compose(verb, [f"run_dir={run_dir}", *needed, *words])


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_nothing_is_chosen_for_a_run(verb: str, run_dir: Path) -> None:
    chosen = settings(verb, run_dir)
    assert [select(chosen, name) for name in ("sampler", "spacing", "guidance", "steps")] == [None] * 4


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_one_setting_changes_that_one_of_the_run(verb: str, run_dir: Path) -> None:
    chosen = settings(verb, run_dir, "guidance.scale=4", "spacing.rho=6")
    assert select(chosen, "guidance.scale") == 4
    assert select(chosen, "guidance.rescale") == 0.1
    assert select(chosen, "guidance.interval") == [0.3, 5]
    assert select(chosen, "spacing.rho") == 6
    assert str(select(chosen, "spacing._target_")).endswith("Karras")
    assert select(chosen, "sampler") is None


def test_a_file_may_name_the_run_and_the_setting(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"run_dir: {run_dir}\nsampler: {{eta: 1.0}}\n")
    chosen = compose("sample", ["out=o", "prompts=p", f"config={tmp_path}/own.yaml", "guidance.scale=2"])
    assert select(chosen, "sampler.eta") == 1
    assert select(chosen, "guidance.rescale") == 0.1


def test_a_chosen_option_is_the_shipped_one(run_dir: Path) -> None:
    chosen = settings("sample", run_dir, "guidance=classifier_free", "guidance.scale=4")
    assert select(chosen, "guidance.rescale") == 0
    assert select(chosen, "guidance.interval") is None


@pytest.mark.parametrize("content", [None, "", "guidance: 5", "[", "guidance: {_target_: os.system, scale: 1}"])
def test_without_a_run_that_can_be_read_it_is_what_training_has(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    chosen = settings("sample", tmp_path, "guidance.scale=4", "sampler.eta=1")
    assert str(select(chosen, "guidance._target_")).endswith("classifier_free")
    assert select(chosen, "sampler.eta") == 1


def test_an_unknown_setting_of_the_runs_option_is_refused(run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"guidance\.scael"):
        settings("sample", run_dir, "guidance.scael=4")
