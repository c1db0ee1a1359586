"""Make ICC profiles of colours that a file describes by numbers: PNG's cICP, gAMA and cHRM, and nclx of AVIF and HEIC.

Numbers of primaries and transfer functions are those of ITU-T H.273. The curves of BT.601, BT.709 and BT.2020 are taken as
sRGB's, as browsers take them: their own describe cameras, and not how pictures are shown.
"""

import struct
from dataclasses import dataclass

import numpy as np

D50 = np.array([0.9642, 1.0, 0.8249])  # the white of ICC profiles
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
Point = tuple[float, float]


@dataclass(frozen=True)
class Chromaticities:
    """The x and y of a colour space's primaries and white (CIE 1931)."""

    red: Point
    green: Point
    blue: Point
    white: Point = (0.3127, 0.3290)

    def is_valid(self) -> bool:
        """Return whether the primaries span a triangle around the white."""
        if min(y for _, y in (self.red, self.green, self.blue, self.white)) <= 0:
            return False
        primaries = _to_xyz(self.red, self.green, self.blue)
        if abs(np.linalg.det(primaries)) < 1e-6:
            return False
        return bool((np.linalg.solve(primaries, _to_xyz(self.white)[:, 0]) > 0).all())


SRGB = Chromaticities((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
PRIMARIES = {
    1: SRGB,
    2: SRGB,  # not specified
    5: Chromaticities((0.640, 0.330), (0.290, 0.600), (0.150, 0.060)),  # BT.601, 625 lines
    6: Chromaticities((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    7: Chromaticities((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: Chromaticities((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: Chromaticities((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
}
EXPONENTS = {4: 2.2, 5: 2.8, 8: 1.0, **dict.fromkeys((1, 2, 6, 13, 14, 15))}  # None: sRGB's curve
HDR = {16: "PQ", 18: "HLG"}


def coded_profile(primaries: int, transfer: int, *, grey: bool) -> bytes | None:
    """Return the ICC profile of colours with these numbers; None for sRGB.

    Raises:
        ValueError: they are of high dynamic range, or have numbers that are not converted.
    """
    if transfer in HDR:
        raise ValueError(
            f"its colours are of high dynamic range ({HDR[transfer]}), which has no single conversion to sRGB; "
            "convert it with a program that maps its tones, and save it as sRGB"
        )
    if primaries not in PRIMARIES or transfer not in EXPONENTS:
        raise ValueError(
            f"its colours (primaries {primaries}, transfer function {transfer} of ITU-T H.273) are not converted; "
            "save the picture as sRGB"
        )
    colours, exponent = PRIMARIES[primaries], EXPONENTS[transfer]
    if exponent is None and (grey or colours == SRGB):
        return None
    return make_profile(SRGB if grey else colours, exponent)


def are_alike(one: Chromaticities, other: Chromaticities) -> bool:
    """Return whether the chromaticities differ only by rounding to three places."""
    pairs = ((one.red, other.red), (one.green, other.green), (one.blue, other.blue), (one.white, other.white))
    return all(abs(a - b) <= 0.0015 for first, second in pairs for a, b in zip(first, second, strict=True))


def make_profile(colours: Chromaticities, exponent: float | None) -> bytes:
    """Return an ICC profile, of version 4, with these primaries and a power curve; None: sRGB's curve.

    Grey gets one of RGB too: lcms applies a profile of grey with steps of up to nine levels in the shadows.
    """
    srgb = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    curve = b"para\0\0\0\0" + struct.pack(">HH", *((3, 0) if exponent is None else (0, 0)))
    curve += _fixed(*(srgb if exponent is None else (exponent,)))
    columns = (D50, *adapt_to_d50(colours).T)
    names = (b"wtpt", b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: b"XYZ \0\0\0\0" + _fixed(*column) for name, column in zip(names, columns, strict=True)}
    return _join_tags({**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def adapt_to_d50(colours: Chromaticities) -> np.ndarray:
    """Return the matrix (3, 3) from linear RGB to XYZ under D50, adapted by Bradford's transform."""
    white = _to_xyz(colours.white)[:, 0]
    primaries = _to_xyz(colours.red, colours.green, colours.blue)
    to_xyz = primaries * np.linalg.solve(primaries, white)
    adaptation = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
    return adaptation @ to_xyz


def _to_xyz(*points: Point) -> np.ndarray:
    """Return XYZ of chromaticities with Y = 1, in columns."""
    return np.array([[x / y, 1.0, (1 - x - y) / y] for x, y in points]).T


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _join_tags(tags: dict[bytes, bytes]) -> bytes:
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    numbers = struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(*D50)
    header = struct.pack(">I4xI4s4s4s", start + len(body), 0x04200000, b"mntr", b"RGB ", b"XYZ ") + numbers
    return header.ljust(128, b"\0") + table + body
