"""A report on runs as a page: what one mails to a colleague."""

from collections.abc import Sequence

from ldm_train.commands.report import loss_by_noise, run_curves, run_history, run_pictures, run_results
from ldm_train.commands.report.run_curves import Shown
from ldm_train.commands.report.run_pictures import Budget
from ldm_train.reports.axes import format_number
from ldm_train.reports.curves import MAX_POINTS
from ldm_train.reports.page import Page, Section
from ldm_train.reports.page_blocks import Charts, DataTable, Facts, PageBlock, Paragraphs
from ldm_train.run_dir.metric_names import best
from ldm_train.run_dir.reading import RunRead
from ldm_train.run_dir.run_settings import chosen, differing, every_setting, names
from ldm_train.run_dir.run_state import state_of

FIRST = ("validation_loss", "held_out_psnr", "metrics/kid", "metrics/clip_score", "metrics/retrieval")  # in the summary
HOW = (
    "Drag across a plot to see a part of it, or spread two fingers; a double click shows all again. "
    "A line's name hides and shows it."
)


def page(runs: Sequence[RunRead], *, broken: Sequence[str] = ()) -> Page:
    """One run, or several in the same plots.

    Args:
        broken: what is wrong with runs that are not shown.
    """
    called = names([run.path for run in runs])
    shown = [Shown(name, run, i, len(runs) == 1) for i, (name, run) in enumerate(zip(called, runs, strict=True))]
    budget = Budget()
    drawn = picture_sections(shown, budget)
    metrics = run_curves.metrics(shown)
    loss, validation, others = (of(shown) for of in (run_curves.losses, run_curves.validation, run_curves.others))
    losses, rest = ([loss, validation, others], []) if shown[0].run.of_autoencoder else ([loss, validation], [others])
    return Page(
        f"Run {called[0]}" if len(runs) == 1 else f"Runs {', '.join(called)}",
        run_history.verdict(shown),
        summary(shown[0]) if len(runs) == 1 else [],
        [
            Section("Runs", [glance(shown), differences(shown)] if len(runs) > 1 else []),
            Section("Loss", losses, f"{HOW}{thinned(losses)}"),
            *drawn,
            Section(
                "Metrics",
                [
                    run_results.logged(shown),
                    run_results.measured_on(shown),
                    metrics,
                    *run_results.evaluations(shown),
                ],
            ),
            Section(
                "Loss by noise level",
                loss_by_noise.blocks(shown),
                "The validation loss at each log-SNR, which is high where a picture is nearly clean.",
            ),
            Section("Health", [run_curves.health(shown), *rest]),
            Section("Speed and time", [run_curves.machine(shown), *run_results.time_spent(shown)]),
            Section("What went wrong", [Paragraphs(list(broken)), *run_history.wrong(shown), Paragraphs(budget.told)]),
            Section("Settings", settings(shown), "Those that are not the defaults, then all."),
            Section("Starts", run_history.starts(shown)),
        ],
    )


def picture_sections(shown: Sequence[Shown], budget: Budget) -> list[Section]:
    """The latest first, for they must not lack room."""
    if any(one.run.of_autoencoder for one in shown):
        return [Section("Reconstructions", run_pictures.reconstructions(shown, budget))]
    newest = run_pictures.newest(shown, budget)
    held_out, strips = run_pictures.held_out(shown, budget), run_pictures.strips(shown, budget)
    growth = run_pictures.growth(shown, budget)
    return [
        Section("Pictures", newest),
        Section("Pictures over the training", growth),
        Section("Held-out pictures", held_out),
        Section("Film strips", strips),
    ]


def summary(one: Shown) -> list[tuple[str, str]]:
    """The few numbers that one asks for first."""
    run, rows = one.run, []
    whole = run.step == run.max_steps
    rows.append(("steps", f"{run.step:,}") if whole else ("step", f"{run.step:,} of {run.max_steps:,}"))
    if duration := run_history.duration_of(run):
        rows.append(("took", duration))
    if "loss" in run.series and not run.of_autoencoder:
        tail = run.series["loss"].finite.values[-max(1, len(run.series["loss"].values) // 20) :]
        rows.append(("training loss, lately", format_number(float(tail.mean())) if len(tail) else "not finite"))
    metrics = run_curves.metric_names([one])
    for first in FIRST:
        name = next((name for name in metrics if name.startswith(first)), first)
        found = best(name, run.series[name]) if name in run.series else None
        if found is not None:
            words = run_curves.metric_title(name)
            words = words if words[1:2].isupper() else words[:1].lower() + words[1:]
            rows.append((f"best {words}", format_number(found[1])))
    if "time/samples_per_second" in run.series:
        speeds = run.series["time/samples_per_second"].finite.values
        rows += (
            [("examples per second", format_number(float(f"{sorted(speeds)[len(speeds) // 2]:.3g}")))] if len(speeds) else []
        )
    apart = run_results.shares_apart([one])
    if apart is not None:
        rows.append(("time for watching", f"{apart:.1%}"))
    return rows


def glance(shown: Sequence[Shown]) -> DataTable:
    """The runs side by side in numbers."""
    rows = []
    for one in shown:
        series = one.run.series.get("validation_loss")
        found = None if series is None else best("validation_loss", series)
        speed = one.run.series.get("time/samples_per_second")
        rows.append(
            [
                one.name,
                state_of(one.run).word,
                f"{one.run.step:,} of {one.run.max_steps:,}",
                format_number(found[1]) if found else "",
                format_number(float(f"{speed.last:.3g}")) if speed is not None else "",
                run_history.duration_of(one.run),
            ]
        )
    columns = ["run", "state", "step", "best validation loss", "examples per second", "took"]
    return DataTable(columns, rows, numeric=columns[2:])


def differences(shown: Sequence[Shown]) -> DataTable:
    """A row for each setting in which the runs differ."""
    rows = [[name, *values] for name, values in differing([one.run for one in shown]).items()]
    return DataTable(
        ["what differs", *(one.name for one in shown)], rows, caption="Settings that are not the same in all runs"
    )


def settings(shown: Sequence[Shown]) -> list[PageBlock]:
    """Behind a fold for each run, unless there is one only."""
    found: list[PageBlock] = []
    for one in shown:
        own, every = chosen(one.run), every_setting(one.run)
        found.append(Facts(own, fold="" if one.alone else f"{one.name}: {len(own)} settings that are not the defaults"))
        found.append(Facts(every, fold=one.label(f"all {len(every)} settings")))
    return found


def thinned(charts: Sequence[Charts]) -> str:
    """What to say of lines that have more points than are drawn."""
    longest = max((plot.cut for chart in charts for plot in chart.filled), default=0)
    if not longest:
        return ""
    return (
        f" Of up to {longest:,} logged values {MAX_POINTS} are drawn, the lowest and the highest of each stretch among them."
    )
