"""Encode and decode a few pictures with the run's autoencoder, to check its weights and its latent scaling."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter, process_time

import torch
from torch import Tensor

from ldm_train.autoencoders.scaling import Scaling
from ldm_train.data.cache.plan import CachePlan, PictureRow
from ldm_train.data.pictures.images import to_signed
from ldm_train.settings.schema.training import CheckSettings
from ldm_train.training.cost import now
from ldm_train.training.encoding import Rendering
from ldm_train.types import Autoencoder

SAMPLE = 32  # pictures
SECONDS = 8.0  # the time limit for the sample; at least one batch is tried
WRONG, POOR = 10.0, 18.0  # dB
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


def choose_sample(plan: CachePlan) -> list[PictureRow]:
    """Return a sample of the pictures that can be read again, sorted by shape.

    The order of digests is as good as random, and the same every time.
    """
    readable = [scanned for scanned in plan.first.values() if scanned.item.picture is not None]
    chosen = sorted(readable, key=lambda scanned: scanned.digest)[:SAMPLE]
    rows = [PictureRow("", scanned.digest, scanned.item.key, list(scanned.size)) for scanned in chosen]
    return sorted(rows, key=lambda row: plan.shapes[row.digest])


@torch.inference_mode()
def try_latents(
    settings: CheckSettings, plan: CachePlan, autoencoder: Autoencoder, device: torch.device
) -> tuple[LatentStatistics, Pace] | None:
    """Encode and decode a sample; return its statistics and the pace, or None if no picture can be read again."""
    pictures = {scanned.item.key: scanned.item.picture for scanned in plan.first.values() if scanned.item.picture}
    rendering = Rendering(pictures, plan.crop, background=settings.background, max_pixels=settings.max_pixels)
    rows, began = choose_sample(plan), perf_counter()
    images = [to_signed(rendering(row)[0]) for row in rows]
    reading = (perf_counter() - began) / max(1, len(rows))
    if not rows:
        return None
    autoencoder.to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as `encode` on a CPU, where each core takes its own batches
    means, errors, seconds, done = [], [], [], 0
    for batch in batch_by_shape(images, settings.encode_batch_size if device.type == "cuda" else 2):
        start = read_work_clock(device)
        originals = batch.to(device)
        mean = autoencoder.encode(originals).mean
        seconds.append((read_work_clock(device) - start) / len(batch))
        decoded = autoencoder.decode(mean).clamp(-1, 1)
        errors += (decoded - originals).square().flatten(1).mean(1).tolist()
        means.append(mean.double().cpu().transpose(0, 1).flatten(1))
        done += len(batch)
        if now(device) - began > SECONDS:
            break
    torch.set_num_threads(threads)
    autoencoder.to(torch.device("cpu"))
    pace = Pace(reading, min(seconds) / (1 if device.type == "cuda" else os.cpu_count() or 1))
    error = sum(errors) / len(errors)
    return describe_latents(torch.cat(means, dim=1), images[:done], error, Scaling.of(autoencoder)), pace


def read_work_clock(device: torch.device) -> float:
    """Return seconds of work so far: the wall clock on a GPU; on a CPU this process's time, without that of others."""
    return now(device) if device.type == "cuda" else process_time()


def batch_by_shape(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield batches of images of one shape, (B, 3, H, W), with B at most `size`; images must be sorted by shape."""
    for _, same in groupby(images, key=lambda image: image.shape):
        yield from torch.stack(list(same)).split(size)


def describe_latents(values: Tensor, images: list[Tensor], error: float, scaling: Scaling) -> LatentStatistics:
    """Return the statistics of raw latents.

    Args:
        values: the raw latents, (C, N).
        images: the images that they were encoded from, each (3, H, W).
        error: mean squared error of the decoded images.
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
        psnr=round(-10 * torch.tensor(max(error, 1e-10) / 4).log10().item(), 2),
        problem=scaling.problem(mean, std),
    )


def judge_latents(latents: LatentStatistics) -> tuple[list[str], list[str]]:
    """Return what is wrong with latents, and what is only poor."""
    wrong = [latents.problem] if latents.problem else []
    if latents.psnr >= POOR:
        return wrong, []
    message = f"{latents.pictures} pictures that were encoded and decoded have a PSNR of {latents.psnr:.1f} dB"
    if latents.psnr < WRONG:
        return [*wrong, f"{message}: usually wrong weights, {CAUSE}"], []
    poor = "this autoencoder was trained on other pictures, or on larger ones; no network can draw better than it decodes"
    return wrong, [f"{message}: {poor}"]
