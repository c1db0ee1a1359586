"""Measure sets of drawn pictures against real pictures and captions; features of the real ones are computed once."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from ldm_train.commands.evaluate.drawn_pictures import read_picture_batches
from ldm_train.commands.evaluate.real_pictures import RealPictures, TrainedPictures
from ldm_train.commands.evaluate.statistics import compare_with_captions, compare_with_real, compare_with_trained
from ldm_train.features.clip_score import CLIPPair
from ldm_train.features.extractors import Pixels
from ldm_train.metrics.evaluation import match_captions
from ldm_train.metrics.numbers import Numbers, Resampling
from ldm_train.types import FeatureExtractor
from ldm_train.util.held_out_figures import taught_name

BATCH = 32  # pictures per call of an extractor


class Measures:
    """Compare sets of pictures with a feature extractor, with an open_clip model, with both, or with neither.

    Args:
        real: the real pictures; None if drawn pictures are not compared with real ones.
        trained: pictures that the model was trained on; None if they are unknown.
        device: the device to move the extractors to.
    """

    def __init__(
        self,
        real: RealPictures | None,
        extractor: FeatureExtractor | None,
        clip: CLIPPair | None,
        resampling: Resampling,
        device: torch.device,
        trained: TrainedPictures | None = None,
    ) -> None:
        self.real = real
        self.extractor = None if extractor is None else extractor.to(device)
        self.clip = None if clip is None else clip.to(device)
        self.resampling = resampling
        self.device = device
        self.trained = trained
        self.pixels = Pixels().to(device)
        self._features: dict[tuple[int, str], Tensor] = {}

    @property
    def any(self) -> bool:
        """Return whether any pictures are needed."""
        return self.extractor is not None or self.clip is not None

    def any_of(self, captions: Sequence[str]) -> bool:
        """Return whether pictures with these captions, which may be none, can be measured."""
        return self.extractor is not None or (self.clip is not None and len(captions) > 0)

    def describe(self) -> dict[str, object]:
        """Return the names of the extractors and the number of real pictures, for the result."""
        details: dict[str, object] = {}
        if self.extractor is not None and self.real is not None:
            details |= {"features": self.extractor.name, "real_pictures": self.real.count}
        if self.clip is not None:
            details["clip_score"] = self.clip.name
        return details | ({"resamples": self.resampling.resamples} if self.any else {})

    def __call__(self, files: Sequence[Path], captions: Sequence[str]) -> Numbers:
        """Measure the pictures in files; `captions` has one per file, or is empty."""
        return self._measure(files, captions, self.real)

    def measure_taught(self, files: Sequence[Path], captions: Sequence[str]) -> Numbers:
        """Measure the pictures in files, drawn from trained captions, against the trained pictures."""
        assert self.trained is not None
        return self._measure(files, captions, self.trained.taught).rename(taught_name)

    def _measure(self, files: Sequence[Path], captions: Sequence[str], truth: RealPictures | None) -> Numbers:
        numbers, drawn = Numbers(), read_picture_batches(files, BATCH)
        extractor = self.extractor or self.pixels
        if self.any and truth is not None:
            features = self._extract(extractor, drawn, len(files), "computing features of the drawn pictures")
            if self.extractor is not None:
                real = self._extract_real(extractor, truth)
                numbers |= compare_with_real(
                    real, features, self.resampling, extractor=extractor.name, cautions=truth is self.real
                )
            if self.trained is not None and self.real is not None:
                unseen, others = (self._extract_real(extractor, one) for one in (self.real, self.trained.others))
                numbers |= compare_with_trained(features, unseen, others, self.resampling, extractor=extractor.name)
            if captions and set(captions) <= set(truth.captions) and len(set(truth.captions)) > 1:
                pixels = self._extract(self.pixels, read_picture_batches(files, BATCH), len(files), "matching captions")
                matches = match_captions(pixels, captions, self._extract_real(self.pixels, truth), truth.captions)
                numbers.add_share("retrieval_at_1", matches, self.resampling)
        if self.clip is not None and captions:
            numbers |= self._measure_captions(self.clip, files, captions)
        return numbers

    def _extract_real(self, extractor: FeatureExtractor, real: RealPictures) -> Tensor:
        """Return the features of real pictures, (N, D), computed at the first call."""
        key = (id(real), extractor.name)
        if key not in self._features:
            self._features[key] = self._extract(
                extractor, real.read(BATCH), real.count, "computing features of the real pictures"
            )
        return self._features[key]

    def _extract(self, extractor: FeatureExtractor, pictures: Iterable[Tensor], count: int, description: str) -> Tensor:
        """Return the features of batches of pictures, (count, D)."""
        batches = track(pictures, description, total=-(-count // BATCH))
        return torch.cat([extractor(images.to(self.device)) for images in batches])

    def _measure_captions(self, clip: CLIPPair, files: Sequence[Path], captions: Sequence[str]) -> Numbers:
        batches = track(read_picture_batches(files, BATCH), "comparing with captions", total=-(-len(files) // BATCH))
        images = torch.cat([clip.images(batch.to(self.device)).cpu() for batch in batches])
        starts = range(0, len(captions), BATCH)
        texts = torch.cat([clip.texts(list(captions[i : i + BATCH])).cpu() for i in starts])
        return compare_with_captions(images, texts, self.resampling, model=clip.name)
