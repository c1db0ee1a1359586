"""Files of maps that tests make."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 pixels, as Pillow writes it."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint16 pixels (H, W, C), of which each line is filtered in another way."""
    height, width, channels = pixels.shape
    lines, before = [], np.zeros(2 * width * channels, dtype=np.uint8)
    for number, row in enumerate(pixels):
        line = np.frombuffer(row.astype(">u2").tobytes(), dtype=np.uint8)
        left = np.concatenate([np.zeros(2 * channels, dtype=np.uint8), line[: -2 * channels]])
        kind = number % 3
        lines.append(bytes([kind]) + (line - [0 * left, left, before][kind]).tobytes())
        before = line
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def npy(values: np.ndarray) -> bytes:
    """A .npy file; of Python's objects it has pickles."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()
