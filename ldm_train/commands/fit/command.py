"""`ldm-train fit`: from a folder of captioned pictures to a trained model, its pictures and a page, in some minutes.

Stages, each an ordinary command in a process of its own: `check` with each autoencoder that may do, `train_autoencoder` if
none does, `encode`, `train`, `sample`, `evaluate`, `report`. In between, `choosing` chooses settings from what was found.
"""

import shlex
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from ldm_train.assembly.child_processes import Jobs
from ldm_train.assembly.source_survey import check_background, survey_source
from ldm_train.commands.fit import choosing, stage_commands
from ldm_train.commands.fit.choosing import Budget, Measured, Values
from ldm_train.commands.fit.fit_record import FitRecord, open_record
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
from ldm_train.util.messages import warn
from ldm_train.util.ownership import LOCK, check_file
from ldm_train.util.safe_json import Json, read_object

CONFIG, PROMPTS, REPORT, COMMANDS, PICTURE = "config.yaml", "prompts.txt", "report.html", "commands.sh", "pictures.png"
LATE = 1.25  # times the time that training was planned to take: then it stops, wherever it is
ADAPTING_COST = 9  # of an example's step of the autoencoder, in encodings


def run(settings: FitSettings) -> int:
    """Go from the source to the last page; return 0, or INTERRUPTED if it was stopped before.

    Raises:
        ValueError: the folder is something else, or the source or a command's settings cannot be used.
    """
    out = Path(settings.out)
    record = open_record(settings, out)
    for name in (PAGE, REPORT):
        check_file(out / name, is_page, setting="out")
    if settings.background is not None:
        check_background(settings)
    make_folder(out)
    with hold_lock(out / LOCK, busy=f"another process is working in out={out}; wait for it, or choose another out"):
        survey = survey_source(settings)
        record.write(out)
        console = Console(soft_wrap=True)
        try:
            with Jobs() as jobs:
                Fit(settings, out, record, survey, StageRunner(out, record, jobs, console, 6), console).run()
        except StageStopError as stop:
            if stop.code != INTERRUPTED:
                raise ValueError(str(stop)) from stop
            console.print(f"{stop}; what is done is kept in {out}, and the same command goes on (exit code {stop.code})")
            return stop.code
    return 0


class Fit:
    """The stages of a fit in order; each is passed over if the record says that it is done."""

    def __init__(
        self,
        settings: FitSettings,
        out: Path,
        record: FitRecord,
        survey: Survey,
        stage: StageRunner,
        console: Console,
    ) -> None:
        self.settings = settings
        self.out = out
        self.record = record
        self.survey = survey
        self.stage = stage
        self.console = console
        self.facts = collect_facts(survey)
        self.gpu = has_gpu()

    def run(self) -> None:
        """Choose, run the commands, and write the page."""
        out, record = self.out, self.record
        record.facts = asdict(self.facts)
        counts = f"{self.facts.pictures:,} pictures with {self.facts.captions:,} different captions"
        self.console.print(f"{counts}; {self.settings.minutes:g} minutes for everything", highlight=False)
        values = self.choose()
        cache, run_dir = out / "cache", out / "run"
        self.stage("encode", stage_commands.encode_words(self.settings, values, cache))
        self.train(values, cache, run_dir)
        prompts = write_prompts(self.settings.prompts, self.survey, self.held_out_share(values), out / PROMPTS)
        self.stage("sample", stage_commands.sample_words(run_dir, out / PROMPTS, out / "pictures"))
        atomic_write(out / PICTURE, (out / "pictures" / "grid.png").read_bytes())
        self.stage("evaluate", stage_commands.evaluate_words(run_dir), quiet=True, needed=False)
        self.stage("report", stage_commands.report_words(run_dir, out / REPORT), quiet=True, needed=False)
        self.write_commands()
        page = build_result_page(out, record, prompts, self.list_warnings(self.checks()))
        write_page(page, out / PAGE)
        for line in list_results(out, record):
            self.console.print(line, markup=False, highlight=False)

    def choose(self) -> Values:
        """Return all values, from the record if they were chosen before."""
        record, settings = self.record, self.settings
        if not record.values:
            first = self.first_values()
            measured = self.measure(first)
            name = max(measured, key=lambda name: measured[name].psnr or 0.0)
            values = {**first, **self.autoencoder_values(name), **choosing.choose_context(measured[name].tokens)}
            if settings.base is None and "text_encoder.context_length" in values:
                values = {"text_encoder": "small", **values}
            values |= choosing.choose_held_out(self.facts)
            adapts = self.adapts(name, measured[name])
            left = settings.minutes * 60 - record.seconds
            budget = choosing.plan_budget(
                left, self.facts, measured[name], values, adapts=adapts, base=settings.base is not None
            )
            record.values = values | choosing.choose_length(budget.steps)
            self.note_plan(budget, measured[name], adapts=adapts)
            for line in self.list_warnings([name]):
                warn(line)
        values = record.values
        for name, value, rule in choosing.explain(values):
            self.console.print(f"  {name}={value}  ({rule})", markup=False, highlight=False)
        self.stage.count = 5 + len(self.checks()) + ("adapt" in record.planned)
        return self.adapt(values) if "adapt" in record.planned else values

    def first_values(self) -> Values:
        """Return what follows from the pictures and the machine."""
        settings, gpu = self.settings, self.gpu
        base = {} if settings.base is None else stage_commands.read_base(settings.base)
        values = choosing.choose_view(self.facts, gpu=gpu, minutes=settings.minutes)
        side = settings.image_size or base.get("image_size") or values["image_size"]
        assert isinstance(side, int)
        values["image_size"] = side
        if settings.crop is not None:
            values |= stage_commands.describe_part("crop", settings.crop)
        if settings.background is not None:
            values["background"] = settings.background
        recipe = choosing.choose_recipe(side, gpu=gpu, pixels=self.candidates(side) == ["identity"])
        if base:
            recipe = {name: recipe[name] for name in ("batch_size", "guidance.scale")} | base
        return values | recipe | {"image_size": side}

    def candidates(self, side: int) -> list[str]:
        """Return the options of autoencoders to try."""
        if self.settings.autoencoder is not None:
            return ["own"]
        if self.settings.base is not None:
            return ["base"]
        return ["identity"] if side < 2 * choosing.STEP else stage_commands.list_shipped()

    def autoencoder_values(self, name: str) -> Values:
        if name == "own":
            assert self.settings.autoencoder is not None
            return stage_commands.describe_part("autoencoder", self.settings.autoencoder)
        return {} if name == "base" else {"autoencoder": name}

    def measure(self, first: Values) -> dict[str, Measured]:
        """Run `check` with the autoencoders that may do, until one gives the pictures back well.

        Raises:
            ValueError: `check` found problems.
        """
        side, found = first["image_size"], dict[str, Measured]()
        assert isinstance(side, int)
        for name in self.candidates(side):
            values, folder = {**first, **self.autoencoder_values(name)}, self.out / "check" / name
            stage = f"check {name}"
            if not self.stage(stage, stage_commands.check_words(self.settings, values, folder), quiet=True, needed=False):
                raise ValueError(f"`check` found what would go wrong; nothing was encoded. {self.out} can be removed")
            found[name] = Measured.of(self.read_check(name))
            psnr = found[name].psnr
            self.console.print(f"autoencoder {name}: {'exact' if psnr is None else f'{psnr:.1f} dB'}", highlight=False)
            if psnr is None or psnr >= choosing.GOOD_PSNR:
                break
        return found

    def read_check(self, name: str) -> dict[str, Json]:
        return read_object(self.out / "check" / name / "check.json")

    def list_warnings(self, names: list[str]) -> list[str]:
        """Return the warnings of checks, each once."""
        lists = [self.read_check(name).get("warnings") for name in names]
        return list(dict.fromkeys(str(line) for lines in lists if isinstance(lines, list) for line in lines))

    def checks(self) -> list[str]:
        return [name.removeprefix("check ") for name in self.record.stages if name.startswith("check ")]

    def adapts(self, name: str, measured: Measured) -> bool:
        """Return whether the autoencoder is trained further."""
        shipped = name in stage_commands.list_shipped() and stage_commands.can_adapt()
        return shipped and choosing.needs_adapting(measured, self.settings.minutes)

    def note_plan(self, budget: Budget, measured: Measured, *, adapts: bool) -> None:
        """Record the seconds that each stage is planned to take."""
        planned: dict[str, Json] = {"encode": budget.encoding, "train": budget.training}
        planned |= dict.fromkeys(("sample", "evaluate", "report"), budget.ending / 3)
        if adapts:
            step = ADAPTING_COST * choosing.ADAPTING_BATCH * measured.encoding_seconds / self.facts.pictures
            planned |= {"adapt": budget.adapting, "adapt steps": max(10, int(budget.adapting / step))}
        self.record.planned = planned
        self.record.write(self.out)

    def adapt(self, values: Values) -> Values:
        """Train the autoencoder further, and return the values with the new one."""
        folder, steps = self.out / "autoencoder", self.record.planned["adapt steps"]
        assert isinstance(steps, int)
        self.stage("adapt", stage_commands.adapt_words(self.settings, values, steps, folder))
        return values | {"autoencoder": "pretrained", "autoencoder.weights": str(folder / "autoencoder")}

    def train(self, values: Values, cache: Path, run_dir: Path) -> None:
        """Write the config of the training, and train."""
        config = self.out / CONFIG
        if not config.is_file():
            atomic_write(config, as_yaml(stage_commands.train_config(self.settings, values, cache, run_dir)))
        planned = self.record.planned["train"]
        assert isinstance(planned, int | float)
        self.write_commands()
        self.stage("train", stage_commands.train_words(config, most_seconds=max(60.0, LATE * planned)))

    def held_out_share(self, values: Values) -> float | None:
        """Return the share that training holds out, None if the source names the pictures."""
        share = values.get("held_out")
        return float(share) if isinstance(share, int | float) else None

    def write_commands(self) -> None:
        """Write the commands so far as a script."""
        lines = [shlex.join(["ldm-train", *stage.words]) for stage in self.record.stages.values()]
        head = ["#!/usr/bin/env bash", "# What this fit ran; change any of it, and run it again.", "set -e"]
        atomic_write(self.out / COMMANDS, "\n".join([*head, shlex.join(["cd", str(Path.cwd())]), *lines]) + "\n")


def has_gpu() -> bool:
    """Return whether there is a GPU of NVIDIA's or AMD's; torch is only asked where a driver is there."""
    if not any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/kfd")):
        return False
    import torch

    return torch.cuda.is_available()
