"""ICC profiles made by hand, since Pillow makes none but sRGB, Lab and XYZ."""

import itertools
import struct

import numpy as np
from PIL import Image, ImageCms

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = {
    b"rXYZ": (0.51512, 0.2412, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.1571, 0.06657, 0.78407),
}


def fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def gamma(value: float) -> bytes:
    return struct.pack(">4s4xIH", b"curv", 1, round(value * 256))


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A version 2 profile of a device class and colour space, with these tags and a white point."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50), **tags}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    numbers = struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + fixed(*D50)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x02400000, kind, space, connection) + numbers
    return header.ljust(128, b"\0") + table + body


def display_p3() -> bytes:
    """Apple's wide gamut, with a plain exponent for its curve."""
    colours = {name: b"XYZ \0\0\0\0" + fixed(*value) for name, value in DISPLAY_P3.items()}
    return profile(b"mntr", b"RGB ", b"XYZ ", {**colours, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(2.2))})


def linear_grey() -> bytes:
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": gamma(1.0)})


def ink(cyan: float, magenta: float, yellow: float, black: float) -> tuple[int, ...]:
    """What `inks` shows where each ink is either there (1) or not (0): paler than a plain conversion."""
    return tuple(round(255 * (1 - 0.7 * colour) * (1 - 0.8 * black)) for colour in (cyan, magenta, yellow))


def inks() -> bytes:
    """A printer's table from CMYK to Lab, two points along each ink."""
    corners = np.array([ink(*corner) for corner in itertools.product((0, 1), repeat=4)], dtype=np.uint8)
    lab = ImageCms.profileToProfile(
        Image.fromarray(corners[None]), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    table = (np.asarray(lab) ^ np.array([0, 128, 128], dtype=np.uint8)).tobytes()
    straight = bytes(range(256))
    head = struct.pack(">4s4x4B", b"mft1", 4, 3, 2, 0) + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": head + straight * 4 + table + straight * 3})
