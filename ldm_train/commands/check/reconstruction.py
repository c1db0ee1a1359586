"""A few pictures through the config's own autoencoder and back: whether training would see latents as it should."""

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
SECONDS = 8.0  # of which as many as this allows, and one batch at least
WRONG, POOR = 10.0, 18.0  # dB
CAUSE = (
    "wrong weights, weights made for pictures in another range ([0, 1] instead of [-1, 1]), or pictures much smaller than "
    "the autoencoder was trained on"
)


@dataclass(frozen=True)
class Latents:
    """Of a sample of pictures: raw latents per channel, their deviation after scaling, the pictures' range and likeness.

    Args:
        psnr: of the decoded pictures to the pictures, dB.
        problem: what is wrong with the scaling, if so.
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


def sampled(plan: CachePlan) -> list[PictureRow]:
    """Pictures that can be read again, spread over all as chance would; those of one shape together."""
    there = [seen for seen in plan.first.values() if seen.item.picture is not None]
    chosen = sorted(there, key=lambda seen: seen.digest)[:SAMPLE]
    rows = [PictureRow("", seen.digest, seen.item.key, list(seen.size)) for seen in chosen]
    return sorted(rows, key=lambda row: plan.shapes[row.digest])


@torch.inference_mode()
def try_latents(
    config: CheckSettings, plan: CachePlan, autoencoder: Autoencoder, device: torch.device
) -> tuple[Latents, Pace] | None:
    """Encode and decode a sample; None where no picture can be read again."""
    pictures = {seen.item.key: seen.item.picture for seen in plan.first.values() if seen.item.picture}
    rendering = Rendering(pictures, plan.crop, background=config.background, max_pixels=config.max_pixels)
    rows, began = sampled(plan), perf_counter()
    images = [to_signed(rendering(row)[0]) for row in rows]
    reading = (perf_counter() - began) / max(1, len(rows))
    if not rows:
        return None
    autoencoder.to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as encoding has it on a CPU, of whose cores each takes a batch
    means, errors, seconds, done = [], [], [], 0
    for some in batches(images, config.encode_batch_size if device.type == "cuda" else 2):
        start = worked(device)
        given = some.to(device)
        mean = autoencoder.encode(given).mean
        seconds.append((worked(device) - start) / len(some))
        decoded = autoencoder.decode(mean).clamp(-1, 1)
        errors += (decoded - given).square().flatten(1).mean(1).tolist()
        means.append(mean.double().cpu().transpose(0, 1).flatten(1))
        done += len(some)
        if now(device) - began > SECONDS:
            break
    torch.set_num_threads(threads)
    autoencoder.to(torch.device("cpu"))
    seen = images[:done]
    pace = Pace(reading, min(seconds) / (1 if device.type == "cuda" else os.cpu_count() or 1))
    return latents_of(torch.cat(means, dim=1), seen, sum(errors) / len(errors), Scaling.of(autoencoder)), pace


def worked(device: torch.device) -> float:
    """Seconds of work so far: of a GPU by the clock, of a CPU without what others take of it."""
    return now(device) if device.type == "cuda" else process_time()


def batches(images: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Images of one shape together, (B, 3, H, W), a few at a time."""
    for _, same in groupby(images, key=lambda image: image.shape):
        yield from torch.stack(list(same)).split(size)


def latents_of(values: Tensor, images: list[Tensor], error: float, scaling: Scaling) -> Latents:
    """Of raw latents (C, N), the images that they are of, and the mean squared error of what is decoded from them."""
    mean, std = values.mean(1).tolist(), values.std(1, correction=0).tolist()
    deviation = scaling.to_model(values).square().mean().sqrt().item()
    return Latents(
        pictures=len(images),
        mean=[round(value, 4) for value in mean],
        std=[round(value, 4) for value in std],
        deviation=round(deviation, 4),
        low=min(image.min().item() for image in images),
        high=max(image.max().item() for image in images),
        psnr=round(-10 * torch.tensor(max(error, 1e-10) / 4).log10().item(), 2),
        problem=scaling.problem(mean, std),
    )


def findings(latents: Latents) -> tuple[list[str], list[str]]:
    """What is wrong with latents, and what is only poor."""
    wrong = [latents.problem] if latents.problem else []
    if latents.psnr >= POOR:
        return wrong, []
    told = f"decoded from their latents, pictures come back at {latents.psnr:.1f} dB ({latents.pictures} tried)"
    if latents.psnr < WRONG:
        return [
            *wrong,
            f"{told}: usually {CAUSE}",
        ], []
    return wrong, [f"{told}: this autoencoder was made for other pictures, or for larger ones; no network can draw better"]
