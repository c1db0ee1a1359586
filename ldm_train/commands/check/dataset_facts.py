"""Collect facts about the pictures and captions of a source, from the inspection of each item."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ldm_train.data.batches.holding_out import count_held_out
from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.scan.inspection import Inspected
from ldm_train.data.sources.items import Item

DARK = 16 / 255  # of white; 12 bits of values in a 16-bit picture reach 4095 / 65535
LARGE_LOSS = 0.2  # share of a picture's area; a crop that cuts away more often cuts the subject
TINY = 4  # a picture that is enlarged by more than this factor has hardly any detail to learn from


@dataclass(frozen=True)
class Copies:
    """Pictures with identical bytes.

    Args:
        keys: the keys of the items.
        captions_differ: whether the items have different captions.
        split_differs: whether some of them are held out and others are not.
    """

    digest: str
    keys: list[str]
    captions_differ: bool
    split_differs: bool


def find_copies(inspected: Sequence[Inspected]) -> list[Copies]:
    """Return the pictures that occur more than once, grouped by the digest of their bytes."""
    groups: dict[str, list[Item]] = {}
    for one in inspected:
        groups.setdefault(one.digest, []).append(one.item)
    return [
        Copies(
            digest,
            sorted(item.key for item in items),
            captions_differ=len({item.captions for item in items}) > 1,
            split_differs=len({item.held_out for item in items}) > 1,
        )
        for digest, items in sorted(groups.items())
        if len(items) > 1
    ]


@dataclass(frozen=True)
class CaptionFacts:
    """Facts about the captions of a source.

    Args:
        distinct: number of different captions.
        longest: number of tokens of the longest caption.
        several: number of pictures with more than one caption.
        common: captions of more than one picture, with their number of pictures, most frequent first.
        capacity: number of tokens that the text encoder keeps of a caption.
        cut: distinct captions with more tokens than that, with their number of tokens, longest first.
        pictures_cut: number of pictures with such a caption.
    """

    distinct: int
    longest: int
    several: int
    common: list[tuple[str, int]]
    capacity: int
    cut: list[tuple[str, int]]
    pictures_cut: int


def collect_caption_facts(items: Sequence[Item], count: Callable[[list[str]], list[int]], capacity: int) -> CaptionFacts:
    """Return the facts about the captions of items.

    Args:
        count: returns the number of tokens of each text.
        capacity: number of tokens that the text encoder keeps.
    """
    frequent = Counter(caption for item in items for caption in set(item.captions))
    texts = sorted(frequent)
    tokens = dict(zip(texts, count(texts), strict=True))
    cut = {text: number for text, number in tokens.items() if number > capacity}
    return CaptionFacts(
        distinct=len(texts),
        longest=max(tokens.values(), default=0),
        several=sum(len(set(item.captions)) > 1 for item in items),
        common=sorted(((c, n) for c, n in frequent.items() if n > 1), key=lambda pair: (-pair[1], pair[0])),
        capacity=capacity,
        cut=sorted(cut.items(), key=lambda pair: (-pair[1], pair[0])),
        pictures_cut=sum(any(caption in cut for caption in item.captions) for item in items),
    )


@dataclass(frozen=True)
class PictureFacts:
    """Facts about the pictures of a source.

    Args:
        items, usable, held_out, distinct: number of pictures, of usable, of held-out, of different pictures.
        unusable: the problem of each unusable picture, by key.
        rows: the problem of each row or file that is about no picture, by key.
        enlarged: the factor of each picture that is enlarged, by key.
        copies: pictures with identical bytes.
        profiles: why a colour profile is ignored, by key.
        flat: keys of pictures with a single colour.
        dark: the largest value as a share of white, of each picture for which it is at most `DARK`, by key.
        more_frames: keys of pictures with further pages or frames, which are not used.
        buckets: for each shape, the number of pictures and the share of their area that is cut away.
        cropped: the share of each picture that loses more than `LARGE_LOSS` of its area, by key, the largest first.
        upright: how many of these are higher than wide.
    """

    items: int
    usable: int
    held_out: int
    distinct: int
    unusable: dict[str, str]
    rows: dict[str, str]
    enlarged: dict[str, float]
    copies: list[Copies]
    profiles: dict[str, str]
    flat: list[str]
    dark: dict[str, float]
    more_frames: list[str]
    buckets: dict[str, tuple[int, float]]
    cropped: dict[str, float]
    upright: int

    @property
    def tiny(self) -> dict[str, float]:
        return {key: factor for key, factor in self.enlarged.items() if factor > TINY}


def collect_picture_facts(
    inspected: Sequence[Inspected], plan: CachePlan | None, *, share: float | None = 0.0
) -> PictureFacts:
    """Return the facts about the pictures of all items; with a plan, also how they are cropped.

    Args:
        share: of the pictures that training holds out if the source names none; None for the default.
    """
    good = sorted((one for one in inspected if one.problem is None), key=lambda one: one.item.key)
    scales = {} if plan is None else {one.item.key: plan.crop.scale(one.size) for one in good}
    shares = [] if plan is None else [(one, plan.crop.lost(one.size)) for one in good]
    cropped = sorted((pair for pair in shares if pair[1] > LARGE_LOSS), key=lambda pair: -pair[1])
    bad = sorted((one for one in inspected if one.problem is not None), key=lambda one: one.item.key)
    rows = {one.item.key: one.problem for one in bad if one.problem and one.item.picture is None and not one.digest}
    return PictureFacts(
        items=len(inspected) - len(rows),
        usable=len(good),
        held_out=sum(one.item.held_out for one in good) or count_held_out((one.digest for one in good), share),
        distinct=len({one.digest for one in good}),
        unusable={one.item.key: one.problem for one in bad if one.problem and one.item.key not in rows},
        rows=rows,
        enlarged={key: round(factor, 3) for key, factor in scales.items() if factor > 1},
        copies=find_copies(good),
        profiles={one.item.key: one.profile for one in good if one.profile},
        flat=[one.item.key for one in good if one.flat],
        dark={one.item.key: round(one.brightest / 255, 3) for one in good if one.brightest / 255 <= DARK and not one.flat},
        more_frames=[one.item.key for one in good if one.more_frames],
        buckets={} if plan is None else plan.lost(),
        cropped={one.item.key: round(share, 3) for one, share in cropped},
        upright=sum(one.size[0] > one.size[1] for one, _ in cropped),
    )
