"""Decide all settings of a fit: measure the autoencoders that may do with `check`, then plan the time."""

from pathlib import Path
from statistics import median

from ldm_train.commands.fit import choosing, stage_commands
from ldm_train.commands.fit.choosing import Budget, DataFacts, Measured, Values
from ldm_train.commands.fit.fit_record import FitRecord
from ldm_train.commands.fit.stage_runner import StageRunner
from ldm_train.run_dir.reading import read_run
from ldm_train.settings.schema.using import FitSettings
from ldm_train.util.messages import note, warn
from ldm_train.util.safe_json import Json, read_object

ADAPTING_COST = 9  # of an example's step of the autoencoder, in encodings
CHECK = "check "  # before the autoencoder's name in that of a stage


class Decisions:
    """What a fit decides, kept in its record, so that a fit that goes on decides nothing anew."""

    def __init__(
        self, settings: FitSettings, out: Path, record: FitRecord, facts: DataFacts, stage: StageRunner, *, gpu: bool
    ) -> None:
        self.settings = settings
        self.out = out
        self.record = record
        self.facts = facts
        self.stage = stage
        self.gpu = gpu
        self.has_base = settings.base is not None

    def choose(self) -> Values:
        """Return all values, from the record if they were chosen before.

        Raises:
            ValueError: `check` found problems, or there are too few minutes.
        """
        record = self.record
        if not record.values:
            first = self.first_values()
            measured = self.measure(first)
            name = max(measured, key=lambda name: measured[name].psnr or 0.0)
            values = {**first, **self.autoencoder_values(name), **choosing.choose_held_out(self.facts)}
            if not self.has_base:
                values |= {"text_encoder": "small", **choosing.choose_context(measured[name].tokens)}
            adapts = self.adapts(name, measured[name])
            budget = self.plan(
                values,
                step=choosing.estimate_step(measured[name], values),
                encoding=choosing.START_SECONDS + measured[name].encoding_seconds,
                adapts=adapts,
            )
            record.values = values | choosing.choose_length(budget.steps)
            self.note_plan(budget, measured[name], adapts=adapts)
            for line in self.list_warnings([name]):
                warn(line)
        for setting, value, rule in choosing.explain(record.values):
            note(f"  {setting}={value}  ({rule})")
        return record.values

    def plan(self, values: Values, *, step: float, encoding: float = 0.0, adapts: bool = False) -> Budget:
        left = self.settings.minutes * 60 - self.record.seconds
        return choosing.plan_budget(
            left, self.facts, values, step=step, encoding=encoding, adapts=adapts, base=self.has_base
        )

    def first_values(self) -> Values:
        """Return what follows from the pictures, the machine and the base."""
        settings = self.settings
        base = {} if settings.base is None else stage_commands.read_base(settings.base)
        values = choosing.choose_view(self.facts, gpu=self.gpu, minutes=settings.minutes)
        side = settings.image_size or base.get("image_size") or values["image_size"]
        assert isinstance(side, int)
        if settings.crop is not None:
            values |= stage_commands.describe_part("crop", settings.crop)
        if settings.background is not None:
            values["background"] = settings.background
        recipe = choosing.choose_recipe(side, gpu=self.gpu, pixels=self.candidates(side) == ["identity"])
        if base:
            recipe = {name: recipe[name] for name in ("batch_size", "guidance.scale")} | base
        return values | recipe | {"image_size": side}

    def candidates(self, side: int) -> list[str]:
        """Return the options of autoencoders to try; "own" is the user's, "base" the base's."""
        if self.settings.autoencoder is not None:
            return ["own"]
        if self.has_base:
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
            ValueError: `check` found problems, or could not try a step.
        """
        side, found = first["image_size"], dict[str, Measured]()
        assert isinstance(side, int)
        for name in self.candidates(side):
            words = stage_commands.check_words(
                self.settings, {**first, **self.autoencoder_values(name)}, self.out / "check" / name
            )
            if not self.stage(f"{CHECK}{name}", words, quiet=True, needed=False):
                raise ValueError(f"`check` found what would go wrong; nothing was encoded. {self.out} can be removed")
            found[name] = Measured.of(self.read_check(name))
            psnr = found[name].psnr
            note(f"autoencoder {name}: the pictures come back {'exactly' if psnr is None else f'with {psnr:.1f} dB'}")
            if psnr is None or psnr >= choosing.GOOD_PSNR:
                break
        if any(one.step_seconds is None for one in found.values()):
            raise ValueError("a step of training could not be tried: this machine has too little free memory for it")
        return found

    def read_check(self, name: str) -> dict[str, Json]:
        return read_object(self.out / "check" / name / "check.json")

    def list_warnings(self, names: list[str] | None = None) -> list[str]:
        """Return the warnings of checks, each once; of all if no names are given."""
        stages = [name.removeprefix(CHECK) for name in self.record.stages if name.startswith(CHECK)]
        lists = [self.read_check(name).get("warnings") for name in names or stages]
        return list(dict.fromkeys(str(line) for lines in lists if isinstance(lines, list) for line in lines))

    def adapts(self, name: str, measured: Measured) -> bool:
        """Return whether the autoencoder is trained further."""
        return name in stage_commands.list_shipped() and choosing.needs_adapting(measured, self.settings.minutes)

    def note_plan(self, budget: Budget, measured: Measured, *, adapts: bool) -> None:
        """Record the seconds that each stage is planned to take."""
        planned: dict[str, Json] = {"step": budget.step, "encode": budget.encoding, "train": budget.training}
        planned |= dict.fromkeys(("sample", "evaluate", "report"), budget.ending / 3)
        if adapts:
            step = ADAPTING_COST * choosing.ADAPTING_BATCH * measured.encoding_seconds / self.facts.pictures
            planned |= {"adapt": budget.adapting, "adapt steps": max(10, int(budget.adapting / step))}
        self.record.planned = planned
        self.record.write(self.out)

    def correct(self, values: Values) -> bool:
        """Change the number of steps if the first ones took other time than planned; return whether it was changed."""
        record = self.record
        speeds = read_run(self.out / "run").series.get("time/samples_per_second")
        if speeds is None or len(speeds.finite.values) < 2:
            return False
        batch, planned = values.get("batch_size", choosing.BATCH), float(str(record.planned["step"]))
        assert isinstance(batch, int)
        step = batch / median(speeds.finite.values[1:])
        if not choosing.is_off(step, planned):
            return False
        budget = self.plan(values, step=step)
        before = record.values["max_steps"]
        note(f"a step takes {step:.2g} s and not {planned:.2g} s: {budget.steps:,} steps instead of {before:,}")
        record.values = {**record.values, **choosing.choose_length(budget.steps)}
        record.planned |= {"step": step, "train": budget.training}
        return True
