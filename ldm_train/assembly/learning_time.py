"""Estimate how long a small network trains until it draws what it was taught, from measured runs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from ldm_train.settings.schema.training import CheckSettings
from ldm_train.util.text import format_duration

# Examples for each subject: medians of the runs in docs/results/expectations.json (scripts/measure_expectations.py).
RECOGNISED, SHARP = 245, 390
TEXT_ENCODER = "ldm_train.conditioners.text_encoder.small"
LARGEST_SIDE = 64  # of the measured runs


@dataclass(frozen=True)
class LearningTime:
    """What to expect of a network that is trained from the start with settings like those of `experiment=own_64`.

    Args:
        subjects: different words of the captions, at most as many as different pictures.
        recognised: examples until nine of ten trained captions are recognised in the pictures that it draws of them.
        sharp: examples until these pictures hardly get better.
        planned: examples of the run.
        second: seconds of an example; None if no step was measured.
    """

    subjects: int
    recognised: int
    sharp: int
    planned: int
    second: float | None

    def describe(self) -> Iterator[str]:
        """Yield what to expect, and what to do if the run ends before its pictures can be recognised."""
        yield (
            f"{self.subjects:,} different subjects, by the words of the captions: "
            f"{describe_expectation(self.recognised, self.sharp, self.planned, self.second)}"
        )
        if self.planned < self.recognised:
            times = ceil(10 * self.recognised / self.planned) / 10
            yield (
                f"that is too short: expect coloured blobs. Set max_steps to {times:g} times as many, use "
                "fewer pictures, or start from a trained network (network.weights=RUN)"
            )


def describe_expectation(recognised: int, sharp: int, planned: int, second: float | None) -> str:
    """Return after how many examples, and how much time, pictures are expected to be recognisable and clear.

    Args:
        recognised, sharp, planned, second: as of `LearningTime`.
    """

    def format_examples(examples: int) -> str:
        return f"{examples:,} examples" + ("" if second is None else f" ({format_duration(examples * second)} here)")

    return (
        f"expect recognisable pictures of trained captions after about {format_examples(recognised)}, and clear ones "
        f"after about {format_examples(sharp)}; the run has {format_examples(planned)}"
    )


def estimate_learning(
    settings: CheckSettings, captions: Iterable[str], pictures: int, second: float | None
) -> LearningTime | None:
    """Return how long a run needs to learn; None if no measured run is like it.

    Args:
        captions: those that are trained.
        pictures: number of different pictures.
        second: seconds of an example.
    """
    reads_texts = settings.text_encoder.target == TEXT_ENCODER
    if settings.network.get("weights") is not None or settings.image_size > LARGEST_SIDE or not reads_texts:
        return None
    subjects = min(pictures, len({word for caption in captions for word in caption.casefold().split()}))
    if not subjects:
        return None
    planned = settings.max_steps * settings.batch_size
    return LearningTime(subjects, RECOGNISED * subjects, SHARP * subjects, planned, second)
