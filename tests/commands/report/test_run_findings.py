"""The figures of a run say why its pictures are bad, and the manual has a heading for each cause."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ldm_train.commands.report.run_findings import PAGE, RULES, list_findings
from ldm_train.run_dir.reading import RunRead, read_run
from ldm_train.training.run_files import DATA, RECONSTRUCTIONS
from tests.reports.test_page import Read
from tests.run_dir.run_directories import MAX_STEPS, picture, write_run

ROOT = Path(__file__).parents[3]
GOOD = {
    "pictures": 100,
    "held_out": 5,
    "captions": 100,
    "share_of_commonest_caption": 0.01,
    "psnr": 31.5,
    "deviation": 1.1,
    "cut_away": 0.05,
}
BATCH = "batch_size=64"  # 256 examples a picture in all
TAUGHT, HELD_OUT = "metrics/taught_retrieval_at_1", "metrics/retrieval_at_1"
LEARNS = {TAUGHT: 0.9, HELD_OUT: 0.8}


def make_run(
    folder: Path, *words: str, data: Mapping[str, object] = GOOD, last: Mapping[str, float] = LEARNS, bad: int = 0
) -> RunRead:
    """A finished run that is trained on such data, with these values at its last step, and so many steps not finite."""
    path = write_run(folder, BATCH, *words)
    (path / DATA).write_text(json.dumps(dict(data)))
    with (path / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": MAX_STEPS, **last}) + "\n")
    run = read_run(path)
    run.nonfinite |= dict.fromkeys(range(bad), 1)
    return run


def anchors(run: RunRead) -> list[str]:
    return [finding.rpartition("#")[2] for finding in list_findings(run)]


WEAK = {TAUGHT: 0.1, HELD_OUT: 0.1}
FAST = ["prediction=velocity", "optimizer.lr=1e-3"]


@pytest.mark.parametrize(
    ("anchor", "words", "data", "last", "values"),
    [
        ("the-reconstructions-are-poor", [], {"psnr": 17.6}, {}, ["17.6", "25"]),
        ("the-latents-have-a-wrong-scale", [], {"deviation": 5.5}, {}, ["5.50"]),
        ("the-captions-are-all-alike", [], {"share_of_commonest_caption": 0.9}, {}, ["90%", "100 pictures"]),
        ("trained-captions-are-drawn-held-out-ones-are-not", [], {}, {HELD_OUT: 0.03}, ["0.90", "0.03"]),
        ("too-few-examples", FAST, {"pictures": 1000}, WEAK, ["1,000", "26 times", "3,125"]),
        ("trained-captions-are-not-drawn-either", FAST, {"pictures": 20}, WEAK, ["1280", "10%"]),
        ("the-prediction-is-noise", ["optimizer.lr=1e-3"], {}, WEAK, ["10%"]),
        ("the-learning-rate-is-too-low-or-too-high", ["prediction=velocity"], {}, WEAK, ["0.0001"]),
        ("the-average-lags-behind", [], {}, {"validation_loss": 0.5, "validation_loss_raw": 0.3}, ["0.500", "0.300"]),
        ("the-guidance-is-wrong", ["guidance.scale=9"], {}, {}, ["guidance.scale=9"]),
        ("the-guidance-is-wrong", ["caption_dropout=0"], {}, {}, ["guidance.scale=2.0", "caption_dropout=0"]),
        ("the-crop-cuts-much-away", [], {"cut_away": 0.27}, {}, ["27%"]),
    ],
)
def test_a_figure_leads_to_its_cause(
    anchor: str, words: list[str], data: dict, last: dict, values: list[str], tmp_path: Path
) -> None:
    assert anchors(make_run(tmp_path / "good")) == []
    run = make_run(tmp_path / "bad", *words, data={**GOOD, **data}, last={**LEARNS, **last})
    assert anchors(run) == [anchor]
    assert [value for value in values if value not in list_findings(run)[0]] == []


def test_a_loss_that_does_not_fall_is_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    run.series["loss"].values[:] = 0.97
    assert anchors(run) == ["the-loss-does-not-fall"]
    assert "0.97" in list_findings(run)[0]


def test_many_steps_that_are_not_finite_are_reported_and_one_is_not(tmp_path: Path) -> None:
    assert anchors(make_run(tmp_path / "one")) == [], "step 100 of that run is left out"
    assert anchors(make_run(tmp_path / "many", bad=30)) == ["the-loss-is-not-finite"]


@pytest.mark.parametrize(
    ("words", "data", "last"),
    [
        (["network.weights=x"], {"pictures": 1000}, WEAK),  # fine-tuned: another start
        ([], {"pictures": 1000}, {TAUGHT: 0.3, HELD_OUT: 1.0}),  # captions that are made of parts, as the quick start's
        (FAST, {"pictures": 2_000_000}, WEAK),
        ([], {"psnr": None, "deviation": None}, {}),  # without an autoencoder
        (["guidance.scale=1", "caption_dropout=0"], {}, {}),
        ([], {"pictures": 4, "share_of_commonest_caption": 1.0}, {}),  # one subject
        (["network.weights=x", "guidance.scale=7.5", "caption_dropout=0"], {"share_of_commonest_caption": 1.0}, {}),
    ],
)
def test_what_is_no_fault_is_not_reported(words: list[str], data: dict, last: dict, tmp_path: Path) -> None:
    found = anchors(make_run(tmp_path / "run", *words, data={**GOOD, **data}, last={**LEARNS, **last}))
    assert set(found) <= {"the-prediction-is-noise", "the-learning-rate-is-too-low-or-too-high"}
    assert not found or {**LEARNS, **last}[TAUGHT] < 0.5


@pytest.mark.parametrize(
    "data", ["", "[]", '{"psnr": "low", "pictures": [], "cut_away": null, "deviation": true}', '{"pictures": 0}', None]
)
def test_a_run_without_sound_data_has_no_findings(data: str | None, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    if data is not None:
        (path / DATA).write_text(data)
    assert list_findings(read_run(path)) == []


def test_the_manual_has_a_heading_for_each_cause() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    headings = [re.sub(r"[^a-z0-9]+", "-", line[3:].lower()).strip("-") for line in text.splitlines() if line[:3] == "## "]
    assert [rule.anchor for rule in RULES if rule.anchor not in headings] == []
    assert Path(PAGE).name in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_report_has_the_finding_first_and_shows_the_reconstructions(tmp_path: Path, ldm_train: Callable) -> None:
    run = make_run(tmp_path / "run", data={**GOOD, "psnr": 17.6})
    picture(run.path / RECONSTRUCTIONS, seed=3)
    answer = ldm_train("report", f"run_dir={run.path}", f"out={tmp_path}/page.html")
    assert answer.code == 0, answer.err
    assert f"{PAGE}#the-reconstructions-are-poor" in answer.err
    page = Read((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "reconstructions" in [element["id"] for element in page.all("h2")]
    assert "PSNR 17.6 dB" in page.text
    assert page.text.index("17.6 dB") < page.text.index("it was started 2 times")


def test_several_runs_are_named_with_their_findings(tmp_path: Path, ldm_train: Callable) -> None:
    runs = [make_run(tmp_path / name, data={**GOOD, "psnr": psnr}) for name, psnr in (("a", 17.6), ("b", 30.0))]
    answer = ldm_train("report", f"run_dir=[{runs[0].path},{runs[1].path}]", f"out={tmp_path}/page.html")
    [line] = [line for line in answer.err.splitlines() if PAGE in line]
    assert str(runs[0].path) in line
    assert "a: Pictures that are encoded" in Read((tmp_path / "page.html").read_text(encoding="utf-8")).text
