"""Encode and decode a few pictures with the run's autoencoder, to check its weights and its latent scaling."""

import os
from dataclasses import dataclass
from time import perf_counter, process_time

import torch
from torch import Tensor

from ldm_train.assembly.decoded_sample import (
    SAMPLE,
    DecodedPicture,
    batch_by_shape,
    choose_sample,
    measure_psnr,
    pair_pictures,
)
from ldm_train.assembly.pixel_formats import read_pixel_format
from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.pictures.images import to_signed
from ldm_train.data.scan.ordered_pictures import ItemsByKey
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import now
from ldm_train.training.rendering import Rendering
from ldm_train.types import Autoencoder

SECONDS = 8.0  # the time limit for the sample; at least one batch is tried
WRONG = 10.0  # dB; usually the weights are wrong
CAUSE = (
    "weights for pixel values in another range ([0, 1] instead of [-1, 1]), or pictures much smaller than those that the "
    "autoencoder was trained on"
)


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the latents of a sample of pictures.

    Args:
        pictures: number of pictures.
        mean, std: of the raw latents, per channel.
        deviation: root mean square of the latents after scaling; should be near 1.
        low, high: range of the pixel values.
        psnr: of the decoded pictures compared with the pictures, dB.
        problem: what is wrong with the scaling, if anything.
    """

    pictures: int
    mean: list[float]
    std: list[float]
    deviation: float
    low: float
    high: float
    psnr: float
    problem: str | None


@dataclass(frozen=True)
class Pace:
    """Seconds of reading a picture's views, and of encoding one view."""

    reading: float
    encoding: float


@dataclass(frozen=True)
class Trial:
    """A sample of pictures that was encoded and decoded, its statistics, and the pace."""

    pictures: list[DecodedPicture]
    statistics: LatentStatistics
    pace: Pace


@torch.inference_mode()
def try_latents(settings: CheckSettings, plan: CachePlan, autoencoder: Autoencoder, device: torch.device) -> Trial | None:
    """Encode and decode a sample of the pictures; return None if none can be read again."""
    rendering = Rendering(
        ItemsByKey(plan.scanned),
        plan.crop,
        background=settings.background,
        max_pixels=settings.max_pixels,
        pixels=read_pixel_format(settings.pixels),
    )
    rows, began = choose_sample(plan, SAMPLE), perf_counter()
    images = [to_signed(rendering(row)[0]) for row in rows]
    reading = (perf_counter() - began) / max(1, len(rows))
    if not rows:
        return None
    autoencoder.to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `encode` on a CPU, where each core takes its own batches
    means, seconds, decoded = [], [], list[Tensor]()
    for batch in batch_by_shape(images, settings.encode_batch_size if device.type == "cuda" else 2):
        start = read_work_clock(device)
        originals = batch.to(device)
        mean = autoencoder.encode(originals).mean
        seconds.append((read_work_clock(device) - start) / len(batch))
        decoded += autoencoder.decode(mean).cpu()
        means.append(mean.double().cpu().transpose(0, 1).flatten(1))
        if now(device) - began > SECONDS:
            break
    torch.set_num_threads(threads)
    autoencoder.to(torch.device("cpu"))
    pace = Pace(reading, min(seconds) / (1 if device.type == "cuda" else os.cpu_count() or 1))
    images, rows = images[: len(decoded)], rows[: len(decoded)]
    pairs = pair_pictures(plan, rows, images, decoded)
    statistics = describe_latents(torch.cat(means, dim=1), images, measure_psnr(pairs), Scaling.of(autoencoder))
    return Trial(pairs, statistics, pace)


def read_work_clock(device: torch.device) -> float:
    """Return seconds of work so far: the wall clock on a GPU; on a CPU this process's time, without that of others."""
    return now(device) if device.type == "cuda" else process_time()


def describe_latents(values: Tensor, images: list[Tensor], psnr: float, scaling: Scaling) -> LatentStatistics:
    """Return the statistics of raw latents.

    Args:
        values: the raw latents, (C, N).
        images: the images that they were encoded from, each (3, H, W).
        psnr: of the decoded images, dB.
    """
    mean, std = values.mean(1).tolist(), values.std(1, correction=0).tolist()
    deviation = scaling.to_model(values).square().mean().sqrt().item()
    return LatentStatistics(
        pictures=len(images),
        mean=[round(value, 4) for value in mean],
        std=[round(value, 4) for value in std],
        deviation=round(deviation, 4),
        low=min(image.min().item() for image in images),
        high=max(image.max().item() for image in images),
        psnr=psnr,
        problem=scaling.problem(mean, std),
    )


def judge_latents(latents: LatentStatistics) -> list[str]:
    """Return what is wrong with latents."""
    wrong = [latents.problem] if latents.problem else []
    if latents.psnr < WRONG:
        wrong.append(
            f"{latents.pictures} pictures that were encoded and decoded have a PSNR of {latents.psnr:.1f} dB: usually wrong "
            f"weights, {CAUSE}"
        )
    return wrong
