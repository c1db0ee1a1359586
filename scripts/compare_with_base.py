"""Say whether a fine-tuned model draws one's own pictures better than its base model, from the same prompts and noise.

    python scripts/compare_with_base.py FOLDER BEFORE AFTER --out comparison.json

FOLDER has the captioned pictures, BEFORE and AFTER are folders that `ldm-train sample` wrote. A drawn picture is compared
with the own pictures of its caption by the cosine of EfficientNet's features. It is recognised if no own picture of another
caption is nearer.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ldm_train.commands.evaluate.galleries import open_gallery
from ldm_train.data.pictures.images import read_image, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.features.extractors import EfficientNetLite0
from ldm_train.util.files import atomic_write

BATCH = 16
MOST = 0.75  # share of the pictures that must be nearer to the own ones, or farther, for a verdict


@dataclass(frozen=True)
class Comparison:
    """The figures of a comparison: mean likeness to one's own pictures, and how many are recognised and nearer."""

    pictures: int
    likeness_before: float
    likeness_after: float
    recognised_before: int
    recognised_after: int
    nearer: int

    @property
    def verdict(self) -> str:
        gained = self.recognised_after - self.recognised_before
        if self.nearer >= MOST * self.pictures and gained >= 0:
            return "BETTER"
        if self.nearer <= (1 - MOST) * self.pictures or gained < 0:
            return "WORSE"
        return "NEITHER BETTER NOR WORSE"


def normalise(caption: str) -> str:
    return " ".join(caption.split())


def extract(extractor: EfficientNetLite0, images: list[Tensor]) -> Tensor:
    """Return the features of images (3, H, W) uint8, (N, D)."""
    return torch.cat([extractor(to_signed(batch)) for batch in torch.stack(images).split(BATCH)])


def compare(drawn: Tensor, own: Tensor, prompts: list[str], captions: list[list[str]]) -> tuple[Tensor, Tensor]:
    """Return the likeness of drawn pictures to the own ones of their caption, (N,), and whether they are recognised, (N,).

    Args:
        drawn, own: features, (N, D) and (M, D).
        captions: all captions of each own picture.
    """
    cosines = torch.nn.functional.normalize(drawn) @ torch.nn.functional.normalize(own).T
    same = torch.tensor([[prompt in of for of in captions] for prompt in prompts])
    likeness = cosines.masked_fill(~same, -2).amax(1)
    return likeness, likeness >= cosines.masked_fill(same, -2).amax(1)


@torch.no_grad()
def compare_folders(folder: Path, before: Path, after: Path) -> Comparison:
    """Compare the pictures of two folders with one's own.

    Raises:
        ValueError: the two folders are not of the same prompts, or a prompt is no caption of a picture.
    """
    items = [item for item in Folder(str(folder)) if item.picture is not None and item.captions]
    captions = [[normalise(caption) for caption in item.captions] for item in items]
    galleries = [open_gallery(name, str(path)) for name, path in (("before", before), ("after", after))]
    prompts = [normalise(prompt) for prompt in galleries[0].captions]
    if prompts != [normalise(prompt) for prompt in galleries[1].captions]:
        raise ValueError(f"{before} and {after} are pictures of different prompts; draw both with the same prompts=FILE")
    if strange := [prompt for prompt in prompts if not any(prompt in of for of in captions)]:
        raise ValueError(f"no picture in {folder} has the caption {strange[0]!r}; draw captions of these pictures")
    _, height, width = read_image(galleries[0].files[0], None).shape
    extractor = EfficientNetLite0()
    contents = [item.picture.read() for item in items if item.picture is not None]
    own = extract(extractor, [read_image(content, (height, width)) for content in contents])
    figures = []
    for gallery in galleries:
        features = extract(extractor, [read_image(file, (height, width)) for file in gallery.files])
        figures.append(compare(features, own, prompts, captions))
    (likeness_before, seen_before), (likeness_after, seen_after) = figures
    return Comparison(
        len(prompts),
        round(likeness_before.mean().item(), 3),
        round(likeness_after.mean().item(), 3),
        int(seen_before.sum()),
        int(seen_after.sum()),
        int((likeness_after > likeness_before).sum()),
    )


def describe(found: Comparison, folder: Path) -> str:
    """Return the figures and the verdict for people."""
    lines = [
        f"Likeness to the pictures in {folder} (cosine of features), {found.pictures} pictures, the same prompts and noise:",
        f"  base model   {found.likeness_before:.3f}   {found.recognised_before} recognised",
        f"  fine-tuned   {found.likeness_after:.3f}   {found.recognised_after} recognised",
        f"{found.verdict} than the base model: {found.nearer} of {found.pictures} pictures are nearer to yours.",
    ]
    if found.verdict != "BETTER":
        lines.append(
            "What to do: docs/noise.md; compare CACHE/reconstructions.png first, then try more steps or half the rate."
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one's own captioned pictures")
    parser.add_argument("before", type=Path, help="pictures of the base model")
    parser.add_argument("after", type=Path, help="pictures of the fine-tuned model")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file to write")
    arguments = parser.parse_args()
    try:
        found = compare_folders(arguments.folder, arguments.before, arguments.after)
    except ValueError as error:
        parser.error(str(error))
    print(describe(found, arguments.folder))
    if arguments.out is not None:
        atomic_write(arguments.out, json.dumps(asdict(found) | {"verdict": found.verdict}, indent=2) + "\n")


if __name__ == "__main__":
    main()
