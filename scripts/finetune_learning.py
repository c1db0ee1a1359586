"""Does fine-tuning learn a glyph that the quick start's model never saw, and keep the others?

    python scripts/finetune_learning.py outputs/quickstart outputs/finetune docs/results/finetune.json

For each glyph of `--glyphs` and each way to train (a LoRA, and the whole model): a dozen pictures of the glyph, of which
those on two backgrounds are held out; class pictures drawn by the model itself; then `retrieval_at_1` among the hundred
drawings and the new one, of the glyph on all eight backgrounds, on the two that were held out, and of the hundred's own
held-out pairs. The settings of the ways were chosen on the guitar (1F3B8), which is none of the glyphs that are measured.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.metrics.evaluation import DrawnPictures
from ldm_train.metrics.numbers import Resampling
from ldm_train.quickstart.drawings import Drawings
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings

HELD_OUT = ["pink", "blue"]
SHARED = ["experiment=finetune_openmoji", "prior.count=300"]
LORA = ["adapter=lora", "adapter.rank=16", "adapter.text_encoder=true", "optimizer.lr=2e-3"]
WAYS = {"lora": [*SHARED, *LORA], "full": SHARED}
Found = dict[str, float]


def run(*words: object) -> str:
    """A command, reported as it is typed; its line."""
    line = shlex.join(map(str, words))
    print(f"\n$ {line}", flush=True)
    subprocess.run([sys.executable, *map(str, words)], check=True)
    return line


def gather(out: Path, hundred: Path, glyph: Path, *, asked: str) -> Path:
    """One folder of the hundred's drawings and the glyph's, in which those `asked` for are held out.

    Args:
        asked: "glyph", "new" (the glyph on the backgrounds that it was not trained on) or "others".
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    rows = []
    for folder, own in ((hundred, False), (glyph, True)):
        for row in map(json.loads, (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()):
            if "shifted" in row["file_name"]:
                continue
            name = f"{'new' if own else 'old'}-{Path(row['file_name']).name}"
            shutil.copyfile(folder / row["file_name"], out / name)
            unseen = row["split"] == "held_out"
            wanted = {"glyph": own, "new": own and unseen, "others": not own and unseen}[asked]
            rows.append(row | {"file_name": name, "split": "held_out" if wanted else "train"})
    (out / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return out


def measure(trained: TrainedRun, folder: Path, seeds: int) -> Found:
    """Retrieval and background of the folder's held-out drawings, drawn by a run."""
    drawings, generation = Drawings(source=str(folder), seeds=seeds), trained.generation
    prompts = drawings.prompts()
    pictures = torch.cat(
        [generation(prompts[i : i + 40], trained.recipe, first=i) for i in range(0, len(prompts), 40)]
    ).cpu()
    numbers = drawings(DrawnPictures(pictures, None, generation.device), Resampling(0, 0))
    return {name: float(numbers.values[name]) for name in ("retrieval_at_1", "background_accuracy", "drawing_psnr")}


def measured(run_dir: Path, folders: dict[str, Path]) -> dict[str, Found]:
    config = compose_as(SampleSettings, [f"run_dir={run_dir}", "prompts=[x]", "out=x", "steps=20", "guidance.scale=1.25"])
    trained = open_run(config)
    seeds = {"glyph": 5, "new": 5, "others": 1}
    return {name: measure(trained, folder, seeds[name]) for name, folder in folders.items()}


def learn(base: Path, work: Path, glyph: str, ways: list[str], more: list[str]) -> dict[str, object]:
    """A glyph before and after each way."""
    own, hundred, prompts = work / glyph / "pictures", work / "hundred", work / "prompts.txt"
    run("scripts/prepare_glyph.py", own, "--glyph", glyph, "--hold-out", *HELD_OUT, "--class-prompts", prompts)
    cache = work / glyph / "cache"
    words = (f"source.path={own}", f"cache={cache}", "autoencoder=openmoji", "text_encoder=small", "image_size=64")
    run("-m", "ldm_train", "encode", *words)
    folders = {asked: gather(work / glyph / asked, hundred, own, asked=asked) for asked in ("glyph", "new", "others")}
    found: dict[str, object] = {"base": measured(base, folders)}
    print(json.dumps(found))
    for way in ways:
        run_dir = work / glyph / way
        if (drawn := work / glyph / ways[0] / "prior").is_dir() and not run_dir.exists():
            shutil.copytree(drawn, run_dir / "prior")  # the same pictures, which each run would draw
        began = time.monotonic()
        command = run(
            "-m", "ldm_train", "train", f"cache={cache}", f"run_dir={run_dir}", f"network.weights={base}",
            f"prior.prompts={prompts}", *WAYS[way], *more,
        )  # fmt: skip
        seconds = time.monotonic() - began
        found[way] = {"command": command, "seconds": round(seconds), **measured(run_dir, folders)}
        print(way, json.dumps(found[way]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="the quick start's run directory")
    parser.add_argument("work", type=Path, help="a folder for pictures, caches and runs")
    parser.add_argument("out", type=Path, help="FILE.json")
    parser.add_argument("--glyphs", nargs="+", default=["1F680", "1F451"], help="code points")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--words", nargs="*", default=[], help="further words of train")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if not (arguments.work / "hundred" / "metadata.jsonl").is_file():
        run("scripts/prepare_openmoji.py", arguments.work / "hundred")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {}
    for glyph in arguments.glyphs:
        found[glyph] = learn(arguments.base, arguments.work, glyph, arguments.ways, arguments.words)
        result = {"command": shlex.join(["python", *sys.argv]), "chance": 1 / 101, "held_out": HELD_OUT, "glyphs": found}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
