"""The benchmarks of training go through and write down what they are for; how fast anything is, no test can say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark_train.py"
FIGURES = {
    "overhead": {"trainer_s", "bare_s", "overhead", "overhead_cpu"},
    "start": {"first_step_s", "help_s", "train_help_s"},
    "ranks": {"two_s", "apart_s", "all_rows_s", "share_of_apart", "share_of_apart_all_rows"},
    "watching": {"share_validation", "share_pictures", "share_watching"},
}


@pytest.mark.parametrize("mode", FIGURES)
@pytest.mark.slow
def test_it_measures_a_tiny_run(mode: str, cache: Path, train_words: list[str], tmp_path: Path) -> None:
    words = [f"cache={cache}", "experiment=null", *train_words, f"max_steps={8 if mode == 'watching' else 1000}"]
    settings = ["--rounds", "1", "--steps", "10", "--threads", "1", "--out", str(tmp_path / "out.json")]
    ended = subprocess.run(
        [sys.executable, SCRIPT, mode, *words, *settings],
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["command"].startswith(f"python scripts/benchmark_train.py {mode} cache=")
    figures = results["1 threads"] if mode == "overhead" else results
    assert 0 <= figures["others_share"] <= 1
    for name in FIGURES[mode]:
        assert figures[f"{name}_quartile_1"] <= figures[name] <= figures[f"{name}_quartile_3"]
        assert figures[name] > (-1 if name.startswith("overhead") else 0)
