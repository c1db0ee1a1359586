"""Measure how autoencoders give pictures back that none of them was trained on, set by set.

    python scripts/prepare_general.py data/general && python scripts/prepare_openmoji.py data/openmoji
    python scripts/measure_autoencoders.py data/general-unseen data/openmoji --out docs/results/autoencoders.json

A set is a folder with PNG files of 64x64 pixels: one that is named here, or one in it. The figure of a set is the mean PSNR
of its pictures, in dB. `openmoji` are the quick start's scenes.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from measuring import write_results
from rich.progress import track
from torch import Tensor

from ldm_train.autoencoders.autoencoder import KLAutoencoder, pretrained
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.metrics.pixel_distance import psnr

SIDE, BATCH = 64, 32
MOST = 400  # pictures of a set, evenly spread


def find_sets(folders: Sequence[Path]) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name and the pictures of each folder with PNG files."""
    for folder in folders:
        for place in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
            if paths := sorted(place.glob("*.png")):
                yield (place.parent.name if place.name == "images" else place.name), paths[:: -(-len(paths) // MOST)]


@torch.no_grad()
def give_back(autoencoder: KLAutoencoder, images: Tensor) -> Tensor:
    """Encode pictures (B, 3, H, W) in [-1, 1] to the mean of the posterior, and decode that."""
    return autoencoder.decode(autoencoder.encode(images).mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--weights", nargs="+", default=["general", "openmoji"], help="shipped names, folders or files")
    parser.add_argument("--out", type=Path, help="the JSON file")
    arguments = parser.parse_args()
    autoencoders = {name: pretrained(name) for name in arguments.weights}
    sets: dict[str, dict[str, float]] = {}
    for name, paths in find_sets(arguments.folders):
        values: dict[str, list[Tensor]] = {weights: [] for weights in autoencoders}
        for start in track(range(0, len(paths), BATCH), name):
            images = to_signed(torch.stack([read_image(path, SIDE) for path in paths[start : start + BATCH]]))
            for weights, autoencoder in autoencoders.items():
                values[weights].append(psnr(give_back(autoencoder, images), images))
        sets[name] = {"pictures": len(paths), **{key: torch.cat(found).mean().item() for key, found in values.items()}}
        print(name, *(f"{key} {value:.2f}" for key, value in sets[name].items()))
    write_results(arguments.out, {"side": SIDE, "sets": sets})


if __name__ == "__main__":
    main()
