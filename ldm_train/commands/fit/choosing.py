"""Choose settings from facts of the data, the machine and the minutes: pure functions, with a rule for each setting.

`RULES` says every rule in words: the last page prints them next to the values, the manual as a table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import quantiles

from ldm_train.assembly.learning_time import describe_expectation
from ldm_train.data.pictures.crops import Size
from ldm_train.util.safe_json import Json

CPU_SIDE, GPU_SIDE = 64, 256
STEP = 16  # of sides: factor 4 of the shipped autoencoders, 2 of the patches, 2 of the network's levels
SMALL_SHARE = 0.1  # of the pictures that may be smaller than the side, and are enlarged
CUT_LITTLE = 0.05  # of a picture's area, on average; less is not worth a smaller picture
CUT_MUCH = 0.25
GOOD_PSNR, POOR_PSNR, BAD_PSNR = 30.0, 27.0, 18.0  # dB
ADAPTING_SHARE, ADAPTING_MINUTES = 0.15, 15  # of all minutes; and the fewest of these
BATCH, GPU_BATCH, ADAPTING_BATCH = 24, 64, 16
LR, GPU_LR, BASE_LR = 1e-3, 3e-4, 3e-4
CPU_HALF = "bf16-mixed"
HELD_OUT, HELD_OUT_SHARES = 24, (0.05, 0.1)
FEWEST_TO_HOLD_OUT = 60
SMALL_CONTEXT, LARGEST_CONTEXT = 16, 77  # tokens
CONTEXT_COST = 0.5 / 61  # of a step of the small network, for each further token
AVERAGED = 2.4  # a step's share of the average is this over all steps, as in the quick start
WARMUP_STEPS = 100
BASE_EXAMPLES = 1500  # of each picture, when a base is fine-tuned
OVERHEAD = 1.15  # of a step within a run to one that is tried by itself
START_SECONDS = 8.0  # of a command, to import what it needs
DRAWN = 16  # prompts of the last pictures
WATCHES = 6  # times that a run validates, draws and measures
WATCHED = 60  # pictures of one of these, about
WATCHING_SHARE = 0.1  # of the training's time, at most, if it watches itself more than once
MEASURED_PICTURES = 32  # of a measurement in the run
EVALUATED = 120  # pictures that `evaluate` draws, about
FEWEST_STEPS = 10
FIRST_SECONDS = 40.0  # of the first steps, by which the number of all is corrected
TOLERANCE = 0.15
SAMPLER_PASSES = 40  # of the network for a picture: 20 steps, each with and without the caption
GUIDANCE = 1.5


@dataclass(frozen=True)
class DataFacts:
    """What is known of the pictures before any is encoded.

    Args:
        pictures, captions: number of pictures that can be used, and of different captions.
        shorter, longer: the tenth part of the pictures has a shorter (longer) side below this, pixels.
        cut: share of a picture's area that a square in its centre leaves out, on average.
        plain: share of the pictures with transparent or single-coloured surroundings.
        surroundings: their colour, if most of these have the same, else white.
        named: whether the source itself names held-out pictures.
    """

    pictures: int
    captions: int
    shorter: int
    longer: int
    cut: float
    plain: float
    surroundings: str
    named: bool


@dataclass(frozen=True)
class Measured:
    """What `check` measured with one autoencoder.

    Args:
        psnr: of reconstructions, dB; None for pixels.
        tokens: of the longest caption.
        step_seconds: of an optimizer step; None if none could be tried.
        encoding_seconds: of all pictures.
        recognised, sharp: examples after which the pictures of trained captions are expected to be so; None if unknown.
    """

    psnr: float | None
    tokens: int
    step_seconds: float | None
    encoding_seconds: float
    recognised: int | None = None
    sharp: int | None = None

    @classmethod
    def of(cls, report: Mapping[str, Json]) -> "Measured":
        """Read the content of a `check.json`."""
        names = ("latents", "captions", "measured", "learning")
        latents, captions, measured, learning = (_section(report, name) for name in names)
        recognised, sharp = (_number(learning.get(name)) for name in ("recognised", "sharp"))
        return cls(
            _number(latents.get("psnr")),
            int(_number(captions.get("longest")) or 0),
            _number(measured.get("step_seconds")),
            _number(measured.get("encoding_seconds")) or 0.0,
            None if recognised is None else int(recognised),
            None if sharp is None else int(sharp),
        )


def _section(report: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    found = report.get(name)
    return found if isinstance(found, dict) else {}


def _number(value: Json | None) -> float | None:
    return float(value) if isinstance(value, int | float) else None


Values = dict[str, Json]  # settings by their full names, options of groups first


def summarise_sizes(sizes: list[Size]) -> tuple[int, int, float]:
    """Return `shorter`, `longer` and `cut` of pictures of these (height, width)."""
    cut = sum(1 - min(size) / max(size) for size in sizes) / len(sizes)
    return tenth([min(size) for size in sizes]), tenth([max(size) for size in sizes]), cut


def tenth(values: list[int]) -> int:
    """Return the value that the tenth part is below."""
    return int(quantiles(values, n=round(1 / SMALL_SHARE), method="inclusive")[0]) if len(values) > 1 else values[0]


def choose_view(facts: DataFacts, *, gpu: bool, minutes: float) -> Values:
    """Return side, crop and background."""
    whole = facts.cut > CUT_LITTLE and (facts.plain >= 0.5 or facts.cut > CUT_MUCH)
    wanted = GPU_SIDE if gpu and minutes >= 10 else 128 if gpu else CPU_SIDE
    step = 2 * STEP if gpu else STEP  # a further level of the network
    side = max(step, min(wanted, facts.longer if whole else facts.shorter) // step * step)
    values: Values = {"crop": "fit" if whole else "centre", "image_size": side}
    return values | ({"background": facts.surroundings} if whole and facts.surroundings != "white" else {})


def choose_recipe(side: int, *, gpu: bool, pixels: bool, bfloat16: bool = False) -> Values:
    """Return network, prediction, schedule and what goes with them.

    Args:
        bfloat16: whether the CPU multiplies bfloat16 faster than float32.
    """
    values: Values = {"network": "unet_base" if gpu else "unet_small", "schedule": "cosine", "prediction": "velocity"}
    values["network.patch_size"] = (4 if pixels and side >= 2 * STEP else 2) if pixels or not gpu or side > 64 else 1
    if bfloat16 and not gpu:
        values["trainer.precision"] = CPU_HALF
    return values | {
        "batch_size": GPU_BATCH if gpu else BATCH,
        "optimizer.lr": GPU_LR if gpu else LR,
        "guidance.scale": GUIDANCE,
    }


def needs_adapting(measured: Measured, minutes: float) -> bool:
    """Return whether to train the autoencoder further on these pictures."""
    return measured.psnr is not None and measured.psnr < POOR_PSNR and minutes >= ADAPTING_MINUTES


def needs_pixels(measured: Measured, minutes: float) -> bool:
    """Return whether pixels are better than the best autoencoder, and than training it further."""
    return measured.psnr is not None and measured.psnr < BAD_PSNR and not needs_adapting(measured, minutes)


def choose_held_out(facts: DataFacts) -> Values:
    """Return the share of held-out pictures; nothing if the source names them."""
    if facts.named:
        return {}
    low, high = HELD_OUT_SHARES
    share = 0.0 if facts.pictures < FEWEST_TO_HOLD_OUT else round(min(high, max(low, HELD_OUT / facts.pictures)), 3)
    return {"held_out": share}


def choose_context(tokens: int) -> Values:
    """Return how many tokens of a caption are read."""
    length = min(LARGEST_CONTEXT, max(SMALL_CONTEXT, -(-tokens // 8) * 8))
    return {} if length == SMALL_CONTEXT else {"text_encoder.context_length": length}


@dataclass(frozen=True)
class Budget:
    """Seconds of what is left to do, and the steps that they leave for training.

    Args:
        step: seconds of an optimizer step within a run.
        encoding, adapting, ending: of encoding, of training the autoencoder, and of drawing, evaluating and reporting.
        steps: of the training.
        watches: times that the training validates, draws and measures.
    """

    step: float
    encoding: float
    adapting: float
    ending: float
    steps: int
    watches: int

    @property
    def training(self) -> float:
        return START_SECONDS + self.steps * self.step


def estimate_step(measured: Measured, values: Values) -> float:
    """Return the seconds of an optimizer step within a run, from one that `check` tried with the shortest captions."""
    assert measured.step_seconds is not None
    length = values.get("text_encoder.context_length", SMALL_CONTEXT)
    assert isinstance(length, int)
    return measured.step_seconds * OVERHEAD * (1 + CONTEXT_COST * (length - SMALL_CONTEXT))


def plan_budget(
    left: float, facts: DataFacts, values: Values, *, step: float, encoding: float, adapts: bool, base: bool
) -> Budget:
    """Share out the seconds that are left.

    Args:
        step: seconds of an optimizer step within a run.
        encoding: seconds of encoding.

    Raises:
        ValueError: nothing is left for training.
    """
    batch = values.get("batch_size", BATCH)
    assert isinstance(batch, int)
    drawing = SAMPLER_PASSES * step / batch / 3  # seconds of a picture; a step is about three passes of each example
    ending = 3 * START_SECONDS + drawing * (DRAWN + EVALUATED)
    adapting = START_SECONDS + ADAPTING_SHARE * left if adapts else 0.0
    spare = left - ending - encoding - adapting - START_SECONDS
    watches = max(1, min(WATCHES, int(WATCHING_SHARE * spare / (WATCHED * drawing))))
    spare -= watches * WATCHED * drawing
    steps = int(spare / step)
    if base:
        steps = min(steps, -(-BASE_EXAMPLES * facts.pictures // batch))
    if steps < FEWEST_STEPS:
        raise ValueError(
            f"minutes are too few: encoding, drawing, evaluating and reporting take about {(left - spare) / 60:.1f} of the "
            f"{left / 60:.1f} that are left after checking, and a step of training {step:.2g} s; give more minutes"
        )
    return Budget(step, encoding, adapting, ending, steps, watches)


def expect_pictures(measured: Measured, budget: Budget, batch_size: int) -> str | None:
    """Return when the pictures of trained captions are expected to be recognisable and clear; None if it is unknown."""
    if measured.recognised is None or measured.sharp is None:
        return None
    planned = budget.steps * batch_size
    line = describe_expectation(measured.recognised, measured.sharp, planned, budget.step / batch_size)
    if planned >= measured.recognised:
        return line
    return f"{line}: too short, expect coloured blobs. Give more minutes or fewer pictures, or start from a base (base=RUN)"


def is_off(steps: int, planned: int) -> bool:
    """Return whether so many more or fewer steps fit into the time that is left that the plan changes."""
    return not 1 - TOLERANCE <= steps / planned <= 1 + TOLERANCE


def choose_length(steps: int, watches: int = WATCHES) -> Values:
    """Return what goes with the number of steps: average, warm-up, and how often a run looks at itself."""
    every = max(1, steps // watches)
    values: Values = {"max_steps": steps, "ema.decay": round(min(0.9999, max(0.9, 1 - AVERAGED / steps)), 5)}
    values["lr_schedule.warmup_steps"] = min(WARMUP_STEPS, steps // 10)
    watching: Values = {f"{name}.every": every for name in ("validation", "pictures", "metrics")}
    return values | watching | {"checkpoint.every": min(500, max(1, steps // WATCHES)), "metrics.count": MEASURED_PICTURES}


RULES: dict[str, str] = {
    "image_size": f"{CPU_SIDE} on a CPU, {GPU_SIDE} on a GPU (128 for less than 10 minutes); at most a tenth of the "
    f"pictures is enlarged; a multiple of {STEP}, on a GPU of {2 * STEP}",
    "crop": f"centre if that cuts away at most {CUT_LITTLE:.0%} of the area on average; fit if it cuts more and half of the "
    f"pictures have plain surroundings, or if it cuts more than {CUT_MUCH:.0%}",
    "background": "with crop=fit, the colour of the surroundings if most plain ones have the same; else white",
    "autoencoder": f"the first shipped one that gives the pictures back with {GOOD_PSNR:g} dB, else the best of them; "
    f"pixels if that one has less than {BAD_PSNR:g} dB and cannot be trained further, and for sides below {2 * STEP}",
    "autoencoder.weights": f"trained further on these pictures if it reaches less than {POOR_PSNR:g} dB and there are "
    f"{ADAPTING_MINUTES} minutes, for {ADAPTING_SHARE:.0%} of them",
    "text_encoder.context_length": f"as many tokens as the longest caption has, {SMALL_CONTEXT} to {LARGEST_CONTEXT}",
    "network": "unet_small on a CPU, unet_base on a GPU; with base=…, the base's",
    "network.patch_size": "2, which costs a quarter of 1; on a GPU 1 up to side 64; 4 for pixels",
    "schedule": "cosine: colours are decided at the noisiest steps; with base=…, the base's",
    "prediction": "velocity, which goes with it; with base=…, the base's",
    "trainer.precision": f"{CPU_HALF} on a CPU with AVX512-BF16 or AMX, where more steps fit into the minutes; elsewhere, "
    "and with base=…, auto",
    "batch_size": f"{BATCH} on a CPU, where many small steps learn faster than few large ones; {GPU_BATCH} on a GPU",
    "optimizer.lr": f"{LR:g}; {GPU_LR:g} for the larger network on a GPU; {BASE_LR:g} to fine-tune a base",
    "guidance.scale": f"{GUIDANCE:g} for a small model that was trained from the start",
    "held_out": f"about {HELD_OUT} pictures, {HELD_OUT_SHARES[0]:.0%} to {HELD_OUT_SHARES[1]:.0%} of all; none of fewer "
    f"than {FEWEST_TO_HOLD_OUT}: figures of a handful mean nothing",
    "max_steps": "what the measured seconds of a step make of the minutes that encoding, drawing, evaluating and reporting "
    f"leave, corrected by its first {FIRST_SECONDS:.0f} seconds; at most {BASE_EXAMPLES:,} examples of each picture to "
    "fine-tune a base",
    "ema.decay": f"1 - {AVERAGED:g} / max_steps: an average over a constant share of the run",
    "lr_schedule.warmup_steps": f"{WARMUP_STEPS}, and at most a tenth of the run",
    "validation.every": f"{WATCHES} times in the run, if that takes at most {WATCHING_SHARE:.0%} of its time; so are "
    "pictures and metrics",
}


def explain(values: Values) -> list[tuple[str, str, str]]:
    """Return each chosen setting that has a rule, its value, and the rule."""
    return [(name, str(value), RULES[name]) for name, value in values.items() if name in RULES]
