"""`ldm-train fit`: from a folder of captioned pictures to a trained model, its pictures and a page, in some minutes.

Stages, each an ordinary command in a process of its own: `check` with each autoencoder that may do, `train_autoencoder` if
none does, `encode`, `train`, `sample`, `evaluate`, `report`. `decisions.py` decides their settings by the rules of
`choosing.py`; `stage_commands.py` writes the command lines, `stage_runner.py` runs them, `result_page.py` shows the result.
"""

import shlex
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ldm_train.assembly.child_processes import Jobs
from ldm_train.assembly.pixel_formats import refuse_rgb_command
from ldm_train.assembly.prompts import parse_prompts
from ldm_train.assembly.source_survey import check_background, survey_source
from ldm_train.commands.fit import stage_commands
from ldm_train.commands.fit.choosing import FIRST_SECONDS, START_SECONDS, Values
from ldm_train.commands.fit.decisions import Decisions
from ldm_train.commands.fit.fit_record import FIRST_STEPS, FitRecord, list_commands, open_record
from ldm_train.commands.fit.last_prompts import write_prompts
from ldm_train.commands.fit.picture_facts import collect_facts
from ldm_train.commands.fit.result_page import PAGE, build_result_page, list_results
from ldm_train.commands.fit.stage_runner import StageRunner, StageStopError
from ldm_train.data.scan.survey import Survey
from ldm_train.reports.page import is_page, write_page
from ldm_train.settings.composition import as_yaml
from ldm_train.settings.schema.using import FitSettings
from ldm_train.training.run_files import INTERRUPTED
from ldm_train.util.files import atomic_write, make_folder
from ldm_train.util.locks import hold_lock
from ldm_train.util.messages import note
from ldm_train.util.ownership import LOCK, check_file

CONFIG, PROMPTS, REPORT, COMMANDS, PICTURE = "config.yaml", "prompts.json", "report.html", "commands.sh", "pictures.png"
LONG = 180  # seconds of training, from which on its first steps correct its length
LATE = 1.25  # times the time that training was planned to take: then it stops, wherever it is
SHORTEST_LIMIT = 60.0  # seconds


def run(settings: FitSettings) -> int:
    """Go from the source to the last page; return 0, or INTERRUPTED if it was stopped before.

    Raises:
        ValueError: the folder is something else, or the source or a command's settings cannot be used.
    """
    refuse_rgb_command(settings, "fit")
    out = Path(settings.out)
    record = open_record(settings, out)
    for name in (PAGE, REPORT):
        check_file(out / name, is_page, setting="out")
    if settings.background is not None:
        check_background(settings)
    if settings.prompts is not None:
        parse_prompts(settings.prompts)
    make_folder(out)
    with hold_lock(out / LOCK, busy=f"another process is working in out={out}; wait for it, or choose another out"):
        survey = survey_source(settings)
        record.facts = asdict(collect_facts(survey))
        record.write(out)
        try:
            with Jobs() as jobs:
                run_stages(settings, out, record, survey, StageRunner(out, record, jobs, Console(soft_wrap=True)))
        except StageStopError as stop:
            if stop.code != INTERRUPTED:
                raise ValueError(str(stop)) from stop
            note(f"{stop}; what is done is kept in {out}, and the same command goes on (exit code {stop.code})")
            return stop.code
    return 0


def run_stages(settings: FitSettings, out: Path, record: FitRecord, survey: Survey, stage: StageRunner) -> None:
    """Decide, run the commands that are not done, and write the page."""
    facts = collect_facts(survey)
    note(f"{facts.pictures:,} pictures, {facts.captions:,} different captions; {settings.minutes:g} minutes for everything")
    decisions = Decisions(settings, out, record, facts, stage, gpu=has_gpu())
    values = decisions.choose()
    stage.plan(adapts="adapt" in record.planned, first_steps=is_long(record))
    if "adapt" in record.planned:
        values = adapt(settings, values, out, record, stage)
    stage("encode", stage_commands.encode_words(settings, values, out / "cache"))
    train(decisions, values, out, stage)
    share = values.get("held_out")
    prompts = write_prompts(
        settings.prompts, survey, float(share) if isinstance(share, int | float) else None, out / PROMPTS
    )
    stage("sample", stage_commands.sample_words(out / "run", out / PROMPTS, out / "pictures"))
    atomic_write(out / PICTURE, (out / "pictures" / "grid.png").read_bytes())
    stage("evaluate", stage_commands.evaluate_words(out / "run"), quiet=True, needed=False)
    stage("report", stage_commands.report_words(out / "run", out / REPORT), quiet=True, needed=False)
    write_commands(out, record)
    write_page(build_result_page(out, record, prompts, decisions.list_warnings()), out / PAGE)
    for line in list_results(out, record):
        note(line)


def adapt(settings: FitSettings, values: Values, out: Path, record: FitRecord, stage: StageRunner) -> Values:
    """Train the autoencoder further, and return the values with the new one."""
    folder, steps = out / "autoencoder", record.planned["adapt steps"]
    assert isinstance(steps, int)
    stage("adapt", stage_commands.adapt_words(settings, values, steps, folder))
    return values | {"autoencoder": "pretrained", "autoencoder.weights": str(folder / "autoencoder")}


def is_long(record: FitRecord) -> bool:
    """Return whether the training is long enough to correct its length by its first steps."""
    return FIRST_STEPS in record.stages or float(str(record.planned["train"])) > LONG


def train(decisions: Decisions, values: Values, out: Path, stage: StageRunner) -> None:
    """Write the config of the training, and train: first steps, which may change the number of all, and the rest."""
    config, record = out / CONFIG, decisions.record
    if not config.is_file():
        write_config(decisions, values, out)
    if is_long(record):
        stage(FIRST_STEPS, stage_commands.train_words(config, most_seconds=2 * START_SECONDS + FIRST_SECONDS), quiet=True)
        if "corrected" not in record.planned:
            corrected = decisions.correct(values)
            write_config(decisions, {**values, **record.values}, out)
            record.planned["corrected"] = corrected
            record.write(out)
    restart = record.planned.get("corrected") is True and "train" not in record.stages
    most = max(SHORTEST_LIMIT, LATE * float(str(record.planned["train"])))
    stage("train", stage_commands.train_words(config, most_seconds=most, restart=restart))


def write_config(decisions: Decisions, values: Values, out: Path) -> None:
    settings = stage_commands.train_config(decisions.settings, values, out / "cache", out / "run")
    atomic_write(out / CONFIG, as_yaml(settings))
    write_commands(out, decisions.record)


def write_commands(out: Path, record: FitRecord) -> None:
    """Write the commands so far as a script."""
    lines = [shlex.join(["ldm-train", *words]) for words in list_commands(record)]
    head = ["#!/usr/bin/env bash", "# What this fit ran; change any of it, and run it again.", "set -e"]
    atomic_write(out / COMMANDS, "\n".join([*head, shlex.join(["cd", str(Path.cwd())]), *lines]) + "\n")


def has_gpu() -> bool:
    """Return whether there is a GPU of NVIDIA's or AMD's; torch is only asked where a driver is there."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd")):
        return False
    import torch

    return torch.cuda.is_available()
