"""Read the facts that choices follow from: sizes, captions, and what surrounds the subjects of a sample of pictures."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from ldm_train.commands.fit.choosing import DataFacts, summarise_sizes
from ldm_train.data.pictures.decoding import DECODE_ERRORS, decode_picture
from ldm_train.data.scan.scanned_pictures import Scanned
from ldm_train.data.scan.survey import Survey

SAMPLE = 48  # pictures
SMALL = (96, 96)  # pixels, within which borders are looked at
NEAR = 12  # of 255: a pixel of the surroundings' colour
PLAIN_SHARE = 0.9  # of the border's pixels
WHITE = 247  # of 255: from here on a colour is written as white


def collect_facts(survey: Survey) -> DataFacts:
    """Return the facts of a source's pictures that can be used."""
    scanned = survey.scanned
    shorter, longer, cut = summarise_sizes([seen.size for seen in scanned])
    colours = [read_surroundings(seen) for seen in choose_sample(scanned, SAMPLE)]
    plain = [colour for colour in colours if colour is not None]
    return DataFacts(
        pictures=len(scanned),
        captions=len({caption for seen in scanned for caption in seen.item.captions}),
        shorter=shorter,
        longer=longer,
        cut=round(cut, 4),
        plain=round(len(plain) / max(1, len(colours)), 4),
        surroundings=most_common_colour(plain),
        named=any(seen.item.held_out for seen in scanned),
    )


def choose_sample(scanned: Iterable[Scanned], count: int) -> list[Scanned]:
    """Return some pictures that can be read again; the order of digests is as good as random, and the same every time."""
    readable = [seen for seen in scanned if seen.item.picture is not None]
    return sorted(readable, key=lambda seen: (seen.digest, seen.item.key))[:count]


def read_surroundings(seen: Scanned) -> tuple[int, int, int] | None:
    """Return the one colour of a picture's border, white if it is transparent; None for other borders."""
    assert seen.item.picture is not None
    try:
        picture = decode_picture(seen.item.picture.read())
    except (*DECODE_ERRORS, OSError):
        return None
    picture.thumbnail(SMALL)
    pixels = np.asarray(picture).astype(int)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0)
    near = (np.abs(border - colour).max(axis=1) <= NEAR).mean()
    red, green, blue = colour.round().astype(int).tolist()
    return (red, green, blue) if near >= PLAIN_SHARE else None


def most_common_colour(colours: list[tuple[int, int, int]]) -> str:
    """Return the colour that more than half have, about, as the setting `background` takes it; white if there is none."""
    [(first, count)] = Counter(map(coarse, colours)).most_common(1) or [((), 0)]
    if 2 * count <= len(colours):
        return "white"
    alike = [colour for colour in colours if coarse(colour) == first]
    red, green, blue = (round(sum(values) / count) for values in zip(*alike, strict=True))
    return "white" if min(red, green, blue) >= WHITE else f"#{red:02x}{green:02x}{blue:02x}"


def coarse(colour: tuple[int, int, int]) -> tuple[int, ...]:
    """Return a colour in steps of 16."""
    return tuple(value // 16 for value in colour)
