"""Own code of another kind is refused in one message that names the class, the group and what is missing."""

from pathlib import Path

import pytest
import torch

from ldm_train.settings.constructors import build
from ldm_train.settings.own_code import KINDS
from ldm_train.settings.schema.options import Part
from ldm_train.settings.trust import Grants, granted

CODE = """
import torch
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
class Weighty(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
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
    with pytest.raises(ValueError, match=rf"{group}._target_={package}.Nothing .*Nothing.* no {group[:-1]}"):
        make(package, "Nothing", group)


@pytest.mark.parametrize(
    ("name", "reason"), [("Silent", "forward"), ("Narrow", "x_t, t, conditioning"), ("Failing", "no such argument")]
)
def test_a_network_that_cannot_be_called_is_named(name: str, reason: str, package: str) -> None:
    with pytest.raises(ValueError, match=rf"{package}.{name}.*{reason}"):
        make(package, name, "network")


def test_weights_without_values_are_named(package: str) -> None:
    with (
        granted(Grants((package,))),
        torch.device("meta"),
        pytest.raises(ValueError, match=f"{package}.Weighty.*gain.*meta"),
    ):
        build(Part(f"{package}.Weighty", {}), "network")


def test_a_network_needs_no_class_of_this_package(package: str) -> None:
    assert type(make(package, "Right", "network")).__name__ == "Right"


WRONG = """
import torch
from torch import nn
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.diffusion.prediction import Prediction
from ldm_train.diffusion.schedules.schedule import NoiseSchedule
from ldm_train.diffusion.timesteps import Timesteps
from ldm_train.diffusion.weighting import Weighting
from ldm_train.samplers.base import Sampler
from ldm_train.samplers.spacings import Spacing
from ldm_train.training.ema.ema import EMA
from ldm_train.training.ema.profiles import AveragingProfile
from ldm_train.training.optimization.lr_schedules import LRSchedule
class Schedule(NoiseSchedule):
    start, end = 0.1, 0.9
    def __call__(self, t):
        return 1 - t, t
    def t_at_ratio(self, ratio):
        return ratio
    def network_time(self, t):
        return t
class OneNumber(Schedule):
    def __call__(self, t):
        return (1 - t).mean(), t
class Unfinished(Sampler):
    pass
class Guess(Prediction):
    def coefficients(self, alpha, sigma):
        return alpha, sigma
class Mean(Weighting):
    def weights(self, snr, clean_error):
        return snr[:1]
    def loss(self, error, snr, clean_error):
        return error.mean()
class Late(Timesteps):
    def t_at_quantiles(self, quantiles, schedule):
        return quantiles + 2000
class Text(LRSchedule):
    def shape(self, step, max_steps):
        return "fast"
class Half(Sampler):
    def step(self, step):
        return step.x_t[:1]
class Flat(nn.Module):
    name, size = "flat", 7
    def forward(self, images):
        return images.flatten(1)
class Fewer(CentreCrop):
    def __call__(self, size, digest):
        return []
class Score:
    def __call__(self, comparison):
        return {"score": torch.zeros(())}
class Averages:
    pass
class Falling(Schedule):
    def __call__(self, t):
        return t, 1 - t
class Negative(Weighting):
    def weights(self, snr, clean_error):
        return -snr
class Endless(Negative):
    def weights(self, snr, clean_error):
        return snr * float("inf")
class Mixed(Negative):
    def weights(self, snr, clean_error):
        return snr.mean()
class Detached(Negative):
    def loss(self, error, snr, clean_error):
        return error.detach()
class Bare(Timesteps):
    def __init__(self):
        pass
    def t_at_quantiles(self, quantiles, schedule):
        return schedule.quantile(quantiles)
class Ending(LRSchedule):
    def shape(self, step, max_steps):
        return 1.0 if step < 1 else float("nan")
class Stuck(Sampler):
    def step(self, step):
        raise ValueError("no way on")
class Lost(Sampler):
    def step(self, step):
        return step.x_t * float("nan")
class Few(Spacing):
    def points(self, schedule, steps):
        return [schedule.end]
class Texts(Spacing):
    def points(self, schedule, steps):
        return ["a"] * steps
class Twice(AveragingProfile):
    name = "twice"
    def kept_share(self, number):
        return 2.0
def twice():
    return EMA([Twice()])
class Unnamed:
    def __call__(self, comparison):
        return {5: torch.zeros(len(comparison.captions))}
class OnlyFour:
    def __call__(self, comparison):
        return {"four": torch.zeros(4)}
class Away(CentreCrop):
    def place(self, spare, digest, number):
        return spare + 1
def plain(denoiser, null, weak, scale=1.0):
    class Wrapped:
        schedule = denoiser.schedule
        def __call__(self, x_t, t, conditioning):
            return x_t
    return Wrapped()
"""


@pytest.mark.parametrize(
    ("group", "name", "arguments", "says"),
    [
        ("schedule", "Schedule", {}, "t_at_ratio"),
        ("schedule", "OneNumber", {}, r"alpha .*\(5,\).*\(\)"),
        ("sampler", "Unfinished", {}, "step"),
        ("sampler", "Half", {}, r"\(2, 1, 4, 4\)"),
        ("prediction", "Guess", {}, "to_clean"),
        ("weighting", "Mean", {}, r"loss .*\(3,\).*\(\)"),
        ("timesteps", "Late", {}, "t_at_quantiles.*2000"),
        ("lr_schedule", "Text", {}, "fast"),
        ("features", "Flat", {}, r"\(2, 7\).*\(2, 3072\)"),
        ("crop", "Fewer", {"image_size": 16}, "views=1"),
        ("metrics", "Score", {}, r"'score' .*\(4,\).*\(\)"),
        ("guidance", "plain", {}, "Estimate.*Tensor"),
        ("schedule", "Falling", {}, "sigma / alpha must rise"),
        ("weighting", "Negative", {}, "at least 0"),
        ("weighting", "Endless", {}, "finite"),
        ("weighting", "Mixed", {}, "other examples"),
        ("weighting", "Detached", {}, "gradient"),
        ("timesteps", "Bare", {}, r"stratified.*super\(\).__init__"),
        ("lr_schedule", "Ending", {}, "nan at step 1"),
        ("sampler", "Stuck", {}, "no way on"),
        ("sampler", "Lost", {}, "finite"),
        ("spacing", "Few", {}, "4, not 1"),
        ("spacing", "Texts", {}, "numbers.*'a'"),
        ("ema", "twice", {}, "kept_share .*2.0 at update 1"),
        ("metrics", "Unnamed", {}, "name must be a text, not 5"),
        ("metrics", "OnlyFour", {}, r"\(2,\).*\(4,\)"),
        ("crop", "Away", {"image_size": 16}, "Away.place .*spare="),
    ],
)
def test_what_returns_another_shape_is_named(
    group: str, name: str, arguments: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_shapes.py").write_text(WRONG)
    monkeypatch.syspath_prepend(str(tmp_path))
    call = {"_partial_": True} if group == "guidance" else {}
    with granted(Grants(("own_shapes",))), pytest.raises(ValueError, match=f"own_shapes.{name}.*{says}"):
        build(Part(f"own_shapes.{name}", {}, call), group, **arguments)
