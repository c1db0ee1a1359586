"""Metrics of sets of pictures while a run trains: those drawn from captions, against the true ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.features.clip_score import CLIPPair
from ldm_train.features.extractors import Features, Pixels
from ldm_train.generation import Generation, Recipe
from ldm_train.metrics.drawings import background_accuracy, nearest
from ldm_train.metrics.sets import clip_score, measures, rank_deficient, retrieval_at_1
from ldm_train.training.callbacks.spent import Spent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import log_record, log_scalars
from ldm_train.training.loggers.jsonl import Record
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.validation.compared import Compared, choose, over_ranks, say
from ldm_train.training.validation.real_features import KeptFeatures, real_features

PIXELS, CLIP = "pixels", "clip"


@dataclass(frozen=True)
class Measuring:
    """What is measured, and of which pictures.

    Args:
        features: whose distances between drawn and true pictures are measured; None for none.
        pair: by which drawn pictures are compared with their captions; None for none.
        recipe: how pictures are drawn; the i-th has noise number i.
        count: how many, at most.
    """

    features: Features | None
    pair: CLIPPair | None
    recipe: Recipe
    count: int


class Metrics(Callback):
    """Draws held-out captions with the averaged weights, and logs what their pictures' features say.

    The true pictures are what their cached latents decode to: they are there when the source is gone, and the autoencoder's
    own errors do not count against the network. `metrics/kid_…` and `metrics/fid_…` are distances, precision and recall
    shares, all with the extractor in the name. Where captions are held out and distinct, `metrics/retrieval_at_1` is the
    share of drawn pictures to which the true picture of their caption is the nearest, pixel by pixel; where the source names
    each picture's `background`, `metrics/background_accuracy` is the share that have its colour in their corners.

    Args:
        generation: makes the pictures of the module's network and text encoder.
        every: optimizer steps; also at the end of the run.
        kept: where the true pictures' features are kept; None for no longer than the run.
        spent: what its time is added to.
    """

    def __init__(
        self,
        ema: EMA,
        generation: Callable[[NoisePredictorTraining], Generation],
        measuring: Measuring,
        *,
        every: int,
        kept: KeptFeatures | None,
        spent: Spent | None = None,
    ) -> None:
        self.ema = ema
        self.generation = generation
        self.measuring = measuring
        self.every = every
        self.kept = kept
        self.spent = spent or Spent()
        self.extractors: list[Features] = [Pixels()] if measuring.features is None else [Pixels(), measuring.features]
        self._compared: Compared | None = None
        self._real: Mapping[str, Tensor] = {}
        self._texts: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if not is_due(trainer, batch_idx, every=self.every):
            return
        assert isinstance(pl_module, NoisePredictorTraining)
        with self.spent("metrics"):
            self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, module: NoisePredictorTraining) -> None:
        frozen = [part for part in (*self.extractors, self.measuring.pair) if part is not None]
        for part in frozen:
            part.to(module.device)
        generation = self.generation(module)
        if not self._real:
            self._look(trainer, module, generation)
        if self._compared is not None:
            drawn = self._draw(trainer, module, generation, self._compared)
            self._log(trainer, self._compared, drawn)
        for part in frozen:
            part.to(torch.device("cpu"))  # until the next time, a GPU's memory is the training's

    def _look(self, trainer: pl.Trainer, module: NoisePredictorTraining, generation: Generation) -> None:
        """Choose the true pictures, and have their features."""
        data: CachedLatents = trainer.datamodule  # type: ignore[attr-defined]
        compared = choose(data, self.measuring.count, factor=generation.autoencoder.factor)
        if compared is None:
            return say(trainer, "note: there are too few pictures for metrics of sets of pictures")
        self._compared = compared

        @torch.no_grad()
        def images(number: int) -> Tensor:
            portion = compared.portions[number]
            mean = data.latents.moments(portion, torch.zeros_like(portion)).mean
            latents = mean.to(module.device, torch.promote_types(mean.dtype, torch.float32))
            return generation.decode(module.scaling.to_model(latents))

        self._real = real_features(compared, self.extractors, images, self.kept, trainer)
        if self.measuring.pair is not None:
            self._texts = self.measuring.pair.texts(compared.captions).cpu()
        self._tell(trainer, compared)

    def _draw(
        self, trainer: pl.Trainer, module: NoisePredictorTraining, generation: Generation, compared: Compared
    ) -> dict[str, Tensor]:
        """Features of a picture of each caption, by the extractors and the image tower."""
        pair = self.measuring.pair

        def compute(number: int) -> dict[str, Tensor]:
            drawing = replace(generation, size=compared.sizes[number])
            with module.at_rest():
                images = drawing(compared.captions_of(number), self.measuring.recipe, first=compared.starts[number])
            features = {extractor.name: extractor(images) for extractor in self.extractors}
            return features if pair is None else features | {CLIP: pair.images(images)}

        sizes = {e.name: e.size for e in self.extractors} | ({} if pair is None else {CLIP: pair.size})
        with self.ema.swapped(module):
            return over_ranks(compared, sizes, compute, trainer)

    def _log(self, trainer: pl.Trainer, compared: Compared, drawn: Mapping[str, Tensor]) -> None:
        if not all(features.isfinite().all() for features in drawn.values()):
            return say(
                trainer, f"note: at step {trainer.global_step} the averaged weights draw nothing that can be measured"
            )
        values = trainer.strategy.broadcast(self._values(compared, drawn) if trainer.is_global_zero else {})
        log_scalars(trainer, {f"metrics/{name}": value for name, value in values.items()})
        recipe, extractor = self.measuring.recipe, self.measuring.features
        told: Record = {
            "pictures": len(compared.captions),
            "held_out": compared.held_out,
            "steps": recipe.steps,
            "seed": recipe.seed,
        }
        if extractor is not None:
            told |= {"extractor": extractor.name, "features": extractor.size, "rank_deficient": self._deficient(compared)}
        log_record(trainer, "set_metrics", {**told, **values})
        return None

    def _values(self, compared: Compared, drawn: Mapping[str, Tensor]) -> dict[str, float]:
        values: dict[str, float] = {}
        extractor, pair = self.measuring.features, self.measuring.pair
        if extractor is not None:
            found = measures(self._real[extractor.name], drawn[extractor.name])
            values |= {f"{name}_{extractor.name}": value for name, value in found.items()}
        if pair is not None and self._texts is not None:
            values[f"clip_score_{pair.name}"] = clip_score(drawn[CLIP], self._texts).mean().item()
            values[f"clip_retrieval_at_1_{pair.name}"] = retrieval_at_1(drawn[CLIP], self._texts)
        if compared.held_out and len(set(compared.captions)) == len(compared.captions):
            right = nearest(drawn[PIXELS], self._real[PIXELS]) == torch.arange(len(compared.captions))
            values["retrieval_at_1"] = right.double().mean().item()
        backgrounds = [name for name in compared.backgrounds if name is not None]
        if len(backgrounds) == len(compared.captions) and len(set(backgrounds)) > 1:
            images, truth = (Pixels.images(features[PIXELS]) for features in (drawn, self._real))
            values["background_accuracy"] = background_accuracy(images, truth, backgrounds)
        return values

    def _deficient(self, compared: Compared) -> bool:
        extractor = self.measuring.features
        return extractor is not None and rank_deficient(self._real[extractor.name], self._real[extractor.name])

    def _tell(self, trainer: pl.Trainer, compared: Compared) -> None:
        """What the figures are of, once."""
        extractor, count = self.measuring.features, len(compared.captions)
        if not compared.held_out:
            say(trainer, f"note: too few pictures are held out: the metrics are of {count} training pictures")
        if extractor is not None and self._deficient(compared):
            say(
                trainer,
                f"note: metrics/fid_{extractor.name} is of {count} pictures for {extractor.size} features, too few for "
                f"their covariance: compare it at this count alone, and look at metrics/kid_{extractor.name} first",
            )
