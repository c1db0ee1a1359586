"""The page that explains one run, or two next to each other, on a picture."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ldm_train.commands.explain.embedded_tensors import show_image, show_latents, show_map
from ldm_train.commands.explain.explanation import Explanation
from ldm_train.commands.explain.forward_blocks import (
    list_levels,
    plot_schedules,
    show_forward,
    show_picture,
    show_tokens,
)
from ldm_train.commands.explain.plain_words import (
    count_numbers,
    say_attention,
    say_errors,
    say_latents,
    say_prediction,
    say_prompt_effect,
    say_reverse,
    say_schedule,
    say_tokens,
    say_variations,
)
from ldm_train.reports.axes import format_number
from ldm_train.reports.curves import Charts, CurveLine, Curves
from ldm_train.reports.page import Page, PageSection, Verdict
from ldm_train.reports.page_blocks import Film, FilmFrame, PageBlock, Paragraphs

FRAMES = 25  # of a film, at most
WORDS = 24  # whose attention is shown, at most

Runs = Sequence[Explanation]


def list_left_out(one: Explanation) -> list[str]:
    """Return the names of the conditions that the pictures are drawn without."""
    return [condition.name for condition in one.trained.parts.conditions.each if condition.word is not None]


def build_explain_page(runs: Runs) -> Page:
    """Return the page."""
    first = runs[0]
    summary = [
        ("picture", first.picture.name),
        ("prompt", first.picture.prompt or "none"),
        *[(one.named("predicts"), one.names["prediction"]) for one in runs],
        *[(one.named("schedule"), one.names["schedule"]) for one in runs],
        ("numbers of the picture", f"{count_numbers(first)[0]:,}"),
        *[(one.named("numbers of its latents"), f"{count_numbers(one)[1]:,}") for one in runs],
        *[(one.named("step of training"), f"{one.trained.step:,}") for one in runs],
        *[(one.named("drawn without"), ", ".join(given)) for one in runs if (given := list_left_out(one))],
    ]
    names = " and ".join(one.label for one in runs) if first.label else ""
    return Page(
        f"How {names or 'a trained run'} works, on one picture",
        Verdict(ok=None, text=f"Everything here was computed with the weights and settings of {names or 'this run'}"),
        summary,
        [
            _section("The picture and its latents", runs, say_latents, show_picture),
            _section("Noise is added", runs, say_schedule, show_forward, plot_schedules),
            _section("Words to tokens", runs, say_tokens, show_tokens),
            _section("What the network sees and says", runs, say_prediction, show_views),
            _section("Where it errs", runs, say_errors, None, plot_errors),
            _section("From noise to a picture", runs, say_reverse, show_reverse),
            _section("Where in time the prompt matters", runs, say_prompt_effect, None, plot_prompt_effect),
            _section("Which words drew what", runs, say_attention, show_attention),
            _section("The same noise, other settings", runs, say_variations, show_variations),
        ],
    )


def _section(
    title: str,
    runs: Runs,
    say: Callable[[Explanation], str],
    show: Callable[[Explanation], Sequence[PageBlock]] | None,
    plot: Callable[[Runs], Charts] | None = None,
) -> PageSection:
    """Return a section: of each run what it means and its films, and before the films a plot of all runs."""
    texts, plotted = [Paragraphs([say(one)]) for one in runs], [] if plot is None else [plot(runs)]
    if len(runs) == 1:
        return PageSection(title, [*texts, *plotted, *([] if show is None else show(runs[0]))])
    blocks: list[PageBlock] = [*plotted]
    for one, text in zip(runs, texts, strict=True):
        blocks += [text, *([] if show is None else show(one))]
    return PageSection(title, blocks)


def show_views(one: Explanation) -> list[Film]:
    """Return what the network sees and says at some points of time."""
    highest = max(float(torch.quantile(view.error.flatten(), 0.99)) for view in one.views)
    frames = [
        FilmFrame(
            f"t = {format_number(view.point.t)}",
            [
                show_image(view.noisy, "what the network sees, decoded"),
                show_latents(view.added, "the noise that was added"),
                show_latents(view.predicted, "the noise that it predicts"),
                show_map(view.error, "the squared error by place, yellow: large", highest=highest),
                show_image(view.estimate, "the clean estimate that follows"),
            ],
            [
                ("the time, as the network is given it", format_number(view.network_time)),
                ("mean squared error of the noise", format_number(view.noise_error)),
                ("mean squared error of the clean estimate", format_number(view.clean_error)),
                *list_levels(view.point),
            ],
        )
        for view in one.views
    ]
    return [Film(frames, one.named("What the network sees and says"), first=len(frames) // 2, width=192)]


def plot_errors(runs: Runs) -> Charts:
    """Return the errors by noise level, with the prompt and without it."""
    noise, clean = list[CurveLine](), list[CurveLine]()
    for number, one in enumerate(runs):
        x = np.array([point.t for point in one.errors.points])
        for lines, values, unprompted in (
            (noise, one.errors.noise, one.errors.noise_unprompted),
            (clean, one.errors.clean, one.errors.clean_unprompted),
        ):
            lines.append(CurveLine(one.named("with the prompt"), x, np.array(values), colour=number, dots=True))
            lines.append(CurveLine(one.named("without a prompt"), x, np.array(unprompted), colour=number, dashed=True))
    return Charts(
        [
            Curves("Error of the predicted noise", noise, x_name="t", unit="mean square", log=True),
            Curves("Error of the clean estimate", clean, x_name="t", unit="mean square", log=True),
        ]
    )


def show_reverse(one: Explanation) -> list[Film]:
    """Return the steps from noise to a picture."""
    count = len(one.reverse.steps)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(FRAMES, count)).tolist()})
    frames = [
        FilmFrame(
            f"step {number + 1} of {count}: from t = {format_number(step.t.t)} to {format_number(step.s.t)}",
            [
                show_image(step.noisy, "the latents, decoded"),
                show_image(step.estimate, "the clean estimate in this step"),
                show_image(one.reverse.drawn, "the picture at the end"),
            ],
            [("what the prompt changes in the clean estimate (RMS)", format_number(step.clean_difference))],
        )
        for number, step in enumerate(one.reverse.steps)
        if number in chosen
    ]
    return [Film(frames, one.named("The reverse process"), first=len(frames) // 3)]


def plot_prompt_effect(runs: Runs) -> Charts:
    """Return how much the prompt changes what the network says, by step."""
    noise, clean = list[CurveLine](), list[CurveLine]()
    for number, one in enumerate(runs):
        x = np.arange(1, len(one.reverse.steps) + 1, dtype=np.float64)
        values = ([s.noise_difference for s in one.reverse.steps], [s.clean_difference for s in one.reverse.steps])
        for lines, own in zip((noise, clean), values, strict=True):
            lines.append(CurveLine(one.label or "with and without the prompt", x, np.array(own), colour=number, dots=True))
    return Charts(
        [
            Curves("Difference of the predicted noise", noise, x_name="step of drawing", unit="RMS"),
            Curves("Difference of the clean estimate", clean, x_name="step of drawing", unit="RMS"),
        ]
    )


def show_attention(one: Explanation) -> list[Film]:
    """Return the attention to each word, over all steps and by step; nothing of a run that does not attend to words."""
    attention = one.reverse.attention
    if attention is None:
        return []
    combined = attention.combined[:, :WORDS]
    highest = combined.amax((0, 2, 3)).tolist()
    count = len(combined)
    chosen = sorted({round(place) for place in np.linspace(0, count - 1, min(FRAMES, count)).tolist()})
    moments = [("all steps", combined.mean(0)), *((f"step {step + 1} of {count}", combined[step]) for step in chosen)]
    frames = [
        FilmFrame(
            label,
            [show_image(one.reverse.drawn, "the picture")]
            + [
                show_map(values, f"{word} {float(values.mean()):.1%}", highest=most)
                for word, values, most in zip(attention.words, maps, highest, strict=False)
            ],
        )
        for label, maps in moments
    ]
    return [Film(frames, one.named("Attention to each word"), width=144)]


def show_variations(one: Explanation) -> list[Film]:
    """Return a row of pictures for each thing that was changed."""
    return [
        Film(
            [FilmFrame("", [show_image(p, label) for p, label in zip(row.pictures, row.labels, strict=True)])],
            one.named(f"Other {row.title}"),
            width=160,
        )
        for row in one.variations
    ]
