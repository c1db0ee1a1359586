"""Estimate the memory that decoding and encoding pictures takes at its peak, and refuse what this machine does not have."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from ldm_train.data.cache.encoding_batches import EncodingBatch
from ldm_train.data.pictures.crops import Crop
from ldm_train.data.pictures.map_values import MapSpec
from ldm_train.training.encoding import CHUNK
from ldm_train.types import Autoencoder
from ldm_train.util.memory import machine_memory

DECODED = 10  # bytes of a pixel of a picture: as decoded, converted to RGB, and turned upright
RGB = 3  # channels, each of which takes a byte
FLOATS = 3 * 4  # bytes of a value of a view in float32: while it is converted, and padded to whole chunks
FLOAT = 4  # bytes of a value of a map
MAP_COPIES = 3  # of a whole map: as it is stored, as float32, and with other channels or upright
PREFETCHED = 2  # batches that wait in each process that decodes


@dataclass(frozen=True)
class EncodingMemory:
    """Bytes at the peak of encoding.

    Args:
        pictures: of the largest picture, in each process that decodes.
        batches: of views of pictures, and of those that wait.
        activations: of the autoencoder.
        on_gpu: whether the activations are on a GPU.
    """

    pictures: int
    batches: int
    activations: int
    on_gpu: bool

    @property
    def machine(self) -> int:
        """What is not on a GPU."""
        return self.pictures + self.batches + (0 if self.on_gpu else self.activations)


def estimate_encoding_memory(
    autoencoder: Autoencoder,
    batches: Iterable[EncodingBatch],
    crop: Crop,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    specs: Sequence[MapSpec] = (),
) -> EncodingMemory:
    """Return the memory for encoding these batches.

    Args:
        batch_size: views of pictures of one forward pass.
        workers: processes that decode.
        specs: the maps of each picture, which are counted as if they had its size.
    """
    largest_picture, largest = 0, 0
    for batch in batches:
        for row in batch.pictures[:1]:
            view = crop((row.size[0], row.size[1]), "")[0]
            largest = max(largest, view.height * view.width)
        largest_picture = max(largest_picture, *(prod(row.size) for row in batch.pictures), 0)
    views = max(1, batch_size // crop.views) * crop.views
    on_gpu = device.type == "cuda"
    at_once = views if on_gpu else CHUNK * min(os.cpu_count() or 1, -(-views // CHUNK))
    channels = getattr(autoencoder, "image_channels", RGB)
    pixel = RGB if channels == RGB else FLOAT * channels  # bytes of a pixel
    largest_map = MAP_COPIES * FLOAT * max([0 if channels == RGB else channels, *(spec.num_read for spec in specs)])
    of_maps = sum(FLOAT * spec.num_read / spec.pixels_each(autoencoder.factor) ** 2 for spec in specs)
    return EncodingMemory(
        pictures=max(1, workers) * max(DECODED, largest_map) * largest_picture,
        batches=views * largest * (pixel * (1 + PREFETCHED * workers) + FLOATS * channels)
        + int(views * largest * of_maps * (2 + PREFETCHED * workers)),
        activations=int(at_once * largest * measure_activations(autoencoder)),
        on_gpu=on_gpu,
    )


@torch.inference_mode()
def measure_activations(autoencoder: Autoencoder) -> float:
    """Return the bytes for a pixel of an image at the peak of the encoder: the inputs and outputs of its largest layer."""
    assert isinstance(autoencoder, nn.Module)
    side, most = 8 * autoencoder.factor, 0

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal most
        most = max(most, count_bytes(inputs) + count_bytes(output))

    hooks = [module.register_forward_hook(note) for module in autoencoder.modules()]
    try:
        parameter = next(autoencoder.parameters(), torch.zeros(0))
        autoencoder.encode(torch.zeros(1, getattr(autoencoder, "image_channels", RGB), side, side, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return most / side**2


def count_bytes(values: object) -> int:
    """Return the bytes of the tensors in a value or a tuple."""
    if isinstance(values, tuple | list):
        return sum(map(count_bytes, values))
    return values.nbytes if isinstance(values, Tensor) else 0


def find_memory_problem(memory: EncodingMemory, *, batch_size: str, device: torch.device) -> str | None:
    """Return why encoding cannot fit into memory; None if it can.

    Args:
        batch_size: the setting and its value, for the message.
    """
    gpu = torch.cuda.get_device_properties(device).total_memory if memory.on_gpu else None
    for needed, there, place in ((memory.machine, machine_memory(), "machine"), (memory.activations, gpu, "GPU")):
        if there is not None and needed > there:
            return (
                f"encoding needs about {needed / 2**30:,.1f} GiB of memory with {batch_size}, and this {place} has "
                f"{there / 2**30:,.1f} GiB ({memory.pictures / 2**30:,.1f} GiB are for decoding the largest picture); "
                "set a smaller batch size, image_size, max_pixels or workers"
            )
    return None
