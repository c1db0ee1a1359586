"""The benchmark of a GPU goes through on a CPU, without the packages that such a machine may lack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark_gpu.py"
ABSENT = ["hydra", "omegaconf", "pydantic", "open_clip", "diffusers", "datasets", "webdataset", "wandb", "peft"]
WITHOUT = (
    "import runpy, sys; sys.modules.update(dict.fromkeys({absent!r})); sys.argv = sys.argv[1:]; "
    "sys.path.insert(0, {folder!r}); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def measure(tmp_path: Path, *words: str) -> dict[str, Any]:
    program = WITHOUT.format(absent=ABSENT, folder=str(SCRIPT.parent))
    out = tmp_path / "out.json"
    ended = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPT), *words, "--device", "cpu", "--tiny", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results: dict[str, Any] = json.loads(out.read_text())
    assert results["wrong"] == []
    return results


@pytest.mark.slow
def test_what_must_be_right_is_right_on_a_cpu(tmp_path: Path) -> None:
    results = measure(tmp_path, "right")
    for part in ("precisions", "devices", "continued", "poisoned", "compiled"):
        assert results[part]["ok"], results[part]
    assert results["devices"]["loss"] == 0
    assert 1e-5 < results["precisions"]["bf16_output"] < 5e-2


@pytest.mark.slow
def test_rates_are_measured_and_absent_packages_are_named(tmp_path: Path) -> None:
    results = measure(tmp_path, "fast")
    assert "diffusers" in results["diffusers_32_compiled"]["skipped"]
    for part in ("sd15_32", "sd15_64_compiled", "unet_base_compiled"):
        assert results[part]["images_per_s"] > 0
        assert 0 < results[part]["share_of_product"] < 1
    assert results["loader"]["images_per_s_2_workers"] > 0
    assert results["encoding"]["pictures_per_s_bf16"] > 0
    assert results["checkpoint"]["bytes"] > 0
