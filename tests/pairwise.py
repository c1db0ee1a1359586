"""Fewer cases where every setting can be combined with every other."""

from collections.abc import Callable, Mapping
from itertools import combinations, product

import pytest


def cover_pairs(*axes: Mapping[str, object], defined: Callable[..., bool] = lambda *values: True) -> list[tuple[str, ...]]:
    """Choose combinations of the axes' keys so that each two keys of different axes meet in at least one of them.

    Greedy: the combination with the most pairs that have not met comes next. `defined` gets a combination's values and says
    whether it makes sense.
    """

    def pairs(keys: tuple[str, ...]) -> set[tuple[tuple[int, str], ...]]:
        return set(combinations(enumerate(keys), 2))

    candidates = [keys for keys in product(*axes) if defined(*(axis[key] for axis, key in zip(axes, keys, strict=True)))]
    missing = set().union(*map(pairs, candidates))
    chosen = []
    while missing:
        chosen.append(max(candidates, key=lambda keys: len(pairs(keys) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def parametrize_pairs(
    *, defined: Callable[..., bool] = lambda *values: True, **axes: Mapping[str, object]
) -> pytest.MarkDecorator:
    """`@parametrize_pairs(sampler=SAMPLERS, schedule=SCHEDULES, …)` tries any two values together, but not any three.

    For settings whose third has no part in how two of them work together: a sampler never sees the prediction, only the
    denoiser's estimate.
    """
    cases = [
        pytest.param(*(axis[key] for axis, key in zip(axes.values(), keys, strict=True)), id="-".join(keys))
        for keys in cover_pairs(*axes.values(), defined=defined)
    ]
    return pytest.mark.parametrize(tuple(axes), cases)
