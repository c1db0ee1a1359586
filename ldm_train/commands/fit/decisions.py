"""Decide all settings of a fit: measure the autoencoders that may do with `check`, then plan the time."""

from pathlib import Path
from statistics import median

from ldm_train.commands.fit import choosing, stage_commands
from ldm_train.commands.fit.choosing import Budget, DataFacts, Measured, Values
from ldm_train.commands.fit.fit_record import FitRecord
from ldm_train.commands.fit.stage_runner import StageRunner
from ldm_train.run_dir.reading import read_run
from ldm_train.settings.schema.using import FitSettings
from ldm_train.util.cpu_kind import multiplies_bfloat16
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
        self.base = {} if settings.base is None else stage_commands.read_base(settings.base)

    def choose(self) -> Values:
        """Return all values, from the record if they were chosen before.

        Raises:
            ValueError: `check` found problems, or there are too few minutes.
        """
        record = self.record
        if not record.values:
            name, values, measured = self.choose_autoencoder()
            values |= choosing.choose_held_out(self.facts)
            if not self.has_base:
                values |= {"text_encoder": "small", **choosing.choose_context(measured.tokens)}
            adapts = self.adapts(name, measured)
            budget = self.plan(
                values,
                step=choosing.estimate_step(measured, values),
                encoding=choosing.START_SECONDS + measured.encoding_seconds,
                adapts=adapts,
            )
            record.values = values | choosing.choose_length(budget.steps, budget.watches)
            self.note_plan(budget, measured, adapts=adapts)
            batch = values.get("batch_size", choosing.BATCH)
            assert isinstance(batch, int)
            if expected := choosing.expect_pictures(measured, budget, batch):
                note(expected)
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

    def first_values(self, side: int, *, pixels: bool) -> Values:
        """Return what follows from the pictures, the machine and the base."""
        settings = self.settings
        values = choosing.choose_view(self.facts, gpu=self.gpu, minutes=settings.minutes)
        if settings.crop is not None:
            values |= stage_commands.describe_part("crop", settings.crop)
        if settings.background is not None:
            values["background"] = settings.background
        recipe = choosing.choose_recipe(side, gpu=self.gpu, pixels=pixels, bfloat16=multiplies_bfloat16())
        if self.has_base:
            recipe = {name: recipe[name] for name in ("batch_size", "guidance.scale")} | self.base
        return values | recipe | {"image_size": side}

    def choose_autoencoder(self) -> tuple[str, Values, Measured]:
        """Return the autoencoder, what goes with it, and what `check` measured with it.

        A name is a shipped option, "own" for the user's, or "base" for the base's.
        """
        settings = self.settings
        side = settings.image_size or self.base.get("image_size")
        side = side or choosing.choose_view(self.facts, gpu=self.gpu, minutes=settings.minutes)["image_size"]
        assert isinstance(side, int)
        names = ["own"] if settings.autoencoder is not None else ["base"] if self.has_base else list_candidates(side)
        tried: dict[str, tuple[Values, Measured]] = {}
        for name in names:
            tried[name] = self.measure(name, side)
            if (psnr := tried[name][1].psnr) is None or psnr >= choosing.GOOD_PSNR:
                break
        best = max(tried, key=lambda name: tried[name][1].psnr or float("inf"))
        if best in stage_commands.list_shipped() and choosing.needs_pixels(tried[best][1], settings.minutes):
            best = "identity"
            tried[best] = self.measure(best, side)
        return best, *tried[best]

    def measure(self, name: str, side: int) -> tuple[Values, Measured]:
        """Run `check` with an autoencoder; return what goes with it, and what was measured.

        Raises:
            ValueError: `check` found problems, or could not try a step.
        """
        values = self.first_values(side, pixels=name == "identity")
        if name == "own":
            assert self.settings.autoencoder is not None
            values |= stage_commands.describe_part("autoencoder", self.settings.autoencoder)
        elif name != "base":
            values |= {"autoencoder": name}
        words = stage_commands.check_words(self.settings, values, self.out / "check" / name)
        if name in stage_commands.list_shipped():
            words += ["scale_check=false"]  # another one may do
        if not self.stage(f"{CHECK}{name}", words, quiet=True, needed=False):
            raise ValueError(f"`check` found what would go wrong; nothing was encoded. {self.out} can be removed")
        measured = Measured.of(self.read_check(name))
        psnr = measured.psnr
        note(f"autoencoder {name}: the pictures come back {'exactly' if psnr is None else f'with {psnr:.1f} dB'}")
        if measured.step_seconds is None:
            raise ValueError("a step of training could not be tried: this machine has too little free memory for it")
        return values, measured

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
        """Change the number of steps if the time that is left, and what the first ones took, allow other ones.

        Returns:
            Whether it was changed. If nothing is left, it stays, and the fit takes longer than it was asked to.
        """
        record = self.record
        speeds = read_run(self.out / "run").series.get("time/samples_per_second")
        batch, before = values.get("batch_size", choosing.BATCH), values["max_steps"]
        assert isinstance(batch, int)
        assert isinstance(before, int)
        step = float(str(record.planned["step"]))
        if speeds is not None and len(speeds.finite.values) > 1:
            step = batch / float(median(speeds.finite.values[1:]))  # the first one includes what happens once
        try:
            budget = self.plan(values, step=step)
        except ValueError:
            return False
        if not choosing.is_off(budget.steps, before):
            return False
        note(f"a step takes {step:.2g} s: {budget.steps:,} steps instead of {before:,}")
        record.values = {**record.values, **choosing.choose_length(budget.steps, budget.watches)}
        record.planned |= {"step": step, "train": budget.training}
        return True


def list_candidates(side: int) -> list[str]:
    """Return the options of autoencoders to try for pictures of this side."""
    return ["identity"] if side < 2 * choosing.STEP else stage_commands.list_shipped()
