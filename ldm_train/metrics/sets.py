"""Metrics that compare two sets of pictures by their features: (N, D) of real pictures, (M, D) of drawn ones.

All are computed in float64, whatever the features' dtype, a chunk of rows of the table of all pairs at a time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ROWS = 1024  # rows of a table of all pairs that are in memory at once
NEIGHBOURS = 3
MIN_PICTURES = NEIGHBOURS + 1  # pictures on a side for which all metrics are defined
MANY_PICTURES = 1000  # on a side, below which shares of neighbours depend more on their number than on the pictures


def caution_of_few(real: int, drawn: int) -> str | None:
    """Return what not to conclude from metrics of few pictures; None if there are many."""
    if min(real, drawn) >= MANY_PICTURES:
        return None
    return (
        f"{drawn:,} drawn pictures and {real:,} real ones are few: precision, recall and retrieval of so few can be high "
        "for pure noise, and the distances vary; compare them only at the same numbers of pictures"
    )


def compare_features(real: Tensor, drawn: Tensor) -> dict[str, float]:
    """Return every metric that compares two sets by their features: `kid`, `fid`, `precision` and `recall`.

    Raises:
        ValueError: fewer than `MIN_PICTURES` pictures on a side, or features of different widths.
    """
    precision, recall = precision_recall(real, drawn)
    return {
        "kid": kernel_distance(real, drawn),
        "fid": frechet_distance(real, drawn),
        "precision": precision,
        "recall": recall,
    }


def kernel_distance(real: Tensor, drawn: Tensor) -> float:
    """Return the squared maximum mean discrepancy under the kernel (x·y / D + 1)^3, unbiased, over all pairs.

    This is the kernel distance of Bińkowski et al. 2018 (arXiv 1801.01401, section 3.2) without its random subsets; the
    sets may differ in size. Its expectation is 0 for two sets of one distribution, however few, so it may be negative.

    Raises:
        ValueError: fewer than two pictures on a side, or features of different widths.
    """
    real, drawn = _comparable(real, drawn)
    between = _kernel_sum(real, drawn) / (len(real) * len(drawn))
    return _kernel_mean_of_pairs(real) + _kernel_mean_of_pairs(drawn) - 2 * between


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """Return |m - m'|² + tr(S + S' - 2 (S S')^½) for the sets' means and covariances (Heusel et al. 2017, arXiv 1706.08500).

    tr (S S')^½ is the sum of the singular values of X X'ᵀ / ((N - 1)(M - 1))^½ for the centred features X and X', so the
    matrix to decompose has only as many rows as the smaller of N and D: exact, and fast for few pictures.

    Raises:
        ValueError: fewer than two pictures on a side, or features of different widths.
    """
    real, drawn = _comparable(real, drawn)
    shift = (real.mean(0) - drawn.mean(0)).square().sum()
    factors = [(features - features.mean(0)) / (len(features) - 1) ** 0.5 for features in (real, drawn)]
    spread = sum(factor.square().sum() for factor in factors)
    first, second = (torch.linalg.qr(f, mode="r").R if len(f) > f.shape[1] else f for f in factors)
    return float(shift + spread - 2 * torch.linalg.svdvals(first @ second.T).sum())


def is_rank_deficient(real: Tensor, drawn: Tensor) -> bool:
    """Return whether a side has no more pictures than features, so that its covariance is singular.

    The Fréchet distance then depends on the number of pictures (it grows as that falls), and compares only at the same
    number.
    """
    return min(len(real), len(drawn)) <= real.shape[1]


def precision_recall(real: Tensor, drawn: Tensor, *, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return the share of drawn pictures in the real set's manifold, and of real pictures in the drawn set's manifold.

    A set's manifold is the union of balls around its features; the radius of each is the distance to its `neighbours`-th
    nearest neighbour in the same set (Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2).

    Raises:
        ValueError: at most `neighbours` pictures on a side, or features of different widths.
    """
    real, drawn = _comparable(real, drawn, least=neighbours + 1)
    return _share_within(drawn, real, neighbours), _share_within(real, drawn, neighbours)


def nearest_distances(points: Tensor, others: Tensor) -> Tensor:
    """Return the Euclidean distance of each point (M, D) to the nearest of the others (N, D), (M,)."""
    points, others = _comparable(points, others, least=1)
    return torch.cat([d.amin(1) for d in _distances(points, others)])


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """Return 100 times the cosine of each image's embedding and its text's, both (N, D), as (N,).

    Hessel et al. 2021 (arXiv 2104.08718). The score of a set is the mean; torchmetrics takes the positive part of it.
    """
    return 100 * torch.nn.functional.cosine_similarity(images.double(), texts.double())


def retrieval_at_1(images: Tensor, texts: Tensor) -> float:
    """Return the share of images whose own text is the nearest by the cosine, for embeddings of images and texts (N, D)."""
    images, texts = (torch.nn.functional.normalize(embeddings.double()) for embeddings in (images, texts))
    own_text = (images * texts).sum(1)
    nearest = torch.cat([(part @ texts.T).amax(1) for part in images.split(CHUNK_ROWS)])
    return (own_text >= nearest - 1e-12).double().mean().item()


def _comparable(real: Tensor, drawn: Tensor, *, least: int = 2) -> tuple[Tensor, Tensor]:
    if real.ndim != 2 or drawn.ndim != 2 or real.shape[1] != drawn.shape[1]:
        raise ValueError(
            f"features of shapes {tuple(real.shape)} and {tuple(drawn.shape)} cannot be compared; "
            "pass (pictures, features) of both sets from one extractor"
        )
    if min(len(real), len(drawn)) < least:
        raise ValueError(
            f"{len(real)} real and {len(drawn)} drawn pictures are too few to compare; pass at least {least} of each"
        )
    return real.double(), drawn.double()


def _kernel_sum(a: Tensor, b: Tensor) -> float:
    """Return the sum of KID's kernel (Binkowski et al. 2018, arXiv 1801.01401, section 4) over all pairs of rows."""
    return float(sum((part @ b.T * (1.0 / a.shape[1]) + 1.0).pow(3).sum() for part in a.split(CHUNK_ROWS)))


def _kernel_mean_of_pairs(features: Tensor) -> float:
    """Return the kernel's mean over all pairs of two different pictures of one set."""
    count = len(features)
    with_themselves = (features.square().sum(1) / features.shape[1] + 1).pow(3).sum().item()
    return (_kernel_sum(features, features) - with_themselves) / (count * (count - 1))


def _share_within(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """Return the share of the points that lie in a ball around any of the centres."""
    radii = torch.cat([d.kthvalue(neighbours + 1).values for d in _distances(centres, centres)])
    inside = torch.cat([(d <= radii).any(1) for d in _distances(points, centres)])
    return inside.double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Yield Euclidean distances of all pairs, at most CHUNK_ROWS rows of (len(a), len(b)) at a time."""
    return (torch.cdist(part, b) for part in a.split(CHUNK_ROWS))
