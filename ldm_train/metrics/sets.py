"""Measures of sets of pictures by their features: (N, D) of the real ones, (M, D) of the drawn ones, from any extractor.

All are computed in float64, whatever the features' type, and hold only a few rows' products at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

ROWS = 1024  # of a table of all pairs that are in memory at once
NEIGHBOURS = 3
LEAST = NEIGHBOURS + 1  # pictures on a side, from which on all measures are defined


def measures(real: Tensor, drawn: Tensor) -> dict[str, float]:
    """All that compare two sets by their features: `kid`, `fid`, `precision` and `recall`.

    Raises:
        ValueError: fewer than `LEAST` pictures on a side, or features of different extractors.
    """
    precision, recall = precision_recall(real, drawn)
    return {
        "kid": kernel_distance(real, drawn),
        "fid": frechet_distance(real, drawn),
        "precision": precision,
        "recall": recall,
    }


def kernel_distance(real: Tensor, drawn: Tensor) -> float:
    """The squared maximum mean discrepancy under the kernel (x·y / D + 1)^3, unbiased, over all pairs.

    The kernel distance of Bińkowski et al. 2018 (arXiv 1801.01401, section 3.2), without its random subsets; the two sets
    may differ in size. It is 0 on average for sets of one distribution, however few, so it may be below 0.

    Raises:
        ValueError: fewer than two pictures on a side, or features of different extractors.
    """
    real, drawn = _comparable(real, drawn)
    between = _kernel_sum(real, drawn) / (len(real) * len(drawn))
    return _kernel_mean_of_pairs(real) + _kernel_mean_of_pairs(drawn) - 2 * between


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """|m - m'|² + tr(S + S' - 2 (S S')^½) of the two sets' means and covariances (Heusel et al. 2017, arXiv 1706.08500).

    tr (S S')^½ is the sum of the singular values of X X'ᵀ / ((N - 1)(M - 1))^½ for the centred features X and X', so what is
    decomposed has as many rows as the smaller of N and D: exact, and fast where there are few pictures.

    Raises:
        ValueError: fewer than two pictures on a side, or features of different extractors.
    """
    real, drawn = _comparable(real, drawn)
    shift = (real.mean(0) - drawn.mean(0)).square().sum()
    factors = [(features - features.mean(0)) / (len(features) - 1) ** 0.5 for features in (real, drawn)]
    spread = sum(factor.square().sum() for factor in factors)
    ours, theirs = (torch.linalg.qr(f, mode="r").R if len(f) > f.shape[1] else f for f in factors)
    return float(shift + spread - 2 * torch.linalg.svdvals(ours @ theirs.T).sum())


def rank_deficient(real: Tensor, drawn: Tensor) -> bool:
    """Whether a side has no more pictures than features: its covariance is then singular, and the Fréchet distance, which
    grows as the number of pictures falls, is to be compared only at that very number."""
    return min(len(real), len(drawn)) <= real.shape[1]


def precision_recall(real: Tensor, drawn: Tensor, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Shares of the drawn pictures among the real ones, and of the real among the drawn (Kynkäänniemi et al. 2019,
    arXiv 1904.06991, equations 1 and 2).

    A set's manifold is the union of balls around its features, each as large as its `neighbours`-th nearest neighbour of the
    same set is far.

    Raises:
        ValueError: no more than `neighbours` pictures on a side, or features of different extractors.
    """
    real, drawn = _comparable(real, drawn, least=neighbours + 1)
    return _share_within(drawn, real, neighbours), _share_within(real, drawn, neighbours)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """100 cos of each image's embedding (N, D) and its text's (Hessel et al. 2021, arXiv 2104.08718), (N,).

    The score of a set is their mean; torchmetrics takes the positive part of it.
    """
    return 100 * torch.nn.functional.cosine_similarity(images.double(), texts.double())


def retrieval_at_1(images: Tensor, texts: Tensor) -> float:
    """How often no other text (N, D) is nearer to an image's embedding (N, D) than its own, by the cosine."""
    images, texts = (torch.nn.functional.normalize(embeddings.double()) for embeddings in (images, texts))
    own = (images * texts).sum(1)
    nearest = torch.cat([(part @ texts.T).amax(1) for part in images.split(ROWS)])
    return (own >= nearest - 1e-12).double().mean().item()


def _comparable(real: Tensor, drawn: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise ValueError(
            f"features of shapes {tuple(real.shape)} and {tuple(drawn.shape)} cannot be compared; "
            "give (pictures, features) of both sets from one extractor"
        )
    if min(len(real), len(drawn)) < least:
        raise ValueError(f"{len(real)} real and {len(drawn)} drawn pictures are too few; give at least {least} of each")
    return real.double(), drawn.double()


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    return float(sum(poly_kernel(part, b).sum() for part in a.split(ROWS)))


def _kernel_mean_of_pairs(features: Tensor) -> float:
    """Over all pairs of two different pictures of one set."""
    count = len(features)
    alone = (features.square().sum(1) / features.shape[1] + 1).pow(3).sum().item()
    return (_kernel_sum(features, features) - alone) / (count * (count - 1))


def _share_within(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """The share of the points that lie in a ball around any of the centres."""
    radii = torch.cat([d.kthvalue(neighbours + 1).values for d in _distances(centres, centres)])
    inside = torch.cat([(d <= radii).any(1) for d in _distances(points, centres)])
    return inside.double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Euclidean, of all pairs, (at most ROWS, len(b)) at a time."""
    return (torch.cdist(part, b) for part in a.split(ROWS))
