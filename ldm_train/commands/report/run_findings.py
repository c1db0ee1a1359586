"""Find in the figures of a run why its pictures may be noise or blobs, and say where the manual explains what to do.

A table of rules, those that need no guess first: the heading's anchor in `docs/noise.md`, a condition, and a sentence.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ldm_train.commands.report import run_conditions as conditions
from ldm_train.run_dir.reading import RunRead

PAGE = "docs/noise.md"


@dataclass(frozen=True)
class Rule:
    """What a figure of a run may mean.

    Args:
        anchor: of the heading in `docs/noise.md` that explains it.
        condition: returns the values of the sentence, or None if the rule does not apply.
    """

    anchor: str
    condition: Callable[[RunRead], conditions.Values]
    sentence: str


RULES = (
    Rule(
        "the-reconstructions-are-poor",
        conditions.has_lossy_latents,
        "Pictures that are encoded and decoded again have a PSNR of {psnr:.1f} dB, below {low:.0f} dB: no network trained "
        "on these latents can draw better.",
    ),
    Rule(
        "the-latents-have-a-wrong-scale",
        conditions.has_wrong_scale,
        "The latents have a deviation of {deviation:.2f} after scaling, which should be near 1.",
    ),
    Rule(
        "the-loss-is-not-finite",
        conditions.has_nonfinite_steps,
        "{count:,} steps ({share:.1%}) were not finite and were left out.",
    ),
    Rule(
        "the-loss-does-not-fall",
        conditions.has_high_loss,
        "The training loss is {loss:.2f}; a network that predicts nothing has {zero:.0f}.",
    ),
    Rule(
        "the-captions-are-all-alike",
        conditions.has_captions_alike,
        "{share:.0%} of {pictures:,} pictures have the same caption, so the network cannot tell them apart.",
    ),
    Rule(
        "trained-captions-are-drawn-held-out-ones-are-not",
        conditions.draws_taught_only,
        "The network draws what it was taught (retrieval {taught:.2f}), not captions that it never saw ({held_out:.2f}).",
    ),
    Rule(
        "too-few-examples",
        conditions.has_few_examples,
        "Each of {pictures:,} pictures was seen {seen:.0f} times; small sets needed about {needed} before a picture was "
        "recognised, which is step {steps:,} here.",
    ),
    Rule(
        "trained-captions-are-not-drawn-either",
        conditions.is_not_taught,
        "Each picture was seen {seen:.0f} times, and still only {taught:.0%} of the trained captions are recognised.",
    ),
    Rule(
        "the-prediction-is-noise",
        conditions.predicts_noise,
        "The network predicts noise, which learns colours last, and recognises {taught:.0%} of the trained captions.",
    ),
    Rule(
        "the-learning-rate-is-too-low-or-too-high",
        conditions.has_low_rate,
        "The learning rate is {rate:g}, low for a network that starts from nothing, and {taught:.0%} of the trained "
        "captions are recognised.",
    ),
    Rule(
        "the-average-lags-behind",
        conditions.has_lagging_average,
        "The averaged weights, which draw, have a validation loss of {average:.3f}, the raw ones {raw:.3f}: the average is "
        "too long for this run.",
    ),
    Rule(
        "the-guidance-is-wrong",
        conditions.has_wrong_guidance,
        "Pictures are drawn with guidance.scale={scale} by a network trained with caption_dropout={dropout}.",
    ),
    Rule("the-crop-cuts-much-away", conditions.has_large_cuts, "The crop cuts {share:.0%} of each picture away."),
)


def list_findings(run: RunRead) -> list[str]:
    """Return what the figures of a run of `train` say about bad pictures, each with the page that says what to do."""
    if run.of_autoencoder:
        return []
    found = [(rule, rule.condition(run)) for rule in RULES]
    return [
        f"{rule.sentence.format(**values)} What to do: {PAGE}#{rule.anchor}" for rule, values in found if values is not None
    ]
