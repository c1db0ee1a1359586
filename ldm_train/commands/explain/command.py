"""`ldm-train explain`: write one page that shows on a picture what a run does, or two runs next to each other."""

from pathlib import Path

from ldm_train.commands.explain.explain_page import build_explain_page
from ldm_train.commands.explain.explanation import explain_run
from ldm_train.reports.page import is_page, write_page
from ldm_train.settings.schema.using import ExplainSettings
from ldm_train.util.ownership import check_file
from ldm_train.util.text import as_word

MOST = 2  # runs on a page


def run(settings: ExplainSettings) -> None:
    """Write the page about the picture and the runs of the settings.

    Raises:
        ValueError: a run cannot be opened, there is no such picture, there are too many runs, or `out` is not such a page.
    """
    given = [settings.run_dir] if isinstance(settings.run_dir, str) else [*settings.run_dir]
    if not 0 < len(given) <= MOST or len({Path(path).resolve() for path in given}) < len(given):
        raise ValueError(f"run_dir={given} must be one run, or two different ones to compare")
    out = Path(settings.out)
    check_file(out, is_page, setting="out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html; set {as_word('out', out.with_suffix('.html'))}")
    runs = [explain_run(settings.with_values(run_dir=path), label=path if len(given) > 1 else "") for path in given]
    write_page(build_explain_page(runs), out)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
