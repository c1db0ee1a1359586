"""The state of a folder in git."""

import subprocess
from pathlib import Path


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Return a folder's commit and whether its files differ from it; None if git tracks none of them."""
    try:
        _, commit, status = (
            subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True, timeout=30).stdout
            for words in (["ls-files", "--error-unmatch", "."], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "modified": bool(status.strip())}
