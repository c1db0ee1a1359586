"""The fine-tuning demo measures what its base can draw before it trains, and says whether it became better or worse."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from compare_with_base import Comparison, compare, compare_folders, describe
from PIL import Image

from ldm_train.data.pictures.images import read_image, save_png

SCRIPTS = Path(__file__).parent.parent / "scripts"
STUB = """#!/bin/sh
echo "$0 $*" >>"$CALLS"
for word in "$@"; do case $word in cache=*) cache=${word#cache=};; esac; done
if [ "$1" = encode ]; then
    mkdir -p "$cache"
    echo '{"psnr": '"$PSNR"'}' >"$cache/quality.json"
    echo '"a cat"' >"$cache/captions.jsonl"
fi
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the script, with commands that only note how they were called."""
    place = tmp_path / "place"
    for folder in ("scripts", "bin", "own"):
        (place / folder).mkdir(parents=True)
    shutil.copy(SCRIPTS / "finetune_demo.sh", place / "scripts")
    (place / "scripts" / "setup.sh").write_text('setup() { :; }\nrun() { "$@"; }\n')
    for name in ("bin/ldm-train", "scripts/quickstart.sh"):
        (place / name).write_text(STUB)
        (place / name).chmod(0o755)
    for name in ("prepare_glyph.py", "compare_with_base.py"):
        (place / "scripts" / name).write_text("")
    return place


def run_demo(place: Path, psnr: float, environment: dict[str, str]) -> tuple[int, str, str]:
    """The exit code, the output, and the commands that were called."""
    variables = {"PATH": f"{place}/bin:{os.environ['PATH']}", "CALLS": f"{place}/calls", "PSNR": str(psnr)} | environment
    ended = subprocess.run(
        ["bash", "scripts/finetune_demo.sh", "own"],
        cwd=place,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.returncode, ended.stdout + ended.stderr, (place / "calls").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("psnr", "environment", "trains"), [(17.6, {}, False), (30.2, {}, True), (17.6, {"ANYWAY": "1"}, True)]
)
def test_it_stops_before_training_what_the_base_cannot_draw(
    psnr: float, environment: dict, trains: bool, place: Path
) -> None:
    code, output, calls = run_demo(place, psnr, environment)
    assert (code == 0) is trains, output
    assert ("ldm-train train " in calls) is trains
    assert ("quickstart.sh" in calls) is trains, "which takes minutes"
    assert (f"{psnr} dB" in output) is (psnr < 25)
    assert ("ANYWAY=1" in output) is (psnr < 25)


def test_a_picture_is_recognised_if_none_of_another_caption_is_nearer() -> None:
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2]])
    captions = [["a cat"], ["a dog"], ["a cat", "a tom"]]
    drawn = torch.tensor([[2.0, 0.1], [1.0, 0.1], [0.0, 3.0]])
    likeness, recognised = compare(drawn, own, ["a cat", "a dog", "a dog"], captions)
    assert recognised.tolist() == [True, False, True]
    assert likeness[2] == pytest.approx(1.0)
    assert likeness[1] < likeness[0]


@pytest.mark.parametrize(
    ("before", "after", "nearer", "verdict"),
    [
        (1, 6, 7, "BETTER"),
        (6, 1, 1, "WORSE"),
        (4, 3, 7, "WORSE"),
        (2, 2, 1, "WORSE"),
        (2, 3, 4, "NEITHER BETTER NOR WORSE"),
    ],
)
def test_the_verdict_is_plain(before: int, after: int, nearer: int, verdict: str) -> None:
    found = Comparison(8, 0.4, 0.6, before, after, nearer)
    assert found.verdict == verdict
    assert f"{verdict} than the base model: {nearer} of 8" in describe(found, Path("own"))
    assert ("docs/noise.md" in describe(found, Path("own"))) is (verdict != "BETTER")


@pytest.mark.slow
def test_folders_of_drawn_pictures_are_compared_with_one_s_own(pictures: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (pictures / "metadata.jsonl").read_text().splitlines()][:4]
    generator = torch.Generator().manual_seed(0)
    for number, row in enumerate(rows):
        caption = row["text"][0] if isinstance(row["text"], list) else row["text"]
        texts = {"ldm_train": json.dumps({"prompt": caption})}
        noise = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=generator)
        for name, image in (("noise", noise), ("same", read_image(pictures / row["file_name"], None))):
            (tmp_path / name).mkdir(exist_ok=True)
            save_png(image, tmp_path / name / f"{number:04d}.png", texts)
    found = compare_folders(pictures, tmp_path / "noise", tmp_path / "same")
    assert (found.verdict, found.nearer, found.recognised_after) == ("BETTER", 4, 4)
    assert found.likeness_after == pytest.approx(1.0, abs=1e-3)
    assert compare_folders(pictures, tmp_path / "same", tmp_path / "noise").verdict == "WORSE"
    (tmp_path / "other").mkdir()
    picture = Image.new("RGB", (16, 16))
    picture.save(tmp_path / "other" / "0000.png")
    (tmp_path / "other" / "0000.txt").write_text("a cow")
    with pytest.raises(ValueError, match="different prompts"):
        compare_folders(pictures, tmp_path / "other", tmp_path / "same")
