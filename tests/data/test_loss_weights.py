"""By how much the loss of an example counts: columns, factors of caches, and what a batch carries."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.batches.loss_weights import NamedExamples, read_loss_weights
from ldm_train.data.cache.reader import LatentCache


def examples(texts: Sequence[str | None], sets: Sequence[int] = (2, 1)) -> NamedExamples:
    return SimpleNamespace(sets=list(sets), column=lambda name: iter(texts), name=lambda number: f"{number}.png")  # type: ignore[return-value]


def test_weights_are_those_of_the_column_times_those_of_the_caches() -> None:
    latents = examples(["2", None, "0.5"])
    assert read_loss_weights(latents, None, None) is None
    assert read_loss_weights(latents, "weight", None).tolist() == [2, 1, 0.5]  # type: ignore[union-attr]
    assert read_loss_weights(latents, "weight", [1, 4]).tolist() == [2, 1, 2]  # type: ignore[union-attr]
    assert read_loss_weights(latents, None, [0, 3]).tolist() == [0, 0, 3]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("texts", "factors", "says"),
    [
        (["1", "heavy", "1"], None, r"weight.*1\.png.*heavy"),
        (["1", "1", "-2"], None, r"2\.png.*-2"),
        (["1", "nan", "1"], None, r"1\.png.*nan"),
        (["inf", "1", "1"], None, r"0\.png.*inf"),
        (["1", "1", "1e39"], None, r"2\.png.*1e39"),  # no float32
        (["1", "1e5", "1"], [1e5, 1], "1e\\+10"),
        ([None, None, None], None, "no column weight"),
        (["0", "0", "0"], None, "weight"),
        (["1", "1", "1"], [1], r"cache_loss_weights=\[1\].*2"),
    ],
)
def test_what_is_no_weight_is_refused(texts: list[str | None], factors: list[float] | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_loss_weights(examples(texts), "weight", factors)


def test_batches_carry_the_weights_of_their_examples(cache: Path) -> None:
    latents = LatentCache(cache)
    weights = torch.arange(len(latents), dtype=torch.float32)
    data, positions = CachedLatents(latents, batch_size=4, loss_weights=weights), torch.arange(40)
    batch = data.fetch(positions)
    assert batch.loss_weights is not None
    assert torch.equal(batch.loss_weights, weights[data.order(positions)])
    assert data.fixed_batch(torch.arange(2), torch.arange(2)).loss_weights is None
