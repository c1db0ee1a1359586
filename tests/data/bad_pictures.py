"""Pictures as collections have them: odd modes, profiles, orientations and animations, and files damaged in many ways."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, features

from tests.data import profiles

COLOURS = ((200, 40, 40), (40, 160, 60), (40, 60, 190), (240, 220, 90))
LOSSY = {"quality": 95, "subsampling": 0}
GREYS = (0, 20000, 40000, 65535)
HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@dataclass(frozen=True)
class Case:
    """A file, and either a part of the reason it is refused for or what must be seen, within a tolerance of levels."""

    name: str
    content: bytes
    reason: str | None = None
    seen: Image.Image | None = None
    tolerance: int = 0


def bad_pictures() -> dict[str, tuple[bytes, str | None]]:
    """Files by name, each with a part of the reason it must be refused for; None where it must be used rightly."""
    return {case.name: (case.content, case.reason) for case in cases()}


def cases() -> list[Case]:
    return [*damaged(), *not_pictures(), *modes(), *deep(), *profiled(), *turned(), *formats(), *animated(), *sizes()]


def quarters(colours: tuple[tuple[int, ...], ...] = COLOURS) -> Image.Image:
    """64 x 32 pixels, a colour in each quarter; the edges lie on JPEG's and WebP's blocks."""
    rows = np.array(colours, dtype=np.uint8).reshape(2, 2, -1)
    return Image.fromarray(rows.repeat(16, axis=0).repeat(32, axis=1))


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def grey_levels() -> np.ndarray:
    return np.array(GREYS, dtype=np.uint16).reshape(2, 2).repeat(16, axis=0).repeat(32, axis=1)


def greys() -> Image.Image:
    """The 16-bit greys as they must be seen."""
    return Image.fromarray((grey_levels() / 257).round().astype(np.uint8)).convert("RGB")


def saved(picture: Image.Image, kind: str, **settings: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int, height: int, *, depth: int, kind: int, rows: list[bytes], extra: bytes = b"", late: bytes = b""
) -> bytes:
    """A PNG of raw rows, with chunks before and behind the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + late + chunk(b"IEND", b"")


def tiff(values: np.ndarray, *, kind: int, extra_samples: int | None = None) -> bytes:
    """An uncompressed TIFF of unsigned values (height, width, channels); `kind` is its PhotometricInterpretation."""
    height, width, channels = values.shape
    bits = struct.pack(f"<{channels}H", *[values.itemsize * 8] * channels).ljust(8, b"\0")
    pixels = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: 8 if channels > 2 else values.itemsize * 8, 259: 1, 262: kind, 273: 16}
    tags |= {277: channels, 278: height, 279: len(pixels)} | ({} if extra_samples is None else {338: extra_samples})
    entries = [struct.pack("<HHII", tag, 4, channels if tag == 258 else 1, value) for tag, value in tags.items()]
    entries[2] = struct.pack("<HHII", 258, 3, channels, tags[258])
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 16 + len(pixels)) + bits + pixels + directory


def damaged() -> Iterator[Case]:
    for kind in ("PNG", "JPEG"):
        whole = saved(noise(), kind)
        for share in (10, 50, 90, 99):
            yield Case(f"{kind.lower()}_cut_at_{share}_percent", whole[: len(whole) * share // 100], "runcated")
    whole = saved(noise(), "PNG", compress_level=0)
    middle, end = len(whole) // 2, whole.index(b"IEND")
    yield Case("png_header_crc_wrong", whole[:29] + b"\0\0\0\0" + whole[33:], "its header is damaged")
    yield Case(
        "png_pixel_flipped", whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :], "broken data stream"
    )
    yield Case("png_pixels_crc_wrong", whole[: end - 8] + b"\0\0\0\0" + whole[end - 4 :], None, noise())
    yield Case("png_chunk_unknown", whole[:33] + chunk(b"teSt", b"?") + whole[33:], None, noise())
    yield Case("png_chunk_nameless", whole[:33] + chunk(b"\1\2\3\4", b"") + whole[33:], "its header is damaged")
    yield Case("png_chunk_too_long", whole[:33] + struct.pack(">I4s", 1 << 30, b"teSt") + whole[33:], "runcated")
    rows = [row.tobytes() for row in np.asarray(quarters())]
    broken_exif = png(64, 32, depth=8, kind=2, rows=rows, extra=chunk(b"eXIf", b"MM\0*\0\0"))
    yield Case("png_exif_broken", broken_exif, None, quarters())


def not_pictures() -> Iterator[Case]:
    yield Case("empty.png", b"", "empty file")
    yield Case("zeros.jpg", bytes(1000), "not a picture Pillow can read")
    yield Case("error_page.jpg", HTML, "an HTML page")
    yield Case("drawing.svg", SVG, "an SVG drawing")
    yield Case("pointer.png", LFS, "a Git LFS pointer")
    yield Case("photo.heic", b"\0\0\0\x18ftypheic" + bytes(100), "it is HEIC")
    yield Case("text.png", b"no picture", "not a picture Pillow can read")
    yield Case(
        "print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not a picture Pillow can read"
    )
    yield Case("png_named.jpg", saved(quarters(), "PNG"), None, quarters())


def modes() -> Iterator[Case]:
    red = (200, 40, 40)
    seen_through = quarters(((255, 255, 255), (40, 160, 60), (40, 60, 190), (248, 238, 172)))
    rgba = quarters(((*red, 0), (40, 160, 60, 255), (40, 60, 190, 255), (240, 220, 90, 128)))
    yield Case("rgba.png", saved(rgba, "PNG"), None, seen_through, 1)
    yield Case("rgba.webp", saved(rgba, "WEBP", lossless=True), None, seen_through, 1)
    alpha = np.asarray(rgba)[..., 3:] / 255
    premultiplied = np.concatenate([np.asarray(rgba)[..., :3] * alpha, alpha * 255], axis=-1).round().astype(np.uint8)
    yield Case("rgba_premultiplied.tif", tiff(premultiplied, kind=2, extra_samples=1), None, seen_through, 2)
    la = quarters(((0, 0), (80, 255), (160, 255), (0, 128)))
    yield Case("la.png", saved(la, "PNG"), None, quarters(((255,) * 3, (80,) * 3, (160,) * 3, (127,) * 3)), 1)
    palette = quarters().quantize(4)
    yield Case("palette.png", saved(palette, "PNG"), None, quarters())
    white_instead = quarters(((255, 255, 255), *COLOURS[1:]))
    index = palette.getpixel((0, 0))
    yield Case("palette_transparent.png", saved(palette, "PNG", transparency=index), None, white_instead)
    yield Case("palette_transparent.gif", saved(palette, "GIF", transparency=index), None, white_instead)
    alphas = bytes(0 if entry == index else 255 for entry in range(4))
    yield Case("palette_alphas.png", saved(palette, "PNG", transparency=alphas), None, white_instead)
    yield Case("colour_key.png", saved(quarters(), "PNG", transparency=red), None, white_instead)
    bits = Image.fromarray(grey_levels() > 30000)
    yield Case("one_bit.png", saved(bits, "PNG"), None, bits.convert("RGB"))
    eight = greys().convert("L")
    yield Case("grey.png", saved(eight, "PNG"), None, greys())
    yield Case("grey.jpg", saved(eight, "JPEG", **LOSSY), None, greys(), 3)
    lab = ImageCms.profileToProfile(
        quarters(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield Case("lab.tif", saved(lab, "TIFF"), None, quarters(), 6)
    yield Case("ycbcr.tif", saved(quarters().convert("YCbCr"), "TIFF"), None, quarters(), 3)
    plain = quarters(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)))
    yield Case("cmyk.jpg", saved(plain.convert("CMYK"), "JPEG", quality=95), None, plain, 4)
    yield Case("cmyk.tif", saved(plain.convert("CMYK"), "TIFF"), None, plain)


def deep() -> Iterator[Case]:
    grey = Image.fromarray(grey_levels())
    yield Case("grey_16.png", saved(grey, "PNG"), None, greys())
    yield Case("grey_16.tif", saved(grey, "TIFF"), None, greys())
    big_endian = Image.frombytes("I;16B", grey.size, grey_levels().astype(">u2").tobytes())
    yield Case("grey_16_big_endian.tif", saved(big_endian, "TIFF"), None, greys())
    yield Case("grey_16.pgm", saved(grey, "PPM"), None, greys())
    keyed = np.where(grey_levels() == 20000, 65535, grey_levels())
    seen = Image.fromarray((keyed / 257).round().astype(np.uint8)).convert("RGB")
    yield Case("grey_16_key.png", saved(grey, "PNG", transparency=20000), None, seen)
    yield Case("grey_32.tif", tiff((grey_levels()[..., None] * np.uint32(65537)), kind=1), "32-bit grey")
    levels = np.asarray(quarters()).astype(np.uint16) * 257
    rows = [row.tobytes() for row in levels.astype(">u2")]
    yield Case("rgb_16.png", png(64, 32, depth=16, kind=2, rows=rows), None, quarters())
    yield Case("rgb_16.tif", tiff(levels, kind=2), None, quarters())
    yield Case("float.tif", saved(quarters().convert("F"), "TIFF"), "floating-point")


def profiled() -> Iterator[Case]:
    srgb = ImageCms.createProfile("sRGB")
    p3 = profiles.display_p3()
    wide = ImageCms.profileToProfile(quarters(), srgb, ImageCms.ImageCmsProfile(io.BytesIO(p3)))
    yield Case("display_p3.png", saved(wide, "PNG", icc_profile=p3), None, quarters(), 2)
    yield Case("display_p3.jpg", saved(wide, "JPEG", icc_profile=p3, **LOSSY), None, quarters(), 6)
    palette = wide.quantize(4)
    yield Case("display_p3_palette.png", saved(palette, "PNG", icc_profile=p3), None, quarters(), 2)
    wide.putalpha(255)
    yield Case("display_p3_alpha.png", saved(wide, "PNG", icc_profile=p3), None, quarters(), 2)
    linear = (np.asarray(greys()).astype(float)[..., 0] / 255) ** 2.2 * 65535
    grey = Image.fromarray(linear.round().astype(np.uint16))
    profile = profiles.linear_grey()
    yield Case("linear_grey.png", saved(grey, "PNG", icc_profile=profile), None, greys(), 6)
    yield Case("srgb_on_grey.jpg", saved(greys().convert("L"), "JPEG", icc_profile=tobytes(srgb), **LOSSY), None, greys(), 3)
    yield Case("srgb.png", saved(quarters(), "PNG", icc_profile=tobytes(srgb)), None, quarters())
    plain = quarters(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)))
    printed = quarters((profiles.ink(0, 1, 1, 0), profiles.ink(1, 0, 1, 0), profiles.ink(1, 1, 0, 0), (255, 255, 255)))
    cmyk = saved(plain.convert("CMYK"), "JPEG", icc_profile=profiles.inks(), quality=95)
    yield Case("cmyk_profile.jpg", cmyk, None, printed, 8)
    yield Case("profile_broken.png", saved(quarters(), "PNG", icc_profile=p3[:200]), None, quarters())
    yield Case("profile_nonsense.jpg", saved(quarters(), "JPEG", icc_profile=b"?" * 500, **LOSSY), None, quarters(), 3)
    yield Case("profile_of_grey_on_colours.png", saved(quarters(), "PNG", icc_profile=profile), None, quarters())


def tobytes(profile: ImageCms.core.CmsProfile) -> bytes:
    return ImageCms.ImageCmsProfile(profile).tobytes()


def turned() -> Iterator[Case]:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # EXIF's number to the one of Pillow's transposition that undoes it
    for number in range(1, 9):
        stored = quarters() if number == 1 else quarters().transpose(Image.Transpose(back[number]))
        exif = Image.Exif()
        exif[0x0112] = number
        yield Case(f"exif_{number}.jpg", saved(stored, "JPEG", exif=exif, **LOSSY), None, quarters(), 3)
        yield Case(f"exif_{number}.tif", saved(stored, "TIFF", exif=exif), None, quarters())
        rows = [row.tobytes() for row in np.asarray(stored)]
        late = png(*stored.size, depth=8, kind=2, rows=rows, late=chunk(b"eXIf", exif.tobytes()[6:]))
        yield Case(f"exif_{number}_behind_the_pixels.png", late, None, quarters())
    exif[0x0112] = 99
    yield Case("exif_99.png", saved(quarters(), "PNG", exif=exif), None, quarters())


def formats() -> Iterator[Case]:
    for kind in ("BMP", "TIFF", "PPM", "QOI"):
        yield Case(f"plain.{kind.lower()}", saved(quarters(), kind), None, quarters())
    yield Case("lossy.webp", saved(greys(), "WEBP", quality=95), None, greys(), 4)
    yield Case("lossless.jp2", saved(quarters(), "JPEG2000"), None, quarters())
    yield Case("progressive.jpg", saved(quarters(), "JPEG", progressive=True, **LOSSY), None, quarters(), 3)
    yield Case(
        "two_pictures.mpo", saved(quarters(), "MPO", save_all=True, append_images=[noise()], **LOSSY), None, quarters(), 3
    )
    if features.check("avif"):
        yield Case("lossy.avif", saved(quarters(), "AVIF", quality=95, subsampling="4:4:4"), None, quarters(), 6)


def animated() -> Iterator[Case]:
    second = Image.new("RGB", (64, 32), "black")
    for kind, settings in {"GIF": {}, "PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}.items():
        frames = saved(quarters(), kind, save_all=True, append_images=[second], **settings)
        yield Case(f"two_frames.{kind.lower()}", frames, None, quarters())


def sizes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 1000), (1000, 1)):
        picture = Image.new("RGB", (width, height), COLOURS[0])
        yield Case(f"size_{width}x{height}.png", saved(picture, "PNG"), None, picture)
    yield Case("size_30000x30000.png", png(30000, 30000, depth=8, kind=2, rows=[]), "more than max_pixels")
    yield Case("size_0x0.png", png(0, 0, depth=8, kind=2, rows=[]), "its header is damaged")
