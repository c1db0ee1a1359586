"""A run that is done, and copies of it to continue."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.run_dir.records import QUIET


@pytest.fixture(scope="module")
def finished(run_with: Callable) -> Path:
    """A run of eight steps, to read only."""
    return run_with(*QUIET)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))
