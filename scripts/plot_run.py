"""A run at a glance: its validation loss over the steps beside its last pictures, as one PNG file.

python scripts/plot_run.py outputs/noto docs/pictures/noto.png
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("out", type=Path, help="the PNG file to write")
    arguments = parser.parse_args()

    lines = (arguments.run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    samples = sorted((arguments.run_dir / "samples").glob("step-*.png"))[-1]
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    curve, pictures = figure.subplots(1, 2, width_ratios=[1, 2])
    for name in ("loss", "validation_loss"):
        points = [(row["step"], row[name]) for row in rows if name in row]
        if name == "loss":  # of batches: shown as means of twenty logged steps
            groups = [points[i : i + 20] for i in range(0, len(points) - 20, 20)]
            points = [(group[10][0], sum(value for _, value in group) / 20) for group in groups]
        curve.plot(*zip(*points, strict=True), label=name.replace("_", " "), marker="o" if name != "loss" else None)
    curve.set(xlabel="step", yscale="log")
    curve.legend()
    pictures.imshow(Image.open(samples))
    pictures.set_title(samples.stem)
    pictures.axis("off")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=100)


if __name__ == "__main__":
    main()
