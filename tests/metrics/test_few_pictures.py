"""Metrics of few pictures come with a caution, wherever they are measured."""

import torch

from ldm_train.commands.evaluate.result_files import Result, format_result
from ldm_train.commands.evaluate.statistics import compare_with_real
from ldm_train.metrics.numbers import Resampling
from ldm_train.metrics.sets import MANY_PICTURES, caution_of_few


def noise(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_few_pictures_are_cautioned_of(capsys) -> None:  # type: ignore[no-untyped-def]
    numbers = compare_with_real(noise(16, 0), noise(20, 1), Resampling(0, 0), extractor="own")
    assert numbers.values["few_pictures"] is True
    printed = capsys.readouterr().out
    assert "16" in printed
    assert "20" in printed
    assert "`few_pictures`" in "\n".join(format_result(Result(numbers, {}), ""))


def test_many_are_not() -> None:
    assert caution_of_few(MANY_PICTURES, MANY_PICTURES) is None
    assert str(MANY_PICTURES - 1) in str(caution_of_few(MANY_PICTURES, MANY_PICTURES - 1)).replace(",", "")
