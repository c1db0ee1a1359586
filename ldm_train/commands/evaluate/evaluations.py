"""What `ldm-train evaluate` can measure beside distances of sets: each evaluation asks for pictures and gives numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ldm_train.commands.evaluate.measured import Numbers, Resampling
from ldm_train.commands.evaluate.output_files import SHEET
from ldm_train.data.pictures.images import read_image, save_png, to_bytes, to_signed
from ldm_train.data.sources.folder import Folder
from ldm_train.data.sources.items import Item
from ldm_train.metrics.drawings import find_nearest, measure_corner_colours, psnr
from ldm_train.training.callbacks.picture_grids import make_grid_picture
from ldm_train.types import Autoencoder


@dataclass(frozen=True)
class Drawn:
    """What was drawn of the prompts that an evaluation asked for.

    Args:
        pictures: (B, 3, H, W) in [-1, 1].
        autoencoder: whose latents they were drawn in, where that is known, on `device`.
        sheet: where a picture of them may be written.
    """

    pictures: Tensor
    autoencoder: Autoencoder | None
    device: torch.device
    sheet: Path | None


class Evaluation(Protocol):
    """Numbers of a model by the pictures of prompts that it asks for; of none, where it asks for none."""

    def prompts(self) -> list[str]: ...

    def __call__(self, drawn: Drawn, resampling: Resampling) -> Numbers: ...


class HeldOut:
    """Nothing beyond what every model is given: the losses of held-out examples, and sets of pictures compared."""

    def prompts(self) -> list[str]:
        return []

    def __call__(self, drawn: Drawn, resampling: Resampling) -> Numbers:
        return Numbers()


class Drawings:
    """Held-out drawings on named backgrounds, drawn from their captions and compared with the true ones.

    `retrieval_at_1`: how often a picture's nearest among all drawings on the asked background is the asked one;
    `background_accuracy`: how often the corners' mean colour is nearest to the asked background's;
    `drawing_psnr`: mean PSNR to the true drawing, dB, beside `autoencoder_psnr`, which bounds it.

    Args:
        source: the folder of pictures, whose metadata names each one's `background`.
        seeds: pictures of each held-out drawing.
        batch_size: pictures that the autoencoder is given at once.
    """

    def __init__(self, *, source: str, seeds: int = 3, batch_size: int = 40) -> None:
        self.source = source
        self.seeds = seeds
        self.batch_size = batch_size

    @cached_property
    def items(self) -> list[Item]:
        """All drawings.

        Raises:
            ValueError: no held-out picture there, or no background.
        """
        items = [item for item in Folder(self.source) if item.problem is None]
        if not any(item.held_out for item in items) or any("background" not in item.fields for item in items):
            raise ValueError(
                f"evaluation.source={self.source} needs held-out pictures, and a background for each, in its metadata.jsonl"
            )
        return items

    @property
    def asked(self) -> list[int]:
        return [index for index, item in enumerate(self.items) if item.held_out]

    def prompts(self) -> list[str]:
        return [self.items[index].captions[0] for index in self.asked * self.seeds]

    def __call__(self, drawn: Drawn, resampling: Resampling) -> Numbers:
        pictures, truth = drawn.pictures, self._read(self.items, (drawn.pictures.shape[2], drawn.pictures.shape[3]))
        order = torch.tensor(self.asked * self.seeds)
        backgrounds = [item.fields["background"] for item in self.items]
        numbers = Numbers()
        numbers.add_share("retrieval_at_1", self._found(pictures, order, truth, backgrounds), resampling)
        numbers.add_share("background_accuracy", self._on_background(pictures, order, truth, backgrounds), resampling)
        numbers.add_mean("drawing_psnr", psnr(pictures, truth[order]), resampling)
        if drawn.autoencoder is not None:
            own = truth[torch.tensor(self.asked)]
            numbers.add_mean("autoencoder_psnr", psnr(self._through(own, drawn), own), resampling)
        numbers.add("pictures", len(pictures))
        numbers.add("held_out_pairs", len(self.asked))
        if drawn.sheet is not None:
            self._show(pictures, truth[order], drawn.sheet)
        return numbers

    @torch.no_grad()
    def _through(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Images as the autoencoder gives them back."""
        assert drawn.autoencoder is not None
        raw = [drawn.autoencoder.encode(part.to(drawn.device)).mean for part in images.split(self.batch_size)]
        return torch.cat([drawn.autoencoder.decode(part).cpu() for part in raw])

    def _read(self, items: Sequence[Item], size: tuple[int, int]) -> Tensor:
        return to_signed(torch.stack([read_image(item.picture.read(), size) for item in items if item.picture]))

    def _found(self, pictures: Tensor, order: Tensor, truth: Tensor, backgrounds: list[str]) -> Tensor:
        """Whether each picture's nearest drawing on its background is the asked one, (B,)."""
        found = torch.zeros(len(pictures), dtype=torch.bool)
        for background in sorted(set(backgrounds)):
            candidates = torch.tensor([index for index, name in enumerate(backgrounds) if name == background])
            asked = torch.isin(order, candidates)
            if asked.any():
                found[asked] = candidates[find_nearest(pictures[asked], truth[candidates])] == order[asked]
        return found

    def _on_background(self, pictures: Tensor, order: Tensor, truth: Tensor, backgrounds: list[str]) -> Tensor:
        """Whether each picture's corners are nearest to the asked background's colour, (B,)."""
        known = sorted(set(backgrounds))
        colours = torch.stack([measure_corner_colours(truth[[n == name for n in backgrounds]]).mean(0) for name in known])
        seen = torch.cdist(measure_corner_colours(pictures), colours).argmin(1)
        return seen == torch.tensor([known.index(backgrounds[index]) for index in order.tolist()])

    def _show(self, pictures: Tensor, references: Tensor, path: Path) -> None:
        columns = min(20, len(pictures) // self.seeds)
        rows = [
            part for i in range(0, 3 * columns, columns) for part in (references[i : i + columns], pictures[i : i + columns])
        ]
        save_png(make_grid_picture(to_bytes(torch.cat(rows)), columns=columns), path, SHEET)
