"""Measures of sets of pictures, against torchmetrics' own and reference formulas in float64."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

from ldm_train.metrics.sets import (
    clip_score,
    frechet_distance,
    is_rank_deficient,
    kernel_distance,
    precision_recall,
    retrieval_at_1,
)


class Passing(nn.Module):
    """An extractor whose pictures are features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(count: int, size: int, *, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated, as those of pictures are."""
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(size, size, generator=torch.Generator().manual_seed(99)) / size**0.5
    return torch.randn(count, size, generator=draw) @ mixed + shift


def measure_with_torchmetrics(
    metric: FrechetInceptionDistance | KernelInceptionDistance, real: Tensor, drawn: Tensor
) -> float:
    for part in real.split(17):
        metric.update(part, real=True)
    for part in drawn.split(13):
        metric.update(part, real=False)
    value = metric.compute()
    return float(value[0] if isinstance(value, tuple) else value)


@pytest.mark.filterwarnings("ignore:.*will save all extracted features.*")
@pytest.mark.parametrize("shift", [0.0, 0.3])
@pytest.mark.parametrize("count", [20, 90])
def test_the_kernel_distance_is_torchmetrics(count: int, shift: float) -> None:
    """Whose subsets are here the whole sets, in another order."""
    real, drawn = features(count, 24, seed=1), features(count, 24, seed=2, shift=shift)
    metric = KernelInceptionDistance(feature=Passing(24), subsets=2, subset_size=count).set_dtype(torch.float64)
    with torch.random.fork_rng():
        assert kernel_distance(real, drawn) == pytest.approx(
            measure_with_torchmetrics(metric, real.double(), drawn.double()), rel=1e-4, abs=1e-9
        )


@pytest.mark.parametrize("sizes", [(7, 11), (30, 4), (1500, 40)])
def test_the_kernel_distance_of_unequal_sets(sizes: tuple[int, int]) -> None:
    """By its definition over all pairs of different pictures; 1,500 are more than are taken at once."""
    real, drawn = (features(count, 5, seed=count, shift=count / 100).double().numpy() for count in sizes)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 5 + 1) ** 3

    def off_diagonal(a: np.ndarray) -> float:
        table = kernel(a, a)
        return float(table[~np.eye(len(a), dtype=bool)].mean())

    expected = off_diagonal(real) + off_diagonal(drawn) - 2 * kernel(real, drawn).mean()
    assert kernel_distance(*map(torch.from_numpy, (real, drawn))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(60, 60), (50, 80), (200, 33)])
def test_the_frechet_distance_is_torchmetrics(sizes: tuple[int, int]) -> None:
    real, drawn = (features(count, 24, seed=side, shift=count / 500) for side, count in enumerate(sizes))
    assert not is_rank_deficient(real, drawn)
    metric = FrechetInceptionDistance(feature=Passing(24), normalize=True)
    assert frechet_distance(real, drawn) == pytest.approx(
        measure_with_torchmetrics(metric, real.double(), drawn.double()), rel=1e-4
    )


@pytest.mark.parametrize("sizes", [(10, 10), (8, 30), (30, 12), (24, 25)])
def test_the_frechet_distance_of_few_pictures_is_torchmetrics_and_is_flagged(sizes: tuple[int, int]) -> None:
    """Where the square root that torchmetrics takes of rounding errors is small compared with the distance."""
    real, drawn = (features(count, 24, seed=side, shift=count / 20 + side) for side, count in enumerate(sizes))
    assert is_rank_deficient(real, drawn)
    metric = FrechetInceptionDistance(feature=Passing(24), normalize=True)
    assert frechet_distance(real, drawn) == pytest.approx(
        measure_with_torchmetrics(metric, real.double(), drawn.double()), rel=1e-4
    )


def test_the_frechet_distance_of_two_gaussians_in_closed_form() -> None:
    """One feature: (m - m')² + (s - s')²."""
    real = torch.tensor([[0.0], [2.0]])
    drawn = torch.tensor([[5.0], [5.5], [6.0]])
    expected = (1 - 5.5) ** 2 + (2**0.5 - 0.5) ** 2
    assert frechet_distance(real, drawn) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_by_their_definition(neighbours: int) -> None:
    real, drawn = features(40, 3, seed=1), features(25, 3, seed=2, shift=0.8)

    def radius(points: list[Tensor], index: int) -> float:
        return sorted(float((points[index] - other).norm()) for i, other in enumerate(points) if i != index)[neighbours - 1]

    def share(points: list[Tensor], centres: list[Tensor]) -> float:
        radii = [radius(centres, i) for i in range(len(centres))]
        inside = [any((p - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    actual, others = list(real.double()), list(drawn.double())
    precision, recall = precision_recall(real, drawn, neighbours=neighbours)
    assert (precision, recall) == (pytest.approx(share(others, actual)), pytest.approx(share(actual, others)))
    assert 0 < precision < 1
    assert 0 < recall < 1


def test_precision_falls_with_pictures_unlike_any_and_recall_with_those_that_are_left_out() -> None:
    real = features(60, 2, seed=1)
    assert precision_recall(real, real.clone()) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    narrow = real[real[:, 0] > 0]
    precision, recall = precision_recall(real, narrow)
    assert precision == 1
    assert recall < 0.9


def test_the_clip_score_is_torchmetrics() -> None:
    from torchmetrics.multimodal import CLIPScore

    images, texts = features(6, 8, seed=1, shift=0.5), features(6, 8, seed=2, shift=0.5)

    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.config = SimpleNamespace()

        def get_image_features(self, pixel_values: Tensor) -> Tensor:
            return images

        def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return texts

    def processor(text: object = None, images: object = None, **more: object) -> dict[str, Tensor]:
        none = torch.zeros(6, 1, dtype=torch.long)
        return {"pixel_values": none, "input_ids": none, "attention_mask": none}

    metric = CLIPScore(lambda: (Towers(), processor))  # type: ignore[arg-type, return-value]
    metric.update([torch.zeros(3, 4, 4, dtype=torch.uint8)] * 6, ["words"] * 6)
    assert clip_score(images, texts).mean().item() == pytest.approx(float(metric.compute()), rel=1e-4)


def test_the_clip_score_of_known_angles() -> None:
    images = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    texts = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, -1.0]])
    assert_close(clip_score(images, texts), torch.tensor([100.0, 100 / math.sqrt(2), -100.0], dtype=torch.float64))


def test_retrieval_counts_pictures_whose_own_text_is_nearest() -> None:
    texts = torch.eye(4)
    images = torch.tensor([[5.0, 1, 0, 0], [0, 2, 1, 0], [0, 3, 1, 0], [0, 0, 0, 0.1]])
    assert retrieval_at_1(images, texts) == 0.75
    same = torch.ones(4, 3)
    assert retrieval_at_1(same, same) == 1, "of equal captions none is wrong"


@pytest.mark.parametrize(
    ("measure", "few"), [(kernel_distance, 1), (frechet_distance, 1), (precision_recall, 3)], ids=["kid", "fid", "precision"]
)
def test_too_few_pictures_or_other_features_are_refused(measure: Callable[[Tensor, Tensor], object], few: int) -> None:
    with pytest.raises(ValueError, match=f"{few} drawn pictures .* {few + 1}"):
        measure(torch.zeros(9, 4), torch.zeros(few, 4))
    with pytest.raises(ValueError, match="from one extractor"):
        measure(torch.zeros(9, 4), torch.zeros(9, 5))


def test_the_global_generator_is_left_alone() -> None:
    """Unlike torchmetrics', whose kernel distance draws subsets from it."""
    before = torch.get_rng_state()
    real, drawn = features(12, 4, seed=1), features(12, 4, seed=2)
    kernel_distance(real, drawn)
    frechet_distance(real, drawn)
    precision_recall(real, drawn)
    assert torch.equal(torch.get_rng_state(), before)
