"""What is held out is counted by one rule everywhere, and where nothing is, each command says so."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.data.batches.datamodules import split_held_out
from ldm_train.data.batches.holding_out import warn_of_few_held_out
from ldm_train.data.cache.reader import open_caches
from ldm_train.util.held_out_figures import ENOUGH
from tests.conftest import PICTURES, TEXT


@pytest.fixture(scope="module")
def unsplit(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared pictures without a split."""
    folder = tmp_path_factory.mktemp("unsplit") / "pictures"
    folder.mkdir()
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        row.pop("split", None)
        (folder / row["file_name"]).write_bytes((pictures / row["file_name"]).read_bytes())
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def unsplit_cache(unsplit: Path, encode: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("caches") / "unsplit"
    assert encode(unsplit, folder, "dtype=float32").code == 0
    return folder


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_check_counts_what_train_holds_out(
    share: float, unsplit: Path, unsplit_cache: Path, ldm_train: Callable, tmp_path: Path
) -> None:
    words = [f"source.path={unsplit}", f"out={tmp_path / 'report'}", "measure=false", f"held_out={share}"]
    assert ldm_train("check", *words, *PICTURES, *TEXT).code == 0
    counted = json.loads((tmp_path / "report/check.json").read_text())["pictures"]["held_out"]
    assert counted == len(split_held_out(open_caches(str(unsplit_cache))[0], share)[1])
    assert (counted > 0) is (share > 0)


def test_encode_names_what_train_will_hold_out(unsplit: Path, encode: Callable, tmp_path: Path) -> None:
    answer = encode(unsplit, tmp_path / "cache")
    held_out = len(split_held_out(open_caches(str(tmp_path / "cache"))[0], None)[1])
    assert (f"hold out {held_out} of them" in answer.out) is (held_out > 0)
    assert ("held_out=null:" in answer.out) is (held_out == 0)


def test_what_the_source_names_is_counted_alone(pictures: Path, ldm_train: Callable, tmp_path: Path) -> None:
    words = [f"source.path={pictures}", f"out={tmp_path / 'report'}", "measure=false", "held_out=0.6"]
    assert ldm_train("check", *words, *PICTURES, *TEXT).code == 0
    assert json.loads((tmp_path / "report/check.json").read_text())["pictures"]["held_out"] == 3


@pytest.mark.parametrize("share", [0.0, 0.001])
def test_a_warning_of_none_names_the_share(share: float) -> None:
    assert warn_of_few_held_out(ENOUGH, 120, share=0.1) == []
    assert str(ENOUGH - 1) in warn_of_few_held_out(ENOUGH - 1, 120, share=0.1)[0]
    assert f"held_out={share:g}:" in warn_of_few_held_out(0, 12, share=share)[0]


@pytest.mark.slow
def test_every_command_warns_where_none_is_held_out(
    unsplit: Path, unsplit_cache: Path, ldm_train: Callable, train: Callable, encode: Callable, tmp_path: Path
) -> None:
    few = "held_out=0.0001"
    check = ldm_train("check", f"source.path={unsplit}", "measure=false", *PICTURES, *TEXT, few)
    assert f"{few}:" in check.out
    run_dir = tmp_path / "run"
    trained = train(unsplit_cache, run_dir, few, "max_steps=2", "pictures.prompts=[]")
    assert trained.code == 0, trained.err
    assert f"{few}:" in trained.out
    one = tmp_path / "one"
    one.mkdir()
    for name in ("circle-red.png", "square-red.png"):
        (one / name).write_bytes((unsplit / name).read_bytes())
        (one / name).with_suffix(".txt").write_text(name)
    encoded = encode(one, tmp_path / "small")
    assert encoded.code == 0, encoded.err
    held_out = len(split_held_out(open_caches(str(tmp_path / "small"))[0], None)[1])
    assert ("none of 2 pictures" in encoded.out) is (held_out == 0)
    for words, drawn in (["taught=5"], True), (["features=null"], False):
        answer = ldm_train("evaluate", f"run_dir={run_dir}", f"out={tmp_path / 'measured.json'}", "device=cpu", *words)
        assert answer.code == 0, answer.err
        assert f"{few}:" in answer.out
        measured = json.loads((tmp_path / "measured.json").read_text())
        assert {"taught_validation_loss"} <= measured.keys(), "what was trained is measured all the same"
        assert ("taught_retrieval_at_1" in measured) is drawn
        assert not {"validation_loss", "retrieval_at_1"} & measured.keys()
    answer = ldm_train("evaluate", f"run_dir={run_dir}", f"out={tmp_path / 'other.json'}", "device=cpu", "taught=0")
    assert answer.code == 1, "nothing was measured"
    assert not (tmp_path / "other.json").exists()
