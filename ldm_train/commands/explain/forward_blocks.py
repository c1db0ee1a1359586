"""The blocks of a page that need no trained network: the picture, the forward process, the schedule, the tokens."""

from collections.abc import Sequence

import numpy as np
import torch

from ldm_train.commands.explain.embedded_tensors import show_image, show_latents
from ldm_train.commands.explain.plain_words import format_log_snr
from ldm_train.commands.explain.preview import ExplainedPicture
from ldm_train.data.pictures.images import to_display_bytes
from ldm_train.reports.axes import format_number
from ldm_train.reports.curves import Charts, CurveLine, Curves
from ldm_train.reports.page_blocks import DataTable, Film, FilmFrame
from ldm_train.samplers.base import TimePoint

CURVE_POINTS = 200  # of a schedule's curve


def show_picture(one: ExplainedPicture) -> list[Film]:
    """Return the picture, its latents, and what the autoencoder makes of them."""
    decoded = one.generation.decode(one.picture.latents)
    original, again = to_display_bytes(torch.cat([one.picture.image, decoded])).cpu()
    shown = [show_latents(one.picture.latents[0].cpu(), "its latents, a channel each, in grey")]
    shown.append(show_image(again, "decoded from its latents"))
    if not one.picture.from_cache:
        shown.insert(0, show_image(original, "the picture"))
    return [Film([FilmFrame(one.picture.name, shown)], one.named("The picture"))]


def show_forward(one: ExplainedPicture) -> list[Film]:
    """Return the picture with more and more noise, in pixel space and in latent space."""
    frames = [
        FilmFrame(
            f"t = {format_number(step.point.t)}",
            [
                show_image(step.pixels, "noise added to the pixels"),
                show_latents(step.latents, "noise added to the latents"),
                show_image(step.decoded, "the noisy latents decoded"),
            ],
            list_levels(step.point),
        )
        for step in one.forward
    ]
    return [Film(frames, one.named("The forward process"), first=len(frames) // 3)]


def list_levels(point: TimePoint) -> list[tuple[str, str]]:
    """Return how much of picture and noise there is at a point of time."""
    return [
        ("alpha, the part of the picture", format_number(point.alpha)),
        ("sigma, the part of the noise", format_number(point.sigma)),
        ("log-SNR, ln(alpha² / sigma²)", format_log_snr(point.ratio)),
    ]


def plot_schedules(runs: Sequence[ExplainedPicture]) -> Charts:
    """Return the curves of the runs' schedules, with the points that the films show."""
    levels, ratios = list[CurveLine](), list[CurveLine]()
    for one in runs:
        schedule = one.generation.schedule
        t = torch.linspace(float(schedule.start), float(schedule.end), CURVE_POINTS, dtype=torch.float64)
        t = schedule.nearest_trained(t)
        alpha, sigma = schedule(t)
        shown = np.array([step.point.t for step in one.forward])
        for name, curve, points in (
            ("alpha", alpha, [step.point.alpha for step in one.forward]),
            ("sigma", sigma, [step.point.sigma for step in one.forward]),
        ):
            number = len(levels) // 2
            levels.append(CurveLine(one.named(name), t.numpy(), curve.numpy(), colour=number))
            levels.append(CurveLine(one.named(f"{name} as shown"), shown, np.array(points), colour=number, dots=True))
        number = len(ratios) // 2
        points = [2 * step.point.log_ratio for step in one.forward]
        ratios.append(CurveLine(one.named("log-SNR"), t.numpy(), schedule.log_snr(t).numpy(), colour=number))
        ratios.append(CurveLine(one.named("log-SNR as shown"), shown, np.array(points), colour=number, dots=True))
    return Charts([Curves("Picture and noise", levels, x_name="t"), Curves("Signal to noise, log-SNR", ratios, x_name="t")])


def show_tokens(one: ExplainedPicture) -> list[DataTable]:
    """Return the tokens of the prompt."""
    if one.tokens is None or not one.tokens.count:
        return []
    return [DataTable(["token", "number", "word", "read"], one.tokens.rows, numeric=["number"], caption=one.named("Tokens"))]
