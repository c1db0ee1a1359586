"""Repeats of a source: further entries of the same rows. What rows are named by, captions and repeats do not change."""

from dataclasses import replace

import pytest

from ldm_train.data.cache.manifest import Provenance
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.crops import CentreCrop
from ldm_train.data.scan.scanned_pictures import Scanned, ScannedPictures
from ldm_train.data.scan.survey import Survey
from ldm_train.data.sources.items import Item, PictureBytes


def plan_of(*items: Item) -> CachePlan:
    scanned = [Scanned(item, f"{number:064x}", (8, 8)) for number, item in enumerate(items)]
    return CachePlan(
        Survey(ScannedPictures(scanned)), CentreCrop(8), pictures=Provenance({}), captions=Provenance({}), bad={}
    )


FIRST, SECOND = (Item(f"{name}.png", PictureBytes(b""), (f"a {name}",), name) for name in ("cat", "dog"))


def test_repeats_are_entries_of_one_row() -> None:
    plan = plan_of(replace(FIRST, repeats=3), SECOND)
    entries = plan.entries()
    assert [entry.key for entry in entries] == ["cat.png", "cat.png#2", "cat.png#3", "dog.png"]
    assert [entry.row for entry in entries[:3]] == [entries[0].row] * 3
    assert len({entry.picture for entry in entries}) == 2
    assert sum(len(batch.pictures) for batch in plan.batches([], pictures=8)) == 2


@pytest.mark.parametrize(
    "changed", [{"captions": ("other", "text")}, {"repeats": 3}, {"fields": {"a": "b"}}, {"held_out": True}]
)
def test_rows_of_pictures_keep_their_names(changed: dict[str, object]) -> None:
    plan, other = plan_of(FIRST, SECOND), plan_of(replace(FIRST, **changed), SECOND)  # type: ignore[arg-type]
    assert plan.rows == other.rows
