"""A model made worse on purpose is ranked so: the short version of scripts/rank_noised.py, on one that is exact at first.

Eight kinds of pictures, each a Gaussian about a mean of its own: the network is their ideal denoiser, by weights that are
the means and the deviations, to which the script's noise is added.
"""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from ldm_train import draws
from ldm_train.diffusion.denoiser import Denoiser
from ldm_train.diffusion.objective import Objective
from ldm_train.diffusion.prediction import Clean
from ldm_train.diffusion.schedules.named import scaled_linear
from ldm_train.diffusion.timesteps import Uniform
from ldm_train.diffusion.weighting import UniformWeight
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.metrics.pixel_distance import find_nearest
from ldm_train.metrics.sets import kernel_distance
from ldm_train.samplers.ddim import DDIM
from ldm_train.types import Conditioning

KINDS, SHAPE = 8, (3, 4, 4)
GRADES = (0.0, 1.0, 2.0, 3.0, 4.0)
RESAMPLING = Resampling(100, 0)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[1] / "scripts")
    sys.path.insert(0, folder)
    yield importlib.import_module("rank_noised")
    sys.path.remove(folder)


class Ideal(nn.Module):
    """E[x | x_t] of N(mean of the kind, deviation²)."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = scaled_linear()
        numbers = torch.arange(KINDS)
        self.means = nn.Parameter(0.2 * draws.normal(0, "means", numbers, SHAPE))
        self.deviation = nn.Parameter(0.3 + 0.2 * draws.uniform(0, "deviation", numbers[:1], SHAPE)[0])

    def forward(self, x_t: Tensor, reported: Tensor, conditioning: Conditioning) -> Tensor:
        assert conditioning.vector is not None
        alpha, sigma = (value.float().view(-1, 1, 1, 1) for value in self.schedule(reported + 1))
        mean = torch.einsum("bk,kchw->bchw", conditioning.vector, self.means)
        share = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        return mean + share * (x_t - alpha * mean)


def kinds(count: int) -> tuple[Tensor, Conditioning]:
    """Which kind each of so many pictures is of, (count,), and the conditioning that says so."""
    kind = torch.arange(count) % KINDS
    return kind, Conditioning(vector=nn.functional.one_hot(kind, KINDS).float())


def real(truth: Ideal, count: int) -> Tensor:
    noise = draws.normal(0, "real", torch.arange(count), SHAPE)
    return (truth.means[kinds(count)[0]] + truth.deviation * noise).detach()


@torch.no_grad()
def measured(weights: dict[str, Tensor], truth: Ideal, *, seed: int = 0) -> dict:
    """As `ldm-train evaluate` gives them: loss of held-out pictures, kernel distance of drawn ones, retrieval."""
    network, count = Ideal(), 160
    network.load_state_dict(weights)
    denoiser, (kind, conditioning) = Denoiser(network, network.schedule, Clean()), kinds(count)
    noise = draws.normal(7, "held out", torch.arange(count), SHAPE)
    t = Uniform().t_at_quantiles(torch.linspace(0, 0.999, count, dtype=torch.float64), network.schedule)
    drawn = DDIM()(denoiser, draws.normal(seed, "noise", torch.arange(count), SHAPE), conditioning, steps=20)
    pictures, features = real(truth, count), drawn.flatten(1)
    numbers = Numbers()
    numbers.add_mean(
        "validation_loss", Objective(denoiser, UniformWeight())(pictures, noise, t, conditioning).loss, RESAMPLING
    )

    def distance(chosen: Tensor) -> float:
        return kernel_distance(pictures.flatten(1), features[chosen])

    numbers.add("kid_pixels", distance(torch.arange(count)), RESAMPLING(distance, count))
    numbers.add_share("retrieval_at_1", find_nearest(drawn, truth.means) == kind, RESAMPLING)
    return {**numbers.values, "intervals": numbers.intervals}


@pytest.fixture(scope="module")
def truth() -> Ideal:
    return Ideal()


@pytest.fixture(scope="module")
def graded(script: ModuleType, truth: Ideal) -> list[tuple[float, dict]]:
    weights = truth.state_dict()
    return [(grade, measured(script.noised(weights, grade, seed=0), truth)) for grade in GRADES]


@pytest.fixture(autouse=True)
def nothing_failed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["measuring"], "failures", [])


def test_each_measure_ranks_all_grades(script: ModuleType, graded: list[tuple[float, dict]]) -> None:
    found = script.rank(graded)
    assert set(found) == {"validation_loss", "kid_pixels", "retrieval_at_1"}
    assert {name: measure["ranked"] for name, measure in found.items()} == dict.fromkeys(found, True)
    assert graded[0][1]["retrieval_at_1"] > 0.85, "the ideal model draws what is requested"


def test_a_wrong_order_is_seen(script: ModuleType, graded: list[tuple[float, dict]]) -> None:
    swapped = [graded[0], graded[2], graded[1], *graded[3:]]
    assert not any(measure["ranked"] for measure in script.rank(swapped).values())
    assert not any(measure["ranked"] for measure in script.rank([*graded[:2], graded[1]]).values()), "ties are no order"


def test_two_samplings_of_one_model_agree_and_another_model_does_not(
    script: ModuleType, truth: Ideal, graded: list[tuple[float, dict]]
) -> None:
    same = script.compare_seeds(graded[0][1], measured(truth.state_dict(), truth, seed=1))
    assert {name: measure["agree"] for name, measure in same.items()} == {"kid_pixels": True, "retrieval_at_1": True}
    other = script.compare_seeds(graded[0][1], graded[-1][1])
    assert not any(measure["agree"] for measure in other.values())


def test_noise_is_keyed_and_of_the_tensor_s_own_deviation(script: ModuleType) -> None:
    weights = {"a": 3 * torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), "b": torch.ones(5)}
    once, twice = (script.noised(weights, grade, seed=0) for grade in (0.1, 0.2))
    assert (once["a"] - weights["a"]).std().item() == pytest.approx(0.3, rel=0.05)
    torch.testing.assert_close(twice["a"] - weights["a"], 2 * (once["a"] - weights["a"]), atol=1e-5, rtol=0)
    assert torch.equal(once["b"], weights["b"]), "what has no deviation gets no noise"
    assert torch.equal(script.noised(weights, 0.0, seed=0)["a"], weights["a"])
    assert not torch.equal(script.noised(weights, 0.1, seed=1)["a"], once["a"])
