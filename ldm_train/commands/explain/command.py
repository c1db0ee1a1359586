"""`ldm-train explain`: write one page that shows on a picture what a run does, two runs, or a training that was not run."""

from pathlib import Path

from ldm_train.commands.explain.explain_page import build_explain_page
from ldm_train.commands.explain.explanation import explain_run
from ldm_train.commands.explain.preview import preview_training
from ldm_train.commands.explain.preview_page import build_preview_page
from ldm_train.reports.page import is_page, write_page
from ldm_train.settings.schema.using import ExplainSettings
from ldm_train.util.ownership import check_file
from ldm_train.util.text import as_word

MOST = 2  # runs on a page
OF_A_RUN = ("steps", "sampler", "spacing", "guidance", "weights", "others", "moved")  # what only a trained network needs


def run(settings: ExplainSettings) -> None:
    """Write the page about the picture and the runs, or the cache, of the settings.

    Raises:
        ValueError: a run cannot be opened, there is no such picture, there are too many runs, or `out` is not such a page.
    """
    refuse_settings(settings)
    given = [settings.run_dir] if isinstance(settings.run_dir, str) else [*(settings.run_dir or [])]
    if (settings.cache is None and not 0 < len(given) <= MOST) or len({Path(path).resolve() for path in given}) < len(given):
        raise ValueError(f"run_dir={given} must be one run, or two different ones to compare")
    out = Path(settings.out)
    check_file(out, is_page, setting="out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html; set {as_word('out', out.with_suffix('.html'))}")
    if settings.cache is None:
        runs = [explain_run(settings.with_values(run_dir=path), label=path if len(given) > 1 else "") for path in given]
        page = build_explain_page(runs)
    else:
        page = build_preview_page(preview_training(settings))
    write_page(page, out)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")


def refuse_settings(settings: ExplainSettings) -> None:
    """Raise unless the settings name either runs or a cache, and what goes with it.

    Raises:
        ValueError: both or neither are given, or a setting of drawing together with a cache.
    """
    if (settings.run_dir is None) == (settings.cache is None):
        given = "" if settings.cache is None else f"; given: run_dir={settings.run_dir} and cache={settings.cache}"
        raise ValueError(
            "explain needs either run_dir=DIR of a trained run, or cache=DIR and the settings of a training, such as "
            f"experiment=openmoji, to show what needs no trained network{given}"
        )
    if settings.cache is None:
        return
    defaults = {name: info.default for name, info in ExplainSettings.model_fields.items()}
    if drawing := [name for name in OF_A_RUN if getattr(settings, name) != defaults[name]]:
        raise ValueError(
            f"{', '.join(drawing)}: with cache={settings.cache} nothing is drawn, since that needs a trained network; "
            "give run_dir=DIR, or leave this out"
        )
