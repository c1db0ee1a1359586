"""`ldm-train report`: run directories to one page, read as they are, also while a run goes on."""

import sys
from pathlib import Path

from ldm_train.commands.report.report_page import page
from ldm_train.reports.page import is_page, write_page
from ldm_train.run_dir.reading import read_runs, require_config
from ldm_train.settings.schema.using import ReportSettings
from ldm_train.util.ownership import check_file


def run(config: ReportSettings) -> None:
    """Raises:
    ValueError: a folder that is no run directory, no run that can be read, the same one twice, or `out` is no page.
    """
    given = config.run_dir
    paths = [Path(path) for path in given] if isinstance(given, list) else [Path(given)]
    if not paths or len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"run_dir={list(map(str, paths))} must name different run directories, one at least")
    out = Path(config.out)
    check_file(out, is_page, setting="out")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} must end in .html, such as {out.with_suffix('.html')}")
    for path in paths:
        require_config(path)
    runs, broken = read_runs(paths)
    if not runs:
        raise ValueError("\n".join(broken))
    for reason in broken:
        print(f"warning: {reason}", file=sys.stderr)
    write_page(page(runs, broken=broken), out)
    print(f"{out} shows it all ({out.stat().st_size / 2**20:.1f} MiB)")
