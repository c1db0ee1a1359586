"""What `ldm-train evaluate` can measure: each evaluation is told of a trained run and gives numbers by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.data.images import read_image, save_png, to_bytes, to_signed
from ldm_train.data.items import Item
from ldm_train.data.sources.folder import Folder
from ldm_train.generation import Generation, Recipe
from ldm_train.metrics.drawings import corner_colours, nearest, psnr
from ldm_train.training.callbacks.pictures import grid


@dataclass(frozen=True)
class Subject:
    """A trained run to measure, and how its pictures are drawn."""

    generation: Generation
    recipe: Recipe
    out: Path

    def draw(self, prompts: list[str], *, batch_size: int) -> Tensor:
        """A picture of each prompt, (B, 3, H, W) in [-1, 1]; the i-th has noise number i."""
        starts = range(0, len(prompts), batch_size)
        batches = [
            self.generation(prompts[i : i + batch_size], self.recipe, first=i).cpu()
            for i in track(starts, "drawing held-out pictures")
        ]
        return torch.cat(batches)


class Evaluation(Protocol):
    """Numbers, and texts that qualify them, of a trained run."""

    def __call__(self, subject: Subject) -> dict[str, float | int | str]: ...


class HeldOut:
    """Nothing beyond the validation loss and the noise error of held-out examples, which every run is given."""

    def __call__(self, subject: Subject) -> dict[str, float | int | str]:
        return {}


class Drawings:
    """Held-out drawings on named backgrounds, drawn from their captions and compared with the true ones.

    `retrieval_at_1`: how often a picture's nearest among all drawings on the asked background is the asked one;
    `background_accuracy`: how often the corners' mean colour is nearest to the asked background's;
    `drawing_psnr`: mean PSNR to the true drawing, dB, beside `autoencoder_psnr`, which bounds it.

    Args:
        source: the folder of pictures, whose metadata names each one's `background`.
        seeds: pictures of each held-out drawing.

    Raises:
        ValueError: no held-out picture there, or no background.
    """

    def __init__(self, *, source: str, seeds: int = 3, batch_size: int = 40) -> None:
        self.source = source
        self.seeds = seeds
        self.batch_size = batch_size

    def __call__(self, subject: Subject) -> dict[str, float | int | str]:
        items = [item for item in Folder(self.source) if item.problem is None]
        asked = [index for index, item in enumerate(items) if item.held_out]
        if not asked or any("background" not in item.fields for item in items):
            raise ValueError(
                f"evaluation.source={self.source} needs held-out pictures, and a background for each, in its metadata.jsonl"
            )
        truth = self._read(items, subject.generation.size)
        order = torch.tensor(asked).repeat(self.seeds)
        pictures = subject.draw([items[index].captions[0] for index in order.tolist()], batch_size=self.batch_size)
        references = truth[order]
        self._show(pictures, references, subject.out.with_suffix(".png"))
        autoencoder = subject.generation.autoencoder
        with torch.no_grad():
            raw = autoencoder.encode(truth[torch.tensor(asked)].to(subject.generation.device)).mean
            decoded = autoencoder.decode(raw).cpu()
        return {
            "retrieval_at_1": self._retrieval(pictures, order, truth, [item.fields["background"] for item in items]),
            "background_accuracy": self._backgrounds(pictures, order, truth, items),
            "drawing_psnr": psnr(pictures, references).mean().item(),
            "autoencoder_psnr": psnr(decoded, truth[torch.tensor(asked)]).mean().item(),
            "pictures": len(pictures),
            "held_out_pairs": len(asked),
        }

    def _read(self, items: Sequence[Item], size: int | tuple[int, int]) -> Tensor:
        return to_signed(torch.stack([read_image(item.picture.read(), size) for item in items if item.picture]))

    def _retrieval(self, pictures: Tensor, order: Tensor, truth: Tensor, backgrounds: list[str]) -> float:
        found = 0
        for background in sorted(set(backgrounds)):
            candidates = torch.tensor([index for index, name in enumerate(backgrounds) if name == background])
            asked = torch.isin(order, candidates)
            if asked.any():
                found += int((candidates[nearest(pictures[asked], truth[candidates])] == order[asked]).sum())
        return found / len(pictures)

    def _backgrounds(self, pictures: Tensor, order: Tensor, truth: Tensor, items: Sequence[Item]) -> float:
        names = [item.fields["background"] for item in items]
        known = sorted(set(names))
        colours = torch.stack([corner_colours(truth[[n == name for n in names]]).mean(0) for name in known])
        seen = torch.cdist(corner_colours(pictures), colours).argmin(1)
        asked = torch.tensor([known.index(names[index]) for index in order.tolist()])
        return (seen == asked).double().mean().item()

    def _show(self, pictures: Tensor, references: Tensor, path: Path) -> None:
        columns = min(20, len(pictures) // self.seeds)
        rows = [
            part for i in range(0, 3 * columns, columns) for part in (references[i : i + columns], pictures[i : i + columns])
        ]
        save_png(grid(to_bytes(torch.cat(rows)), columns=columns), path)
