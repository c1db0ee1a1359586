"""What is to be known of a source's pictures and captions before training on them, from the look at each."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ldm_train.data.cache.plan import CachePlan
from ldm_train.data.scan.inspection import Inspected
from ldm_train.data.sources.items import Item

TINY = 4  # enlarged by more than this, a picture has hardly anything to learn from


@dataclass(frozen=True)
class Copies:
    """Pictures of the same bytes: their keys, and whether their captions differ, or one alone is held out."""

    digest: str
    keys: list[str]
    captions_differ: bool
    split_differs: bool


def copies(looked: Sequence[Inspected]) -> list[Copies]:
    """All pictures that are there more than once."""
    groups: dict[str, list[Item]] = {}
    for one in looked:
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
    """The captions of pictures.

    Args:
        distinct: how many different ones.
        longest: how many tokens the longest has.
        several: pictures that have more than one.
        common: captions that more than one picture has, with their numbers of pictures, the most frequent first.
        capacity: how many tokens the text encoder keeps of one.
        cut: distinct captions that have more, with their numbers of tokens, the longest first.
        pictures_cut: pictures that have such a caption.
    """

    distinct: int
    longest: int
    several: int
    common: list[tuple[str, int]]
    capacity: int
    cut: list[tuple[str, int]]
    pictures_cut: int


def caption_facts(items: Sequence[Item], count: Callable[[list[str]], list[int]], capacity: int) -> CaptionFacts:
    """Of items and of what their captions come to in tokens."""
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
    """The pictures of a source.

    Args:
        items, usable, held_out, distinct: how many there are, can be used, are kept from training, and differ.
        unusable: the others' problems, by key.
        enlarged: by how much pictures are enlarged, by key, where they are.
        copies: pictures of the same bytes.
        profiles: why a colour profile is ignored, by key.
        flat: keys of pictures of one colour.
        buckets: of each shape the number of pictures, and the share of their area that is cut away.
    """

    items: int
    usable: int
    held_out: int
    distinct: int
    unusable: dict[str, str]
    enlarged: dict[str, float]
    copies: list[Copies]
    profiles: dict[str, str]
    flat: list[str]
    buckets: dict[str, tuple[int, float]]

    @property
    def tiny(self) -> dict[str, float]:
        return {key: factor for key, factor in self.enlarged.items() if factor > TINY}


def picture_facts(looked: Sequence[Inspected], plan: CachePlan | None) -> PictureFacts:
    """Of all items, and of how they are cut."""
    good = sorted((one for one in looked if one.problem is None), key=lambda one: one.item.key)
    scales = {} if plan is None else {one.item.key: plan.crop.scale(one.size) for one in good}
    return PictureFacts(
        items=len(looked),
        usable=len(good),
        held_out=sum(one.item.held_out for one in good),
        distinct=len({one.digest for one in good}),
        unusable={one.item.key: one.problem for one in sorted(looked, key=lambda one: one.item.key) if one.problem},
        enlarged={key: round(factor, 3) for key, factor in scales.items() if factor > 1},
        copies=copies(good),
        profiles={one.item.key: one.profile for one in good if one.profile},
        flat=[one.item.key for one in good if one.flat],
        buckets={} if plan is None else plan.lost(),
    )
