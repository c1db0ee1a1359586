"""All that is measured of a set of drawn pictures, beside real ones and captions; the real ones are looked at once."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.commands.evaluate.drawn_pictures import in_batches
from ldm_train.commands.evaluate.measured import Numbers, Resampling, compare, go_together
from ldm_train.commands.evaluate.real_pictures import Real
from ldm_train.features.clip_score import CLIPPair
from ldm_train.types import FeatureExtractor

BATCH = 32  # pictures that an extractor is given at once


class Measures:
    """Compares sets of pictures, by an extractor and an open_clip model where there are such.

    Args:
        real: None where nothing is compared.
        device: where the extractors are.
    """

    def __init__(
        self,
        real: Real | None,
        extractor: FeatureExtractor | None,
        clip: CLIPPair | None,
        resampling: Resampling,
        device: torch.device,
    ) -> None:
        self.real = real
        self.extractor = None if extractor is None else extractor.to(device)
        self.clip = None if clip is None else clip.to(device)
        self.resampling = resampling
        self.device = device
        self._features: Tensor | None = None

    @property
    def any(self) -> bool:
        """Whether pictures are needed at all."""
        return self.extractor is not None or self.clip is not None

    def any_of(self, captions: Sequence[str]) -> bool:
        """Return whether pictures with these captions, which may be none, can be measured."""
        return self.extractor is not None or (self.clip is not None and len(captions) > 0)

    def told(self) -> dict[str, object]:
        """By what the numbers are, and from how many real pictures."""
        found: dict[str, object] = {}
        if self.extractor is not None and self.real is not None:
            found |= {"features": self.extractor.name, "real_pictures": self.real.count}
        if self.clip is not None:
            found["clip_score"] = self.clip.name
        return found | ({"resamples": self.resampling.resamples} if self.any else {})

    def __call__(self, files: Sequence[Path], captions: Sequence[str]) -> Numbers:
        """Of pictures in files, and a caption of each, or none."""
        numbers = Numbers()
        if self.extractor is not None and self.real is not None:
            drawn = self._of(in_batches(files, BATCH), len(files), "looking at the drawn pictures")
            numbers |= compare(self._of_real(self.real), drawn, self.resampling, extractor=self.extractor.name)
        if self.clip is not None and captions:
            numbers |= self._with_captions(self.clip, files, captions)
        return numbers

    def _of_real(self, real: Real) -> Tensor:
        if self._features is None:
            self._features = self._of(real.read(BATCH), real.count, "looking at the real pictures")
        return self._features

    def _of(self, pictures: Iterable[Tensor], count: int, what: str) -> Tensor:
        """Features (count, D)."""
        assert self.extractor is not None
        shown = track(pictures, what, total=-(-count // BATCH))
        return torch.cat([self.extractor(images.to(self.device)) for images in shown])

    def _with_captions(self, clip: CLIPPair, files: Sequence[Path], captions: Sequence[str]) -> Numbers:
        shown = track(in_batches(files, BATCH), "comparing with captions", total=-(-len(files) // BATCH))
        images = torch.cat([clip.images(part.to(self.device)).cpu() for part in shown])
        starts = range(0, len(captions), BATCH)
        texts = torch.cat([clip.texts(list(captions[i : i + BATCH])).cpu() for i in starts])
        return go_together(images, texts, self.resampling, model=clip.name)
