"""Build the page of a report on one or several runs; it is one file that can be sent by mail."""

from collections.abc import Sequence

from ldm_train.commands.report import loss_by_noise, run_curves, run_history, run_pictures, run_results
from ldm_train.commands.report.run_curves import ReportedRun
from ldm_train.commands.report.run_pictures import Budget
from ldm_train.reports.axes import format_number
from ldm_train.reports.curves import MAX_POINTS
from ldm_train.reports.page import Page, PageSection
from ldm_train.reports.page_blocks import Charts, DataTable, Facts, PageBlock, Paragraphs
from ldm_train.run_dir.metric_names import best_value, say_if_few_held_out
from ldm_train.run_dir.reading import RunRead
from ldm_train.run_dir.run_settings import every_setting, list_changed, list_differences, short_names
from ldm_train.run_dir.run_state import state_of

FIRST = (
    "validation_loss",
    "held_out_psnr",
    "metrics/kid",
    "metrics/clip_score",
    "metrics/retrieval",
    "metrics/taught_retrieval",
)  # metrics in the summary
HOW = (
    "Drag across a plot to zoom in, or spread two fingers; double-click to see everything again. "
    "Click the name of a line to hide or show it."
)


def build_report_page(run_records: Sequence[RunRead], *, broken: Sequence[str] = ()) -> Page:
    """Return the page about one run, or about several in the same plots.

    Args:
        broken: messages about runs that could not be read.
    """
    run_names = short_names([run.path for run in run_records])
    runs = [
        ReportedRun(name, run, i, len(run_records) == 1)
        for i, (name, run) in enumerate(zip(run_names, run_records, strict=True))
    ]
    budget = Budget()
    pictures = build_picture_sections(runs, budget)
    metrics = run_curves.plot_metrics(runs)
    loss, validation, others = (
        plot(runs) for plot in (run_curves.plot_losses, run_curves.plot_validation, run_curves.plot_others)
    )
    losses, rest = ([loss, validation, others], []) if runs[0].run.of_autoencoder else ([loss, validation], [others])
    return Page(
        f"Run {run_names[0]}" if len(runs) == 1 else f"Runs {', '.join(run_names)}",
        run_history.build_verdict(runs),
        summarise_run(runs[0]) if len(runs) == 1 else [],
        [
            PageSection("Runs", [build_runs_table(runs), build_differing_table(runs)] if len(runs) > 1 else []),
            PageSection("Loss", losses, f"{HOW}{describe_thinning(losses)}"),
            *pictures,
            PageSection(
                "Metrics",
                [
                    run_results.build_metrics_table(runs),
                    run_results.build_sets_note(runs),
                    metrics,
                    *run_results.build_evaluation_blocks(runs),
                ],
            ),
            PageSection(
                "Loss by noise level",
                loss_by_noise.build_loss_blocks(runs),
                "The validation loss at each log-SNR; log-SNR is high if a picture is nearly clean.",
            ),
            PageSection("Health", [run_curves.plot_health(runs), *rest]),
            PageSection("Speed and time", [run_curves.plot_machine(runs), *run_results.build_time_bars(runs)]),
            PageSection(
                "What went wrong",
                [Paragraphs(list(broken)), *run_history.build_trouble_blocks(runs), Paragraphs(budget.notes)],
            ),
            PageSection(
                "Settings", build_settings_blocks(runs), "First the settings that differ from the defaults, then all."
            ),
            PageSection("Starts", run_history.build_start_blocks(runs)),
        ],
    )


def build_picture_sections(runs: Sequence[ReportedRun], budget: Budget) -> list[PageSection]:
    """Return the sections with pictures; the newest pictures take their share of the budget first."""
    if any(one.run.of_autoencoder for one in runs):
        return [PageSection("Reconstructions", run_pictures.show_reconstructions(runs, budget))]
    newest = run_pictures.show_newest(runs, budget)
    pairs, strips = run_pictures.show_pairs(runs, budget), run_pictures.show_strips(runs, budget)
    growth = run_pictures.show_growth(runs, budget)
    return [
        PageSection("Pictures", newest),
        PageSection("Pictures over the training", growth),
        PageSection("Trained and held-out pictures", pairs),
        PageSection("Film strips", strips),
        PageSection(
            "Reconstructions",
            run_pictures.show_decoded(runs, budget),
            "What the autoencoder keeps of the pictures: no network trained on its latents can draw better than this.",
        ),
    ]


def summarise_run(one: ReportedRun) -> list[tuple[str, str]]:
    """Return the most important numbers of a run."""
    run, rows = one.run, []
    is_complete = run.step == run.max_steps
    rows.append(("steps", f"{run.step:,}") if is_complete else ("step", f"{run.step:,} of {run.max_steps:,}"))
    if duration := run_history.format_total_time(run):
        rows.append(("training time", duration))
    if "loss" in run.series and not run.of_autoencoder:
        tail = run.series["loss"].finite.values[-max(1, len(run.series["loss"].values) // 20) :]
        rows.append(("recent training loss", format_number(float(tail.mean())) if len(tail) else "not finite"))
    metrics = run_curves.list_metric_names([one])
    for first in FIRST:
        name = next((name for name in metrics if name.startswith(first)), first)
        found = best_value(name, run.series[name]) if name in run.series else None
        if found is not None:
            title = run_curves.metric_title(name)
            title = title if title[1:2].isupper() else title[:1].lower() + title[1:]
            rows.append((f"best {title}", format_number(found[1])))
    if "time/samples_per_second" in run.series:
        speeds = run.series["time/samples_per_second"].finite.values
        rows += (
            [("examples per second", format_number(float(f"{sorted(speeds)[len(speeds) // 2]:.3g}")))] if len(speeds) else []
        )
    if isinstance(psnr := run.data.get("psnr"), float):
        rows.append(("PSNR of reconstructions", f"{psnr:.1f} dB"))
    if few := say_if_few_held_out(run):
        rows.append(("caution", few))
    share = run_results.measure_watching_share([one])
    if share is not None:
        rows.append(("time for pictures, validation and metrics", f"{share:.1%}"))
    return rows


def build_runs_table(runs: Sequence[ReportedRun]) -> DataTable:
    """Return a table with the most important numbers of each run."""
    measure = "validation_noise_mse" if run_curves.describe_targets(runs) else "validation_loss"
    rows = []
    for one in runs:
        series = one.run.series.get(measure)
        best_loss = None if series is None else best_value(measure, series)
        speed = one.run.series.get("time/samples_per_second")
        rows.append(
            [
                one.name,
                state_of(one.run).word,
                f"{one.run.step:,} of {one.run.max_steps:,}",
                format_number(best_loss[1]) if best_loss else "",
                format_number(float(f"{speed.last:.3g}")) if speed is not None else "",
                run_history.format_total_time(one.run),
            ]
        )
    columns = ["run", "state", "step", f"best {measure.replace('_', ' ')}", "examples per second", "training time"]
    return DataTable(columns, rows, numeric=columns[2:])


def build_differing_table(runs: Sequence[ReportedRun]) -> DataTable:
    """Return a table with a row for each setting that differs between the runs."""
    rows = [[name, *values] for name, values in list_differences([one.run for one in runs]).items()]
    return DataTable(["setting", *(one.name for one in runs)], rows, caption="Settings that differ between the runs")


def build_settings_blocks(runs: Sequence[ReportedRun]) -> list[PageBlock]:
    """Return the settings of each run; they are folded if there are several runs."""
    blocks: list[PageBlock] = []
    for one in runs:
        changed, every = list_changed(one.run), every_setting(one.run)
        fold = "" if one.is_only else f"{one.name}: {len(changed)} settings that differ from the defaults"
        blocks.append(Facts(changed, fold=fold))
        blocks.append(Facts(every, fold=one.label(f"all {len(every)} settings")))
    return blocks


def describe_thinning(charts: Sequence[Charts]) -> str:
    """Return a sentence about lines with more values than are drawn, or nothing if all are drawn."""
    longest = max((plot.cut for chart in charts for plot in chart.filled), default=0)
    if not longest:
        return ""
    return f" Of up to {longest:,} logged values {MAX_POINTS} are drawn, including the lowest and highest of each interval."
