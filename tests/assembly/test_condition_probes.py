"""Own conditions are called where they are built and once with the data; what they return wrongly is named."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from ldm_train.assembly.condition_probes import probe_condition, probe_reading
from ldm_train.assembly.probing import attempt
from ldm_train.conditioners.condition import Condition
from ldm_train.settings.schema.options import Part
from ldm_train.types import Conditioning, Given


class Own(Condition):
    vector_width = 3

    def __init__(self, **found: object) -> None:
        super().__init__("own", dropout=0.1)
        self.identity = {"kind": "own"}
        self.found = {
            "vector": lambda values: Conditioning(vector=values[:, None].expand(-1, 3)),
            "absent": lambda count: Given(torch.zeros(count), torch.zeros(count, dtype=torch.bool)),
            "read": lambda count: Given(torch.ones(count), torch.ones(count, dtype=torch.bool)),
        } | found

    def read(self, examples: object) -> Callable[[Tensor, Tensor], Given]:
        return lambda chosen, views: self.found["read"](len(chosen))  # type: ignore[operator,no-any-return]

    def absent(self, count: int, *, size: tuple[int, int], latent_size: tuple[int, int]) -> Given:
        return self.found["absent"](count)  # type: ignore[operator,no-any-return]

    def forward(self, values: Tensor, kept: Tensor) -> Conditioning:
        return self.found["vector"](values)  # type: ignore[operator,no-any-return]


def probe(condition: Own) -> None:
    attempt("condition._target_=mine.Own", lambda: probe_condition(condition))
    probe_reading([condition], [Part("mine.Own", {})], SimpleNamespace())  # type: ignore[arg-type]


def test_what_fits_passes() -> None:
    probe(Own())


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ({"vector": lambda values: values}, "Conditioning.*Tensor"),
        ({"vector": lambda values: Conditioning()}, "vector_width=3.*None"),
        ({"vector": lambda values: Conditioning(vector=values[:, None])}, r"\(2, 3\).*\(2, 1\)"),
        ({"vector": lambda values: Conditioning(vector=values[:, None].expand(-1, 3) / 0)}, "finite"),
        ({"vector": lambda values: values.missing}, "AttributeError"),
        ({"absent": lambda count: None}, "absent.*Given.*None"),
        ({"absent": lambda count: Given(torch.zeros(count), torch.zeros(count))}, "kept.*torch.bool.*float32"),
        ({"read": lambda count: torch.zeros(count)}, "read.*Given.*Tensor"),
        ({"read": lambda count: Given(torch.zeros(1), torch.zeros(1, dtype=torch.bool))}, r"read.*\(2,\).*\(1,\)"),
        ({"read": lambda count: Given(torch.zeros(count, 4), torch.ones(count, dtype=torch.bool))}, r"absent.*\(2, 4\)"),
        ({"read": lambda count: float("old")}, "ValueError.*old"),
    ],
)
def test_what_does_not_fit_is_named(found: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=rf"condition\._target_=mine\.Own.*{says}"):
        probe(Own(**found))


def test_what_the_conditioning_depends_on_is_plain() -> None:
    for identity in (None, {"weights": torch.zeros(1)}):
        condition = Own()
        condition.identity = identity  # type: ignore[assignment]
        with pytest.raises(ValueError, match="identity"):
            probe(condition)


def test_files_of_maps_are_of_the_shipped_conditions_alone() -> None:
    condition = Own()
    condition.takes_map = True
    with pytest.raises(ValueError, match="takes_map"):
        probe(condition)
