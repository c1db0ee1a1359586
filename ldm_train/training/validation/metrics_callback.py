"""Metrics of sets of pictures while a run trains: pictures drawn from captions, compared with the true ones."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from torch import Tensor

from ldm_train.data.batches.datamodules import CachedLatents
from ldm_train.data.pictures.images import as_rgb
from ldm_train.features.clip_score import CLIPPair
from ldm_train.features.extractors import Features, Pixels
from ldm_train.generation import Generation, SamplingSettings
from ldm_train.metrics.evaluation import Comparison, PictureMetric, Retrieval
from ldm_train.metrics.sets import (
    MIN_PICTURES,
    caution_of_few,
    clip_score,
    compare_features,
    is_rank_deficient,
    retrieval_at_1,
)
from ldm_train.training.callbacks.picture_grids import draw_in_passes
from ldm_train.training.callbacks.spent import TimeSpent
from ldm_train.training.callbacks.step_log import is_due
from ldm_train.training.ema.ema import EMA
from ldm_train.training.loggers.dashboards import PlainRecord, log_record, log_scalars
from ldm_train.training.module import NoisePredictorTraining
from ldm_train.training.optimization.sharded_tensors import is_sharded
from ldm_train.training.validation.compared import (
    PORTION_SIZE,
    ComparisonSet,
    choose_comparisons,
    compute_over_ranks,
    print_once,
)
from ldm_train.training.validation.real_features import FeatureStore, load_or_compute_features
from ldm_train.util.held_out_figures import say_if_few, taught_name

PIXEL_FEATURES, CLIP_IMAGES = "pixels", "clip"


@dataclass(frozen=True)
class Measuring:
    """What is measured, and on which pictures.

    Args:
        features: extractor for distances between drawn and true pictures; None for no distances.
        pair: CLIP, to compare drawn pictures with their captions; None for no comparison.
        recipe: how pictures are drawn; the i-th has noise number i.
        count: largest number of held-out captions, and of trained ones.
        metrics: further metrics of each picture, at a size of 64x64 pixels.
    """

    features: Features | None
    pair: CLIPPair | None
    recipe: SamplingSettings
    count: int
    metrics: Sequence[PictureMetric] = ()


class MetricsCallback(Callback):
    """Draw held-out and trained captions with the averaged weights, and log metrics of the pictures' features.

    The true pictures are decoded from their cached latents: so the source is not needed, and the autoencoder's errors do not
    count against the network. `metrics/kid_…`, `metrics/fid_…`, `metrics/precision_…` and `metrics/recall_…` have the
    extractor in their name, and are of held-out pictures; of trained ones if too few are held out. `metrics/retrieval_at_1`
    is the share of drawn pictures for which the nearest true picture, pixel by pixel, has the caption that was drawn, and
    `metrics/taught_retrieval_at_1` that share for trained captions. The metrics of the run's evaluation follow, of both.

    Args:
        generation: builds the generation from the module's network and text encoder.
        every: optimizer steps; also at the end of the run.
        kept: store of the true pictures' features; None to compute them in every run.
        spent: to which the time of the metrics is added.
    """

    def __init__(
        self,
        ema: EMA,
        generation: Callable[[NoisePredictorTraining], Generation],
        measuring: Measuring,
        *,
        every: int,
        kept: FeatureStore | None,
        spent: TimeSpent | None = None,
    ) -> None:
        self.ema = ema
        self.generation = generation
        self.measuring = measuring
        self.every = every
        self.kept = kept
        self.spent = spent or TimeSpent()
        self.extractors: list[Features] = [Pixels()] if measuring.features is None else [Pixels(), measuring.features]
        self._sets: list[ComparisonSet] = []
        self._prepared = False
        self._real: list[Mapping[str, Tensor]] = []
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
        if not self._prepared:
            self._prepared = True
            self._prepare(trainer, module, generation)
        if self._sets:
            with self.ema.swapped(module):
                drawn = [
                    self._draw(trainer, module, generation, compared, self._list_extractors(compared))
                    for compared in self._sets
                ]
            self._log(trainer, drawn)
        for part in frozen:
            part.to(torch.device("cpu"))  # free the GPU's memory for the training

    def _prepare(self, trainer: pl.Trainer, module: NoisePredictorTraining, generation: Generation) -> None:
        """Choose the true pictures, and load or compute their features."""
        data: CachedLatents = trainer.datamodule  # type: ignore[attr-defined]
        self._sets = choose_comparisons(data, self.measuring.count, factor=generation.autoencoder.factor)
        if not self._sets:
            return print_once(trainer, f"note: no metrics of sets of pictures: they need at least {MIN_PICTURES} pictures")

        @torch.no_grad()
        def images(compared: ComparisonSet, number: int) -> Tensor:
            portion = compared.portions[number]
            mean = data.latents.moments(portion, torch.zeros_like(portion)).mean
            latents = mean.to(module.device, torch.promote_types(mean.dtype, torch.float32))
            return as_rgb(generation.decode(module.scaling.to_model(latents)))

        found = [
            load_or_compute_features(
                compared, self._list_extractors(compared), partial(images, compared), self.kept, trainer
            )
            for compared in self._sets
        ]
        self._real = [features for features, _ in found]
        for problem in sorted(set().union(*(problems for _, problems in found))):
            print_once(
                trainer,
                f"note: the true pictures' features were not stored, and the next run will compute them again: {problem}",
            )
        if self.measuring.pair is not None:
            self._texts = self.measuring.pair.texts(self._sets[0].captions).cpu()
        self._explain(trainer, self._sets[0])

    def _list_extractors(self, compared: ComparisonSet) -> list[Features]:
        """Return all extractors for the first set, and pixels only for the other, to spare time."""
        return self.extractors if compared is self._sets[0] else self.extractors[:1]

    def _draw(
        self,
        trainer: pl.Trainer,
        module: NoisePredictorTraining,
        generation: Generation,
        compared: ComparisonSet,
        extractors: Sequence[Features],
    ) -> dict[str, Tensor]:
        """Return features of a drawn picture of each caption, from the extractors and, for the first set, CLIP."""
        pair = self.measuring.pair if compared is self._sets[0] else None
        at_once = trainer.datamodule.geometry.rows  # type: ignore[attr-defined]

        def compute(number: int) -> dict[str, Tensor]:
            drawing, captions = replace(generation, size=compared.sizes[number]), compared.captions_of(number)
            first, recipe = compared.starts[number], self.measuring.recipe
            given = drawing.given_of(trainer.datamodule.given, compared.portions[number])  # type: ignore[attr-defined]
            with module.at_rest():
                images = draw_in_passes(
                    lambda start, end: drawing(
                        captions[start:end],
                        recipe,
                        first=first + start,
                        given={name: rows[start:end] for name, rows in given.items()},
                    ),
                    len(captions),
                    at_once=at_once,
                    most=PORTION_SIZE if is_sharded(module) else 0,
                )
            images = as_rgb(images)
            features = {extractor.name: extractor(images) for extractor in extractors}
            return features if pair is None else features | {CLIP_IMAGES: pair.images(images)}

        sizes = {e.name: e.size for e in extractors} | ({} if pair is None else {CLIP_IMAGES: pair.size})
        return compute_over_ranks(compared, sizes, compute, trainer)

    def _log(self, trainer: pl.Trainer, drawn: Sequence[Mapping[str, Tensor]]) -> None:
        compared = self._sets[0]
        if not all(features.isfinite().all() for one in drawn for features in one.values()):
            return print_once(
                trainer,
                f"note: no metrics at step {trainer.global_step}: pictures that the averaged weights drew are not finite",
            )
        values = trainer.strategy.broadcast(self._values(drawn) if trainer.is_global_zero else {})
        log_scalars(trainer, {f"metrics/{name}": value for name, value in values.items()})
        recipe, extractor = self.measuring.recipe, self.measuring.features
        record: PlainRecord = {
            "pictures": len(compared.captions),
            "held_out": compared.held_out,
            "taught_pictures": len(self._sets[-1].captions),
            "steps": recipe.steps,
            "seed": recipe.seed,
        }
        if extractor is not None:
            record |= {"extractor": extractor.name, "features": extractor.size, "rank_deficient": self._deficient()}
        log_record(trainer, "set_metrics", {**record, **values})
        return None

    def _values(self, drawn: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
        values: dict[str, float] = {}
        extractor, pair = self.measuring.features, self.measuring.pair
        if extractor is not None:
            metrics = compare_features(self._real[0][extractor.name], drawn[0][extractor.name])
            values |= {f"{name}_{extractor.name}": value for name, value in metrics.items()}
        if pair is not None and self._texts is not None:
            values[f"clip_score_{pair.name}"] = clip_score(drawn[0][CLIP_IMAGES], self._texts).mean().item()
            values[f"clip_retrieval_at_1_{pair.name}"] = retrieval_at_1(drawn[0][CLIP_IMAGES], self._texts)
        for compared, one, real in zip(self._sets, drawn, self._real, strict=True):
            images, truth = (Pixels.images(features[PIXEL_FEATURES]) for features in (one, real))
            comparison = Comparison(images, truth, compared.captions, compared.fields, compared.held_out)
            for metric in (Retrieval(), *self.measuring.metrics):
                for name, each in metric(copy.deepcopy(comparison)).items():  # which own code may change
                    values[name if compared.held_out else taught_name(name)] = each.double().mean().item()
        return values

    def _deficient(self) -> bool:
        extractor = self.measuring.features
        return extractor is not None and is_rank_deficient(self._real[0][extractor.name], self._real[0][extractor.name])

    def _explain(self, trainer: pl.Trainer, compared: ComparisonSet) -> None:
        """Print once what the metrics are of and how far to trust them."""
        extractor, count = self.measuring.features, len(compared.captions)
        if caution := caution_of_few(count, count):
            print_once(trainer, f"caution: {caution}")
        if not compared.held_out:
            print_once(
                trainer,
                f"note: the metrics are of {count} training pictures, because fewer than {MIN_PICTURES} are held out",
            )
        elif few := say_if_few(count):
            print_once(trainer, f"caution: the metrics of held-out pictures are {few}")
        if extractor is not None and self._deficient():
            print_once(
                trainer,
                f"note: metrics/fid_{extractor.name} is of {count} pictures, too few for the covariance of {extractor.size} "
                f"features: compare it only at this number of pictures, or compare metrics/kid_{extractor.name} instead",
            )
