"""Keep of a PNG file what its pixels and colours need: texts of any size must neither be unpacked nor cost the picture."""

import struct
import zlib
from collections.abc import Iterator

from ldm_train.data.pictures.coded_colours import SRGB, Chromaticities, are_alike, coded_profile, make_profile

COLOUR_CHUNKS = (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM")
NEEDED_CHUNKS = (b"tRNS", b"eXIf")  # of those that a decoder may ignore
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
ORIENTATIONS = (b"Raw profile type exif\0", b"Raw profile type APP1\0", b"XML:com.adobe.xmp\0")  # texts that may hold one
MAX_TEXT = 2**20 - 1  # bytes of such a text, unpacked; Pillow refuses more
LONGEST_PROFILE = 8 * 2**20 + 1  # bytes that are unpacked of an ICC profile; colour.py refuses more than 8 MiB
STANDARD_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.05  # a gAMA as near as this to 1/2.2 stands for sRGB's curve, as libpng has it


def strip_png(content: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Return the file without chunks that change no pixel, and the data of the chunks that describe its colours."""
    colours: dict[bytes, bytes] = {}
    view, pieces, start = memoryview(content), [], 0
    for place, end, name in _iterate_chunks(content):
        data = view[place + 8 : end - 4]
        if name in COLOUR_CHUNKS and zlib.crc32(data, zlib.crc32(name)) == int.from_bytes(view[end - 4 : end], "big"):
            colours.setdefault(name, bytes(data))
        if name[0] & 0x20 and name not in NEEDED_CHUNKS and not (name in TEXT_CHUNKS and _may_hold_orientation(name, data)):
            pieces.append(view[start:place])
            start = end
    return (b"".join([*pieces, view[start:]]) if pieces else content), colours


def _iterate_chunks(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Give start, end and name of each complete chunk, up to one without a name; Pillow reports what is damaged."""
    place = 8
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content) or not name.isalpha():
            return
        yield place, end, name
        place = end


def _may_hold_orientation(name: bytes, data: memoryview) -> bool:
    start = bytes(data[:100])
    if len(data) > MAX_TEXT or not start.startswith(ORIENTATIONS):
        return False
    packed = start.index(b"\0") + 2
    if name == b"tEXt" or (name == b"iTXt" and start[packed - 1] == 0):
        return True
    if name == b"iTXt":
        packed = bytes(data).find(b"\0", bytes(data).find(b"\0", packed + 1) + 1) + 1
    return _unpack(bytes(data[packed:]), MAX_TEXT + 1)[1] <= MAX_TEXT


def _unpack(data: bytes, most: int) -> tuple[bytes, int]:
    """Return the first unpacked bytes, and their number; of damaged data as many as come out."""
    try:
        unpacked = zlib.decompressobj().decompress(data, most)
    except zlib.error:
        return b"", 0
    return unpacked, len(unpacked)


def read_png_profile(colours: dict[bytes, bytes], *, grey: bool) -> bytes | None:
    """Return the ICC profile that the chunks hold or amount to, the most exact of them first; None for sRGB.

    Raises:
        ValueError: they name colours that are not converted, such as those of high dynamic range.
    """
    if len(coded := colours.get(b"cICP", b"")) == 4:
        number, transfer, matrix, full = coded
        if matrix != 0 or full != 1:
            raise ValueError(
                f"cICP with matrix {matrix} and range {full} is not converted to sRGB; save the picture as sRGB"
            )
        return coded_profile(number, transfer, grey=grey)
    if b"iCCP" in colours:
        packed = colours[b"iCCP"]
        return _unpack(packed[packed.find(b"\0") + 2 :], LONGEST_PROFILE)[0] or b"\0"  # which is reported as broken
    if b"sRGB" in colours:
        return None
    gamma = int.from_bytes(colours.get(b"gAMA", b""), "big") / 100_000
    standard = gamma == 0 or abs(gamma / STANDARD_GAMMA - 1) <= GAMMA_TOLERANCE
    primaries = read_chromaticities(colours.get(b"cHRM", b""))
    if standard and (grey or are_alike(primaries, SRGB)):
        return None
    return make_profile(SRGB if grey else primaries, None if standard else 1 / gamma)


def read_chromaticities(data: bytes) -> Chromaticities:
    """Return the chromaticities of a cHRM chunk, sRGB's if there is none or they span no triangle."""
    if len(data) != 32:
        return SRGB
    white_x, white_y, *others = (value / 100_000 for value in struct.unpack(">8I", data))
    found = Chromaticities((others[0], others[1]), (others[2], others[3]), (others[4], others[5]), (white_x, white_y))
    return found if found.is_valid() else SRGB
