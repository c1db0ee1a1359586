"""The last page of a fit: what came of it, what was chosen and why, and the commands that it amounts to."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ldm_train.commands.fit.choosing import BATCH, explain
from ldm_train.commands.fit.fit_record import FIRST_STEPS, FitRecord, list_commands
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.reports.axes import format_number
from ldm_train.reports.charts import Bars
from ldm_train.reports.page import Page, PageSection, Verdict
from ldm_train.reports.page_blocks import DataTable, PageBlock, Paragraphs, ShellCommand, Thumbnail, Thumbnails
from ldm_train.util.safe_json import Json, read_object
from ldm_train.util.text import as_word

PAGE = "fit.html"
HEADLINES = ("taught_retrieval_at_1", "retrieval_at_1", "validation_loss", "autoencoder_psnr", "psnr")
Prompts = Sequence[tuple[str, Scanned | None]]


def read_numbers(out: Path) -> dict[str, float]:
    """Return what `evaluate` measured, without counts and settings; nothing if it did not."""
    try:
        content = read_object(out / "run" / "metrics.json")
    except (OSError, ValueError):
        return {}
    return {name: float(v) for name, v in content.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def build_result_page(out: Path, record: FitRecord, prompts: Prompts, warnings: Sequence[str]) -> Page:
    """Return the page."""
    numbers = read_numbers(out)
    table = DataTable(["measured", "value"], [[n, format_number(v)] for n, v in numbers.items()], ["value"], max_rows=12)
    chosen = DataTable(["setting", "value", "rule"], [list(row) for row in explain(record.values)], max_rows=40)
    minutes = [(name, stage.seconds / 60, f"{stage.seconds / 60:.1f} min") for name, stage in record.stages.items()]
    commands: list[PageBlock] = [ShellCommand(shlex.join(["ldm-train", *words])) for words in list_commands(record)]
    return Page(
        f"Fit: {survey_name(record)}",
        Verdict(ok=None, text=headline(numbers), reasons=list_problems(record)),
        list_summary(record, numbers),
        [
            PageSection("Pictures", show_pictures(out, prompts), describe_pictures(prompts)),
            PageSection("Warnings of check", [Paragraphs(list(warnings))]),
            PageSection("Measured", [table], "By `ldm-train evaluate`; report.html has the curves."),
            PageSection("Chosen", [chosen], "By these rules; config.yaml holds all settings of the training."),
            PageSection("Minutes", [Bars(minutes, unit="minutes")]),
            PageSection("Commands", commands, "What was run, also in commands.sh. Change any of it, and run it again."),
            PageSection("Further", [Paragraphs(advise(out, record))]),
        ],
    )


def survey_name(record: FitRecord) -> str:
    source = record.request.get("source")
    return str(source.get("path", "")) if isinstance(source, dict) else ""


def headline(numbers: dict[str, float]) -> str:
    """Return a sentence on how much of what it was taught the model can draw, as far as it was measured."""
    if (taught := numbers.get("taught_retrieval_at_1")) is not None:
        return f"Of the captions that it was trained on, {taught:.0%} are recognised in the pictures that it draws of them"
    return "Trained: compare its pictures with yours"


def list_problems(record: FitRecord) -> list[str]:
    return [f"{name}: {s.ending}" for name, s in record.stages.items() if s.ending != "done" and name != FIRST_STEPS]


def list_summary(record: FitRecord, numbers: dict[str, float]) -> list[tuple[str, str]]:
    """Return the most important figures with their names."""
    facts, values = record.facts, record.values
    steps, batch = values.get("max_steps"), values.get("batch_size", BATCH)
    rows = [("pictures", f"{facts.get('pictures'):,}"), ("different captions", f"{facts.get('captions'):,}")]
    rows += [("side", f"{values.get('image_size')} pixels"), ("minutes", f"{record.seconds / 60:.1f}")]
    if isinstance(steps, int) and isinstance(batch, int):
        pictures = facts.get("pictures")
        assert isinstance(pictures, int)
        rows += [("steps", f"{steps:,}"), ("examples of each picture", f"{steps * batch / pictures:,.0f}")]
    return rows + [(name.replace("_", " "), format_number(numbers[name])) for name in HEADLINES if name in numbers]


def describe_pictures(prompts: Prompts) -> str:
    if any(seen is not None for _, seen in prompts):
        return "Pairs: a picture that was trained on, then what the model draws from its caption."
    return "What the model draws of your prompts."


def show_pictures(out: Path, prompts: Prompts) -> list[PageBlock]:
    """Return each trained picture next to the one that was drawn of its caption."""
    thumbnails = []
    for number, (caption, seen) in enumerate(prompts):
        if seen is not None:
            thumbnails.append(Thumbnail(decode(seen), caption, "yours"))
        thumbnails.append(Thumbnail(open_drawn(out / "pictures" / f"{number:04d}.png"), caption, "drawn"))
    return [Thumbnails(thumbnails)]


def decode(seen: Scanned) -> Image.Image | None:
    try:
        return None if seen.item.picture is None else decode_picture(seen.item.picture.read())
    except (*DECODE_ERRORS, OSError):
        return None


def open_drawn(path: Path) -> Image.Image | None:
    """Return a drawn picture, enlarged without smoothing to be looked at."""
    try:
        with Image.open(path) as picture:
            factor = max(1, 128 // max(picture.size))
            return picture.convert("RGB").resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    except OSError:
        return None


def advise(out: Path, record: FitRecord) -> list[str]:
    """Return what to do next."""
    steps: Json = record.values.get("max_steps")
    assert isinstance(steps, int)
    longer = shlex.join(["ldm-train", "train", f"config={out / 'config.yaml'}", f"max_steps={2 * steps}"])
    return [
        f"More minutes: {longer} goes on from where it ended, to twice the steps. Then draw and evaluate again with the "
        "commands above.",
        "Other pictures: ldm-train sample with prompts of your own, see the command above. What the captions never named "
        "cannot be asked for.",
        "Several pictures of a subject, and captions that say what differs between pictures, help more than minutes.",
    ]


def list_results(out: Path, record: FitRecord) -> list[str]:
    """Return the lines that end a fit on the terminal."""
    numbers = read_numbers(out)
    measured = ", ".join(f"{name} {format_number(numbers[name])}" for name in HEADLINES if name in numbers)
    return [
        f"done in {record.seconds / 60:.1f} minutes: {headline(numbers)}",
        *([measured] if measured else []),
        *list_problems(record),
        f"  pictures   {out / 'pictures.png'}   (captions that were trained, or your prompts)",
        f"  page       {out / PAGE}   (yours next to drawn, what was chosen and why, the commands)",
        f"  report     {out / 'report.html'}   (curves and pictures over the training)",
        f"  commands   {out / 'commands.sh'}   (what was run, to change and run again)",
        f"draw more:  ldm-train sample {as_word('run_dir', out / 'run')} 'prompts=[\"a fox\"]' out=…",
    ]
