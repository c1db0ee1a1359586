"""The commands of the README and the manual do what they say, at a small size; their figures are those of docs/results."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from manual import api, figures, settings
from PIL import Image

from ldm_train.cli.run_command import name_bare
from ldm_train.settings.commented_yaml import parse_settings
from ldm_train.settings.composition import compose
from ldm_train.settings.schema.commands import own_settings
from ldm_train.settings.trust import Grants, granted

ROOT = Path(__file__).parent.parent
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
BLOCK = re.compile(r"(<!-- not run: [^\n]* -->\n)?```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)```", re.DOTALL)
FIRST = ["first-run", "own-data"]  # pages with results that commands of other pages use
PROGRAMS = {"git", "tensorboard", "mkdocs", "export"}  # which are not this project's

SMALL = {
    "encode": ["image_size=16"],
    "check": ["image_size=16", "measure=false"],
    "train": [
        *("max_steps=2", "batch_size=4", "held_out=0.34", "threads=1"),
        *("pictures.steps=1", "pictures.count=2", "metrics.every=null", "prior.count=2", "prior.steps=1"),
    ],
    "train_autoencoder": ["max_steps=2", "batch_size=2", "image_size=16"],
    "evaluate": ["steps=2", "resamples=5"],
    "explain": ["steps=2"],
    "sample": ["steps=2"],
}
SMALL_NETWORK = ["network.channels=[16,32]", "network.head_size=8"]
SMALL_QUICKSTART = {
    "check": SMALL_NETWORK,
    "train": [
        *("max_steps=2", "batch_size=4", "threads=1", "validation.repeats=1"),
        *("pictures.steps=1", "pictures.count=2", "metrics.count=4", "metrics.steps=1", *SMALL_NETWORK),
    ],
    "evaluate": ["steps=2", "resamples=5"],
    "explain": ["steps=2"],
    "sample": ["steps=2"],
}


@dataclass(frozen=True)
class Line:
    """A line of a page's shell code: its words, and whether the tests run it."""

    words: tuple[str, ...]
    runs: bool

    @property
    def settings(self) -> tuple[str, ...]:
        """The command of ldm-train and its settings, also of lines that start it on a cluster; nothing of other lines."""
        program, *words = self.words
        starts = {"ldm-train": [], "torchrun": words[: words.index("ldm_train") + 1] if "ldm_train" in words else []}
        if program == "sbatch":
            return ("train", *words[1:])
        return tuple(words[len(starts[program]) :]) if program in starts else ()

    @property
    def is_quickstart(self) -> bool:
        return any("outputs/quickstart" in word or "data/openmoji" in word for word in self.words)


def read_lines(text: str) -> list[Line]:
    """Return the lines of all blocks of shell code."""
    return [
        Line(tuple(words), runs=not_run == "")
        for not_run, language, _, code in BLOCK.findall(text)
        if language == "bash"
        for line in code.splitlines()
        if (words := shlex.split(line, comments=True))
    ]


def shrink(line: Line) -> list[str]:
    """Return the settings of a line with those that make it small."""
    verb, *words = line.settings
    if "--multirun" in words:
        return [verb, *words, "--dry-run"]
    if verb == "explain" and any(word.startswith("cache=") for word in words):
        return [verb, *words]  # nothing is drawn
    if line.is_quickstart:
        return [verb, *words, *SMALL_QUICKSTART.get(verb, [])]
    chooses = any(word.startswith(("config", "network._target_=")) for word in words)
    network = SMALL_NETWORK if verb == "train" and not chooses else []
    power = ["ema.snapshot_every=1"] if "ema=power" in words else []
    side = (
        ["image_size=16"]
        if verb == "train"
        and any(word.startswith(("experiment=own_", "experiment=inpaint", "experiment=upscale")) for word in words)
        else []
    )
    adapts = any(word.startswith("autoencoder") for word in words)
    architecture = ["architecture.channels=[8,16]"] if verb == "train_autoencoder" and not adapts else []
    return [verb, *words, *SMALL.get(verb, []), *network, *power, *side, *architecture]


LINES = {page: read_lines(text) for page, text in PAGES.items()}
COMPOSED = sorted({line.settings for lines in LINES.values() for line in lines if line.settings})
RUN = {page: [line for line in lines if line.runs and line.words[0] == "ldm-train"] for page, lines in LINES.items()}
Runner = Callable[[str, Path], None]


@pytest.mark.parametrize("words", COMPOSED, ids=lambda words: " ".join(words)[:80])
def test_every_command_makes_a_config(words: tuple[str, ...]) -> None:
    verb, *overrides = words
    named = [name for word in overrides for name in re.findall(r"_target_[=:](\w+)", word)]
    if "--multirun" not in overrides and not any(word.startswith(("config", "--")) for word in overrides):
        with granted(Grants(tuple(named))):
            compose(verb, name_bare(verb, list(overrides)))


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_shell_code_names_what_is_there(page: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for line in LINES[page]:
        program, *words = line.words
        if program in ("bash", "python", "sbatch"):
            assert (ROOT / words[0]).is_file(), line
        elif program == "pip":
            assert set(re.findall(r"\[(.*)\]", words[-1])) <= extras.keys(), line
        else:
            assert program in {"ldm-train", "torchrun"} | PROGRAMS, line


def test_the_first_run_is_the_script_of_the_quick_start() -> None:
    script = (ROOT / "scripts" / "quickstart.sh").read_text(encoding="utf-8")
    script = script.replace("$out", "outputs/quickstart").replace("\\\n", " ")
    in_script = [shlex.split(line)[1:] for line in script.splitlines() if line.startswith(("run ldm-train", "run python"))]
    in_page = [line.words for line in LINES["first-run"] if line.runs and line.words[0] in ("ldm-train", "python")]
    assert [words[:2] for words in in_script] == [list(words[:2]) for words in in_page]
    for script_words, words in zip(in_script, in_page, strict=True):
        assert {word for word in words if not word.startswith("prompts=")} <= set(script_words)


@pytest.fixture(scope="module")
def run_page(ldm_train: Callable) -> Runner:
    """Return a function that runs a page's commands in the current folder, small."""

    def run(page: str, folder: Path) -> None:
        for not_run, language, title, code in BLOCK.findall(PAGES[page]):
            if title:
                (folder / title).parent.mkdir(parents=True, exist_ok=True)
                (folder / title).write_text(code)
            elif language == "python" and not not_run:
                runpy.run_path(str(write(folder / "page.py", code)))
        for line in RUN[page]:
            if page in FIRST or not any(line in RUN[first] for first in FIRST):
                answer = ldm_train(*shrink(line))
                assert answer.code == 0, (line, answer.err)

    return run


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def draw_pictures(folder: Path, names: list[str], colour: str) -> None:
    """Draw a captioned picture of each name, all of them different."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        picture = Image.new("RGB", (20, 16), colour)
        picture.paste((40 * number, 100, 200), (0, 0, 4 + number, 9))
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} on a sofa\n")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, run_page: Runner, ldm_train: Callable) -> Path:
    """A folder in which the commands of the first pages were run, small: data, caches and runs."""
    folder = tmp_path_factory.mktemp("manual") / "workplace"
    draw_pictures(folder / "DIR", ["cat", "dog", "fox", "cow", "owl", "rat"], "white")
    draw_pictures(folder / "MORE", ["hen", "bee"], "black")
    for name, colour in (("cat", "red"), ("dog", "blue")):
        draw_pictures(folder / "CLASSES" / name, ["one", "two"], colour)
    Image.new("RGB", (16, 16), "green").save(folder / "cat.png")
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(folder / "mask.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        script = ROOT / "scripts" / "prepare_openmoji.py"
        subprocess.run([sys.executable, str(script), "data/openmoji", "--count", "5"], check=True)
        more = ["source.path=MORE", "image_size=16", "cache=caches/more", "autoencoder=identity"]
        assert ldm_train("encode", *more).code == 0
        for page in FIRST:
            run_page(page, folder)
    return folder


@pytest.mark.slow
def test_the_first_pages_write_what_they_say(workplace: Path) -> None:
    metrics = json.loads((workplace / "outputs/quickstart/metrics.json").read_text())
    assert metrics["pictures"] == 3 * 4
    assert {"retrieval_at_1", "background_accuracy", "drawing_psnr", "autoencoder_psnr"} <= metrics.keys()
    assert metrics["autoencoder_psnr"] > 28
    named = [
        cell.strip(" `") for row in re.findall(r"^\| `(outputs/.*)` \|", PAGES["first-run"], re.MULTILINE) for cell in [row]
    ]
    assert len(named) > 5
    for name in named:
        first, *others = name.replace("`", "").split(", ")
        for path in [workplace / first, *((workplace / first).with_name(other) for other in others)]:
            assert path.is_file(), path
    assert (workplace / "outputs/mine/pictures/grid.png").is_file()
    assert (workplace / "outputs/classes/pictures/0001.png").is_file()
    for name in ("mine", "adapted"):
        assert (workplace / f"autoencoders/{name}/autoencoder/config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in FIRST and RUN[page]])
def test_the_commands_of_a_page_run(
    page: str, workplace: Path, run_page: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workplace"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    run_page(page, folder)


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(PAGES["README"].splitlines()) <= 200
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", PAGES["README"]):
        assert (ROOT / link).exists(), link


def test_the_readme_has_the_measured_figures() -> None:
    renew = runpy.run_path(str(ROOT / "scripts" / "renew_readme.py"))["renew"]
    assert renew(PAGES["README"]) == PAGES["README"], "python scripts/renew_readme.py renews it"


@pytest.mark.parametrize("page", PAGES)
def test_every_placeholder_becomes_a_measured_figure(page: str) -> None:
    filled = figures.fill_figures(PAGES[page])
    assert "{{" not in filled
    assert "<!-- table:" not in filled


@pytest.mark.parametrize("text", ["<!-- table: nothing -->", "{{ noto.nothing:.1f }}"])
def test_an_unknown_figure_is_an_error(text: str) -> None:
    with pytest.raises(KeyError, match="nothing"):
        figures.fill_figures(text)


def test_the_page_of_results_has_every_table_and_file() -> None:
    page = figures.make_page()
    for name, make_table in figures.TABLES.items():
        assert make_table() in page, name
    for link in re.findall(r"\]\((.*)\)", page):
        assert (ROOT / "docs" / link).is_file(), link


def test_the_shipped_autoencoder_is_small_and_as_good_as_measured() -> None:
    [training] = (ROOT / "ldm_train").rglob("pretrained/openmoji/training.json")
    measured = json.loads((ROOT / "docs" / "results" / "quickstart.json").read_text(encoding="utf-8"))
    held_out = json.loads(training.read_text(encoding="utf-8"))["held_out_psnr"]
    assert held_out == pytest.approx(measured["autoencoder_psnr"], abs=0.05)
    assert sum(path.stat().st_size for path in training.parent.iterdir()) < 8e6


def test_the_reference_explains_settings_by_their_constructor() -> None:
    docstring = "Do it.\n\nArgs:\n    a, b: two\n        lines.\n    c: one: more.\n\nRaises:\n    ValueError: never.\n"
    assert settings.read_arguments(docstring) == {"a": "two lines.", "b": "two lines.", "c": "one: more."}


def list_values(value: object, prefix: str = "") -> dict[str, object]:
    """Return the dotted names and values of settings in a YAML document, without `defaults` and Hydra's own."""
    if not isinstance(value, dict):
        return {prefix: value}
    inner = {f"{prefix}.{key}".lstrip("."): item for key, item in value.items() if key != "defaults" and key[0] != "_"}
    return {name: part for key, item in inner.items() for name, part in list_values(item, key).items()}


FILES = [path for path in sorted(settings.CONF.rglob("*.yaml")) if "@package" not in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_reference_lists_every_setting_with_its_default(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    parsed = parse_settings(text)
    defaults = {each.name: yaml.safe_load(each.default) for each in parsed.settings if each.default}
    assert defaults == list_values(yaml.safe_load(text))
    comments = [each.comment for each in [*parsed.settings, *parsed.choices]]
    assert all(comment in text for comment in comments)


def test_the_reference_of_a_command_is_its_schema() -> None:
    page = settings.make_command_page("encode")
    assert "| `image_size` | `64` |" in page
    assert "(../groups/autoencoder.md) | `general` |" in page
    assert "continued" not in page
    rows = [line.split(" | ") for line in settings.make_command_page("train").splitlines() if line.startswith("| `")]
    named = {row[0].removeprefix("| ").strip("`"): row for row in rows}
    assert named.keys() >= own_settings("train").keys()
    for name, info in own_settings("train").items():
        assert "." in name or not info.description or named[name][3].replace("\\", "") == info.description.strip()
    assert [named[name][4].strip(" |") for name in ("max_steps", "pictures.every", "seed")] == ["yes", "yes", ""]


def test_the_reference_of_a_group_has_types_and_what_a_continued_run_may_change() -> None:
    page = settings.make_group_page("ema", [settings.CONF / "ema" / "power.yaml"])
    [row] = [line.split(" | ") for line in page.splitlines() if line.startswith("| `snapshot_every`")]
    assert (row[1], row[2], row[4].strip(" |")) == ("`500`", "a whole number of at least 1", "yes")


def test_the_api_reference_lists_the_modules_of_its_rooms() -> None:
    pages = dict(api.make_pages())
    assert len(pages) == len(api.ROOMS)
    assert "::: ldm_train.samplers.ddim" in pages["reference/api/samplers.md"]
