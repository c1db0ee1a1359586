"""The page about a training that was not run: all that needs no trained network, and what does."""

from ldm_train.commands.explain.embedded_tensors import show_image, show_latents
from ldm_train.commands.explain.forward_blocks import (
    list_levels,
    plot_schedules,
    show_forward,
    show_picture,
    show_tokens,
)
from ldm_train.commands.explain.plain_words import count_numbers, say_latents, say_schedule, say_target, say_tokens
from ldm_train.commands.explain.preview import Preview
from ldm_train.reports.axes import format_number
from ldm_train.reports.page import Page, PageSection, Verdict
from ldm_train.reports.page_blocks import Film, FilmFrame, Paragraphs, ShellCommand

NEED_A_RUN = (
    "What the network sees and says: the noise that it predicts, and the clean estimate that follows.",
    "Where it errs: the errors by noise level, with the prompt and without one.",
    "From noise to a picture: each step of drawing.",
    "Where in time the prompt matters, and which words drew what.",
    "The same noise with other prompts, guidance scales, samplers and numbers of steps.",
)


def build_preview_page(one: Preview) -> Page:
    """Return the page."""
    pixels, latents = count_numbers(one)
    summary = [
        ("picture", one.picture.name),
        ("prompt", one.picture.prompt or "none"),
        ("would predict", one.names["prediction"]),
        ("schedule", one.names["schedule"]),
        ("numbers of the picture", f"{pixels:,}"),
        ("numbers of its latents", f"{latents:,}"),
    ]
    if one.tokens is not None:
        summary.append(("tokens of the prompt", f"{one.tokens.count:,}"))
    return Page(
        "What a training would see, on one picture",
        Verdict(ok=None, text="Nothing was trained: this page has the parts that need no trained network"),
        summary,
        [
            PageSection("The picture and its latents", [Paragraphs([say_latents(one)]), *show_picture(one)]),
            PageSection("Noise is added", [Paragraphs([say_schedule(one)]), plot_schedules([one]), *show_forward(one)]),
            PageSection("Words to tokens", [Paragraphs([say_tokens(one)]), *show_tokens(one)]),
            PageSection("What the network is taught", [Paragraphs([say_target(one)]), show_targets(one)]),
            PageSection(
                "What needs a run",
                [Paragraphs(NEED_A_RUN), ShellCommand("ldm-train explain run_dir=DIR out=FILE.html")],
                "After ldm-train train with these settings, the page of the run has these parts too:",
            ),
        ],
    )


def show_targets(one: Preview) -> Film:
    """Return what a network would be taught to output, by noise."""
    frames = [
        FilmFrame(
            f"t = {format_number(step.point.t)}",
            [
                show_image(step.decoded, "what the network would see, decoded"),
                show_latents(step.latents, "the same as latents: what it is given"),
                show_latents(target, f"the right answer: {one.names['prediction']}"),
            ],
            list_levels(step.point),
        )
        for step, target in zip(one.forward, one.targets, strict=True)
    ]
    return Film(frames, "The right answer", first=len(frames) // 2)
