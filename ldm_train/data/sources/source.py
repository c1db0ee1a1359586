"""The base of sources, which yield captioned pictures lazily and in a stable order."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace

from ldm_train.data.sources.annotations import HELD_OUT_SPLITS
from ldm_train.data.sources.items import Item, accept_without_caption, format_name
from ldm_train.data.sources.own_items import WrongItemError, check_item

MAX_NAMED_SPLITS = 5  # of the values of `split`, in notes
MAX_FIELD = 2000  # characters of a further field, which the cache stores: not a picture in base64
MAX_FIELDS = 100  # of a picture
MAP_NAME = re.compile(r"[a-zA-Z]\w*", re.ASCII)


class Source(ABC):
    """Captioned pictures in a stable order.

    Args:
        prefix, suffix: added to every caption, such as a trigger word.
        maps: where the maps of each picture are, by their names.

    Attributes:
        notes: messages about what was found, complete after all items were iterated.
        warnings: the same, for what is likely not intended.
        unread: the number of pictures of kinds that are not read, by suffix; they are no items.
        needs_captions: whether a picture without a caption is a problem; False gives it the empty caption.
    """

    needs_captions = True

    def __init__(self, *, prefix: str = "", suffix: str = "", maps: Mapping[str, str] | None = None) -> None:
        self.prefix = prefix
        self.suffix = suffix
        self.maps = dict(maps or {})
        if bad := [name for name in self.maps if not MAP_NAME.fullmatch(name)]:
            raise ValueError(f"source.maps: {bad[0]!r} cannot be a map's name; it takes letters, digits and underscores")
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.unread: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Item]:
        for found in (self.notes, self.warnings, self.unread):
            found.clear()
        splits: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for item in _uniquely_named(self._named_items()):
            long = [name for name, text in item.fields.items() if len(text) > MAX_FIELD]
            if long or len(item.fields) > MAX_FIELDS:
                kept = [name for name in item.fields if name not in long][:MAX_FIELDS]
                dropped.update(item.fields.keys() - {*kept})
                item = replace(item, fields={name: item.fields[name] for name in kept})
            if "split" in item.fields:
                splits[item.fields["split"]] += 1
            if self.prefix or self.suffix:
                item = replace(item, captions=tuple(f"{self.prefix}{text}{self.suffix}" for text in item.captions))
            yield item if self.needs_captions else accept_without_caption(item)
        if dropped:
            names = ", ".join(
                f"{format_name(name[:40])} ({count:,})" for name, count in dropped.most_common(MAX_NAMED_SPLITS)
            )
            self.notes.append(f"fields that are not stored, being longer than {MAX_FIELD:,} characters or too many: {names}")
        if len(splits) > MAX_NAMED_SPLITS:
            self.notes.append(f"there are {len(splits) - MAX_NAMED_SPLITS:,} further values of split like the following")
        known = ", ".join(sorted(HELD_OUT_SPLITS))
        for split, count in splits.most_common(MAX_NAMED_SPLITS):
            self.notes.append(
                f"split {format_name(split[:100])!r} ({count:,}) does not hold examples out; these do: {known}"
            )

    def _named_items(self) -> Iterator[Item]:
        """Yield the items; of own code they are checked, and an error gets the name of the class and the item's number.

        Raises:
            ValueError: `items` raised, or yielded something else than an item.
        """
        number, own = 1, not type(self).__module__.startswith("ldm_train.")
        try:
            for item in self.items():
                yield check_item(item) if own else item
                number += 1
        except (Exception, SystemExit) as error:
            if not own:
                raise
            what = str(error) if isinstance(error, WrongItemError) else f"{type(error).__name__}: {error}"
            raise ValueError(f"{type(self).__name__}.items() failed at item {number}: {what}") from error

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield each item, with captions as they are in the source."""


def _uniquely_named(items: Iterator[Item]) -> Iterator[Item]:
    """Yield items with unique keys: one whose key occurred before becomes a problem named "a.png#2", "a.png#3"."""
    latest: dict[str, int] = {}
    for item in items:
        key = item.key
        while key in latest:
            latest[item.key] += 1
            key = f"{item.key}#{latest[item.key]}"
        latest[key] = 1
        if key != item.key:
            problem = item.problem or f"an earlier picture has the same name {format_name(item.key)}"
            item = replace(item, key=key, picture=None, captions=(), problem=problem)
        yield item
