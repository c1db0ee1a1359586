"""Cases that are chosen hold every pair."""

from itertools import combinations, product

import pytest

from tests.pairwise import cover_pairs


@pytest.mark.parametrize("sizes", [(2, 3), (4, 4, 4), (6, 12, 4), (1, 5, 2, 3)])
def test_every_two_values_meet(sizes: tuple[int, ...]) -> None:
    axes = [{str(value): value for value in range(size)} for size in sizes]
    chosen = cover_pairs(*axes)
    for (i, first), (j, second) in combinations(enumerate(axes), 2):
        assert {(keys[i], keys[j]) for keys in chosen} == set(product(first, second))
    assert len(chosen) <= 1.3 * sorted(sizes)[-1] * sorted(sizes)[-2]


def test_undefined_combinations_are_left_out() -> None:
    axes = [{"a": 1, "b": 2}, {"c": 1, "d": 2}, {"e": 1, "f": 2}]
    chosen = cover_pairs(*axes, defined=lambda first, second, third: first == second)
    assert {keys[:2] for keys in chosen} == {("a", "c"), ("b", "d")}
    assert {keys[1:] for keys in chosen} == set(product("cd", "ef"))
