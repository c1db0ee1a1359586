"""A report of runs: everything that a run directory can hold is on the page, and nothing that is missing ends it."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock

from ldm_train.run_dir.reading import read_run
from ldm_train.run_dir.run_settings import list_differences
from tests.reports.test_page import Read
from tests.run_dir.run_directories import FINISHED, HOSTILE, MAX_STEPS, evaluation, write_lines, write_run, write_starts

SECTIONS = [
    *("Loss", "Pictures", "Pictures over the training", "Trained and held-out pictures", "Film strips", "Metrics"),
    *("Loss by noise level", "Health", "Speed and time", "What went wrong", "Settings", "Starts"),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def report(ldm_train: Callable, tmp_path: Path) -> Callable[..., Read]:
    """`report(run, …)`: the page of these runs."""

    def made(*runs: Path) -> Read:
        listed = ",".join(json.dumps(str(run)) for run in runs)
        answer = ldm_train("report", f"run_dir=[{listed}]", f"out={tmp_path}/page.html", "debug=true")
        assert answer.code == 0, answer.err
        return Read((tmp_path / "page.html").read_text(encoding="utf-8"))

    return made


def headings(page: Read) -> list[str]:
    return [str(element["id"]).replace("-", " ") for element in page.all("h2")]


def titles(page: Read) -> list[str]:
    return [re.split(" by (?:step|log-SNR): ", str(drawing["aria-label"]))[0] for drawing in page.all("svg")]


def verdict(page: Read) -> str:
    found = re.search(r"verdict (\w+)", str([attributes.get("class") for attributes in page.all("div")]))
    assert found is not None
    return found[1]


# What it shows


def test_a_run_is_shown_with_all_that_it_holds(run: Path, report: Callable[..., Read]) -> None:
    page = report(run)
    assert headings(page) == [title.lower().replace("held-out", "held out") for title in SECTIONS]
    assert verdict(page) == "good"
    assert {
        *("Training loss", "Validation loss", "Error of the noise", "Gradient norm", "Learning rate"),
        *("Share of clipped steps", "Distance of the averaged weights", "Update over weight, by block", "Extra/thing"),
        *("KID (efficientnet_lite0)", "CLIP retrieval at 1 (ViT-B-32)", "Retrieval at 1"),
        *("Examples per second", "Utilisation", "Memory, GiB", "Loss by log-SNR"),
    } <= set(titles(page))
    assert f"Finished, after {MAX_STEPS} steps" in page.text
    assert "step 100 was not finite and was left out" in page.text
    assert "it was started 2 times" in page.text
    assert "interrupted (SIGTERM)" in page.text
    assert str(evaluation()["command"]) in page.text
    assert {"0.011 to 0.0139", "0.01 0.005 to 0.02"} <= {word.strip() for word in page.words}, "intervals of an evaluation"
    assert "of 64 pictures, drawn in 10 steps, against held-out pictures" in page.text
    assert "fewer than the 1280 features of efficientnet_lite0" in page.text
    assert "share of the wall-clock" in page.text
    assert not any("log_snr" in title for title in titles(page)), "bins have a plot of their own"
    assert len(page.all("img")) == 5, "growth, samples, held out, two strips"


def test_figures_of_trained_captions_stand_next_to_those_of_held_out_ones(run: Path, report: Callable[..., Read]) -> None:
    prompts = json.loads((run / "samples/prompts.json").read_text())
    kinds = ["trained", "held out"]
    (run / "samples/prompts.json").write_text(json.dumps(prompts | {"prompts": ["a cat", "a dog"], "kinds": kinds}))
    measured = {"kind": "evaluation", "kid_x": 0.25, "taught_kid_x": 0.125, "taught_pictures": 20, "intervals": {}}
    (run / "evaluations" / "measured.json").write_text(json.dumps(measured))
    page = report(run)
    legends = {str(d["aria-label"]).partition(" by step")[0]: str(d["aria-label"]) for d in page.all("svg")}
    for label in ("held out, averaged weights", "held out, raw weights", "trained, averaged weights"):
        assert label in legends["Validation loss"]
    for label in kinds:
        assert label in legends["Retrieval at 1"]
    assert {"trained: a cat", "held out: a dog"} <= {word.strip() for word in page.words}
    words = [word.strip() for word in page.words if word.strip()]
    assert words[words.index("kid_x") + 1 :][:2] == ["0.25", "0.125"]


@pytest.mark.parametrize(("examples", "few"), [(6, True), (64, False)])
def test_too_few_held_out_pictures_are_named(examples: int, few: bool, tmp_path: Path, report: Callable[..., Read]) -> None:
    run = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    write_lines(run / "validation.jsonl", *(line | {"examples": examples} for line in lines))
    assert (f"held-out figures are of {examples} pictures" in report(run).text) is few


def test_several_runs_share_their_plots_and_tell_what_differs(tmp_path: Path, report: Callable[..., Read]) -> None:
    first, second = write_run(tmp_path / "sweep/a"), write_run(tmp_path / "sweep/b", "optimizer.lr=2e-3", seed=1)
    page = report(first, second)
    assert page.all("title")
    assert "Runs a, b" in page.text
    assert "2 runs: 2 finished" in page.text
    words = [word.strip() for word in page.words if word.strip()]
    row = words.index("optimizer.lr")
    assert words[row + 1 : row + 3] == ["0.0001", "0.002"]
    reported = next(str(d["aria-label"]) for d in page.all("svg") if str(d["aria-label"]).startswith("Training loss"))
    assert "a: " in reported
    assert "b: " in reported


def test_an_option_that_one_run_chose_is_reported_without_its_settings(tmp_path: Path) -> None:
    lora = ["network.weights=x", "adapter=lora"]
    words = [[], lora, [*lora, "adapter.rank=4"]]
    runs = [read_run(write_run(tmp_path / str(number), *more)) for number, more in enumerate(words)]
    assert list_differences(runs[:2]) == {"adapter": ["(none)", "LoRA"], "network.weights": ["null", "x"]}
    assert list_differences(runs)["adapter.rank"] == ["(none)", "8", "4"]
    assert "adapter.dora" not in list_differences(runs)


def test_two_runs_of_the_same_name_are_reported_apart(tmp_path: Path, report: Callable[..., Read]) -> None:
    page = report(write_run(tmp_path / "one/run"), write_run(tmp_path / "two/run"))
    assert "Runs one/run, two/run" in page.text


def test_it_holds_one_script_which_the_policy_names(run: Path, report: Callable[..., Read], tmp_path: Path) -> None:
    import base64
    import hashlib

    page = report(run)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    kinds = [script.get("type") for script in page.all("script")]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "application/json"}
    [text] = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    [policy] = [str(meta["content"]) for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html


@pytest.mark.parametrize("place", ["prompt", "name", "metric", "command", "setting", "error"])
def test_hostile_text_is_only_text(place: str, tmp_path: Path, report: Callable[..., Read]) -> None:
    plain, hostile = write_run(tmp_path / "plain", prompts=("a", "b")), tmp_path / "hostile"
    if place == "name":
        hostile = tmp_path / "<script>alert(1)<!-- &amp;"
    write_run(hostile, prompts=("a", HOSTILE if place == "prompt" else "b"))
    if place == "metric":
        for run, name in ((plain, "other"), (hostile, HOSTILE)):
            with (run / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": 400, name: 1.0}) + "\n")
    if place == "command":
        record = json.loads((hostile / "run.json").read_text())
        record["starts"][0]["command"] = HOSTILE
        (hostile / "run.json").write_text(json.dumps(record))
    if place == "setting":
        config = hostile / "config.yaml"
        config.write_text(config.read_text().replace("cache: caches/a", f"cache: {json.dumps(HOSTILE)}"))
    if place == "error":
        write_starts(hostile, {**FINISHED, "as": "failed: " + HOSTILE}, FINISHED)
        write_starts(plain, {**FINISHED, "as": "failed: x"}, FINISHED)
    one, other = report(plain), report(hostile)
    assert [tag for tag, _ in other.elements] == [tag for tag, _ in one.elements]
    assert [set(attributes) for _, attributes in other.elements] == [set(attributes) for _, attributes in one.elements]


def test_the_same_runs_give_the_same_page(run: Path, report: Callable[..., Read], tmp_path: Path) -> None:
    report(run)
    first = (tmp_path / "page.html").read_bytes()
    report(run)
    assert (tmp_path / "page.html").read_bytes() == first


def test_a_long_run_makes_no_large_page(run: Path, report: Callable[..., Read], tmp_path: Path) -> None:
    write_lines(run / "metrics.jsonl", *({"step": step, "loss": 1 / step, "lr": 1e-3} for step in range(1, 50_000)))
    page = report(run)
    assert "Of up to 49,999 logged values 800 are drawn" in page.text
    assert (tmp_path / "page.html").stat().st_size < 500_000


# What is missing, broken, or still being written


def remove(*names: str) -> Callable[[Path], None]:
    def removed(run: Path) -> None:
        for name in names:
            for path in list(run.glob(name)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return removed


def append(name: str, text: str) -> Callable[[Path], None]:
    def appended(run: Path) -> None:
        with (run / name).open("a") as file:
            file.write(text)

    return appended


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes(content) and None


DAMAGES = [
    (remove("validation.jsonl"), "loss by noise level", ""),
    (remove("samples"), "pictures", ""),
    (remove("samples/growth.png"), "", "step 200"),
    (remove("samples"), "pictures over the training", ""),
    (remove("evaluations", "nonfinite", "samples/prompts.json"), "", ""),
    (remove("timing.jsonl"), "speed and time", ""),
    (remove("run.json"), "starts", "run.json is not there"),
    (remove("metrics.jsonl", "timing.jsonl", "validation.jsonl"), "loss", "Finished, after 400 steps"),
    (remove("*.jsonl", "samples", "evaluations", "nonfinite"), "health", ""),
    (append("metrics.jsonl", '{"step": 405, "lo'), "", ""),
    (append("metrics.jsonl", 'nonsense\n{"step": 410, "loss": 1.0}\n[1]\n{"loss": 1}\n{"step": 4'), "", "3 of 85 lines"),
    (append("validation.jsonl", '{"step": 500, "edges": [0, 1], "loss": ["x"]}\n{"step": 600, "edges": 3}\n'), "", ""),
    (append("validation.jsonl", '{"step": 500, "weights": "ema", "edges": [1, 1], "loss": [1]}\n'), "", ""),
    (append("validation.jsonl", '{"step": 500, "weights": "ema", "edges": [-Infinity, 0, Infinity], "loss": [1, NaN]}\n'),
     "", ""),
    (write("metrics.jsonl", b"\xff\xfe\x00nonsense\n"), "loss", "1 of 1 lines"),
    (write("metrics.jsonl", b'{"step": 5, "loss": NaN}\n{"step": 6, "loss": -Infinity}\n'), "loss", ""),
    (write("metrics.jsonl", b'{"step": 5, "loss": 0.5}\n'), "", "0.5"),
    (write("metrics.jsonl", b'{"step": 5, "loss": 0}\n{"step": 9, "loss": -1e300}\n{"step": 11, "loss": 1e300}\n'),
     "", ""),
    (write("samples/growth.png", b"broken"), "", "step 200"),
    (write("samples/step-00000400.png", b""), "", "step 200"),
    (write("samples/prompts.json", b'{"prompts": 3}'), "", ""),
    (write("evaluations/other.json", b"{"), "", ""),
    (write("evaluations/other.json", b'{"kind": "evaluation", "sweep": [{}], "a": [], "b": {"c": [1.5, null]}}'),
     "", ""),
    (write("nonfinite/step-00000110-rank-0.json", b'{"examples": [3]}'), "", "2 steps were not finite"),
    (write("run.json", b'{"starts": [{"ended": 3}, 4]}'), "", ""),
    (write("set_metrics.jsonl", b'{"step": 3}\n{"step": 4, "pictu'), "", "Metrics of sets"),
    (write("run.json", b"[]"), "starts", "run.json cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "gone", "reported"), DAMAGES)
def test_what_is_missing_or_broken_is_left_out_or_reported(
    damage: Callable[[Path], None], gone: str, reported: str, run: Path, report: Callable[..., Read]
) -> None:
    damage(run)
    page = report(run)
    assert gone not in headings(page)
    assert reported in page.text
    assert "nan" not in " ".join(str(drawing.get("d", "")) for drawing in page.all("path"))


@pytest.mark.parametrize("name", ["samples/growth.png", "samples/step-00000400.png", "samples/reverse-step-00000400.png"])
def test_a_picture_that_is_just_being_written_is_passed_over(name: str, run: Path, report: Callable[..., Read]) -> None:
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole[: len(whole) // 2])
    assert len(report(run).all("img")) >= 5


def test_pictures_without_room_are_reported(run: Path, report: Callable[..., Read], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.commands.report.run_pictures.Budget.left", 3000)
    monkeypatch.setattr("ldm_train.commands.report.run_pictures.Budget.__init__.__defaults__", (3000, 0, 0))
    page = report(run)
    assert len(page.all("img")) < 5
    assert "had no room on this page" in page.text


# How it stands


@pytest.mark.parametrize(
    ("ends", "look", "reported"),
    [
        ([FINISHED], "good", "Finished, after 400 steps"),
        ([None, FINISHED], "good", "Finished"),
        ([{**FINISHED, "as": "interrupted (max_time)"}], "neutral", "Interrupted (max_time), at step 400 of 800"),
        ([{**FINISHED, "as": "failed: the loss was not finite"}], "bad", "Failed: the loss was not finite, at step 400"),
        ([FINISHED, None], "bad", "as a process that is killed does, at step 400 of 800"),
    ],
)
def test_the_verdict_says_how_the_last_start_ended(
    ends: list, look: str, reported: str, run: Path, report: Callable[..., Read]
) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(f"max_steps: {MAX_STEPS}", "max_steps: 800"))
    write_starts(run, *ends)
    page = report(run)
    assert verdict(page) == look
    assert reported in page.text


def test_a_run_that_is_going_on_is_read_without_being_touched(run: Path, report: Callable[..., Read]) -> None:
    write_starts(run, None)
    with FileLock(run / ".lock"):
        before = {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]}
        page = report(run)
        assert {path: path.stat().st_mtime_ns for path in [run, *run.rglob("*")]} == before
    assert verdict(page) == "neutral"
    assert "Running, at step 400 of 400" in page.text
    assert read_run(run).locked is False


@pytest.mark.parametrize("locked", [True, False])
def test_a_run_that_has_just_begun_is_shown(locked: bool, run: Path, report: Callable[..., Read]) -> None:
    write_starts(run, None)
    remove("*.jsonl", "samples", "evaluations", "nonfinite")(run)
    with FileLock(run / ".lock") if locked else nullcontext():
        page = report(run)
    assert verdict(page) == ("neutral" if locked else "bad")
    assert ("Running, before its first" if locked else "Ended before its first logged step") in page.text
    assert headings(page) == ["settings", "starts"]


def test_an_older_run_without_a_word_of_its_end_is_finished_at_its_last_step(run: Path, report: Callable[..., Read]) -> None:
    write_starts(run, None)
    assert "Finished, after 400 steps" in report(run).text


# Real runs


def test_a_real_run_is_shown(trained: Path, report: Callable[..., Read]) -> None:
    page = report(trained)
    assert verdict(page) == "good"
    assert "Finished, after 8 steps" in page.text
    assert {"loss", "pictures", "film strips", "health", "settings", "starts"} <= set(headings(page))


# What is refused


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        ("run_dir={tmp}/nowhere out=x.html", "{tmp}/nowhere is not a run directory: {tmp}/nowhere/config.yaml is not there"),
        ("run_dir=[{tmp}/run,{tmp}] out=x.html", "{tmp} is not a run directory"),
        ("run_dir=[{tmp}/run,{tmp}/run/] out=x.html", "none twice"),
        ("run_dir=[] out=x.html", "run_dir is empty"),
        ("run_dir={tmp}/run out={tmp}", "out={tmp} is a folder"),
        ("run_dir={tmp}/broken out=x.html", "{tmp}/broken/config.yaml cannot be read"),
        ("run_dir={tmp}/stranger out=x.html", "{tmp}/stranger/config.yaml is no config of a run"),
    ],
)
def test_what_is_no_run_is_refused(words: str, reported: str, run: Path, ldm_train: Callable, tmp_path: Path) -> None:
    for name, text in (("broken", "a: [1"), ("stranger", "a: 1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    answer = ldm_train("report", *(word.format(tmp=tmp_path) for word in words.split()))
    assert answer.code == 1
    assert reported.format(tmp=tmp_path) in answer.err


@pytest.mark.slow
def test_nothing_heavy_is_imported(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ldm_train.commands.report.report_page import build_report_page; "
        "from ldm_train.run_dir.reading import read_run; from ldm_train.reports.page import render_page; "
        f"render_page(build_report_page([read_run(Path({str(run)!r}))])); "
        "sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
