"""`ldm-train report`: write one page about run directories; also works while a run is training."""

from pathlib import Path

from ldm_train.commands.report.report_page import build_report_page
from ldm_train.commands.report.run_findings import list_findings
from ldm_train.reports.page import is_page, write_page
from ldm_train.run_dir.reading import read_runs, require_config
from ldm_train.settings.schema.using import ReportSettings
from ldm_train.util.messages import warn
from ldm_train.util.ownership import check_file
from ldm_train.util.text import as_word


def run(settings: ReportSettings) -> None:
    """Write the page about the runs of the settings.

    Raises:
        ValueError: a folder is not a run directory or is given twice, no run can be read, or `out` is not such a page.
    """
    given = settings.run_dir
    paths = [Path(path) for path in given] if isinstance(given, list) else [Path(given)]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"run_dir={list(map(str, paths))} must name at least one run directory, and none twice")
    out = Path(settings.out)
    check_file(out, is_page, setting="out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html; set {as_word('out', out.with_suffix('.html'))}")
    for path in paths:
        require_config(path)
    runs, broken = read_runs(paths)
    if not runs:
        raise ValueError("\n".join(broken))
    for reason in broken:
        warn(reason)
    for run_record in runs:
        for finding in list_findings(run_record):
            warn(finding if len(runs) == 1 else f"{run_record.path}: {finding}")
    write_page(build_report_page(runs, broken=broken), out)
    print(f"wrote {out} ({out.stat().st_size / 2**20:.1f} MiB)")
