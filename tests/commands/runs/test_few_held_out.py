"""A list of runs says which held-out figures are of too few pictures."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run_dir.run_directories import write_lines, write_run


@pytest.mark.parametrize(("examples", "few"), [(6, True), (64, False)])
def test_too_few_held_out_pictures_are_named(examples: int, few: bool, tmp_path: Path, ldm_train: Callable) -> None:
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    write_lines(run / "validation.jsonl", *(line | {"examples": examples} for line in lines))
    answer = ldm_train("runs", str(tmp_path))
    assert answer.code == 0, answer.err
    assert (f"{run}: held-out figures are of {examples} pictures" in answer.err) is few
