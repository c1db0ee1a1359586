"""The examples of docs/python.md are as short as they say, and run one after the other."""

import logging
import re
import runpy
import shutil
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
LONGEST = {  # lines of an example, by its section
    "Train your own network": 15,
    "Draw with a run": 3,
    "A training loop of your own": 10,
    "A sampler with another network": 10,
}
QUICK = (
    "cache=cache, max_steps=2, batch_size=4, threads=1, image_size=None, checkpoint={'every': 2}, metrics={'every': None},"
    " pictures={'every': 2, 'count': 2, 'steps': 2}, validation={'every': 2, 'repeats': 1}, trainer={'accelerator': 'cpu'}"
)


@pytest.mark.parametrize("section", LONGEST)
def test_an_example_is_short(section: str) -> None:
    [code] = BLOCK.findall(PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0])
    assert len([line for line in code.splitlines() if line.strip()]) <= LONGEST[section]


@pytest.mark.slow
def test_the_examples_run(
    cache: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "DIR")
    code = "\n".join(BLOCK.findall(PAGE))
    small = {
        "image_size=64": "image_size=16, threads=1" if False else "image_size=16",
        "max_steps=500": (
            "max_steps=2, batch_size=4, threads=1, checkpoint={'every': 2}, pictures={'every': 2, 'count': 2, 'steps': 2}, "
            "metrics={'every': None}, validation={'every': 2, 'repeats': 1}, trainer={'accelerator': 'cpu'}"
        ),
        "steps=100": "steps=2",
        "steps=20": "steps=2",
    }
    for full, short in small.items():
        assert full in code
        code = code.replace(full, short)
    (tmp_path / "page.py").write_text(code)
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        found = runpy.run_path("page.py", run_name="__main__")
    finally:
        logging.root.handlers[:], logging.root.level = handlers, level
    assert found["latents"].shape == (2, 4, 16, 16)
    assert Path("drawn.png").is_file()
    assert found["settings"].as_plain()["network"]["width"] == 64
    assert found["settings"].as_plain()["optimizer"] == {"_target_": "torch.optim.NAdam", "_partial_": True, "lr": 1e-3}
