"""Pictures and captions in tar files, as webdataset groups them."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ldm_train.data.sources.annotations import Annotation, annotate_from_json, annotate_from_text, join_annotations
from ldm_train.data.sources.folder_walk import format_suffix_counts
from ldm_train.data.sources.items import FileSlice, Item, format_name
from ldm_train.data.sources.source import Source
from ldm_train.data.sources.tar_files import TarShard, fetch_shard, find_shards
from ldm_train.data.sources.tar_index import Fault, Member, iterate_members
from ldm_train.util.inputs import MAX_TEXT, READ_ERRORS, describe_error, read_input

Sample = dict[str, Member]  # by its members' endings
META = re.compile(r"__[^/]*__($|/)")  # names that webdataset passes over


class TarShards(Source):
    """Samples of tar files, whose members share a name up to the first dot: `0001.jpg`, `0001.txt`, `0001.json`.

    The tars stay as they are; pictures are read from where they lie in them. An object in `0001.json` gives further fields,
    and `split` among them keeps from training as in a folder's metadata.

    Args:
        path: a glob, "shard-{0000..0009}.tar", a URL (https://…, hf://…, pipe:…), or a list of these.
        images: the endings of pictures.
        captions: the endings of captions, of which the first that says something is taken.
        caption_column: the name of the caption in a `.json`.
        download: the folder where shards from URLs are kept.
        prefix, suffix: put around every caption.
        commands: accept `pipe:COMMAND` and URLs that are opened by programs other than curl; from the command line only.

    Raises:
        ValueError: a shard that is not there, nothing that matches, URLs without `download`, or no picture in any shard.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        *,
        images: Sequence[str] = ("jpg", "jpeg", "png", "webp", "avif", "gif", "bmp", "tif", "tiff", "jp2"),
        captions: Sequence[str] = ("txt", "caption", "json"),
        caption_column: str = "text",
        download: str | None = None,
        prefix: str = "",
        suffix: str = "",
        commands: bool = False,
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        self.images = [ending.lower().lstrip(".") for ending in images]
        self.captions = [ending.lower().lstrip(".") for ending in captions]
        self.caption_column = caption_column
        self.shards = find_shards(path, download, commands=commands)

    def items(self) -> Iterator[Item]:
        others: Counter[str] = Counter()
        empty = True
        for shard in self.shards:
            fetch_shard(shard)
            for item in self._shard(shard, others):
                empty = False
                yield item
        kinds = f"not read as pictures or captions: {format_suffix_counts(others)}"
        if empty:
            looked = " ".join(f".{ending}" for ending in self.images)
            raise ValueError(
                f"no picture in {self.shards[0].path} and what else source.path names (looked for {looked} after the first "
                f"dot of each name); {kinds if others else 'it is empty'}; see source.images"
            )
        if others:
            self.notes.append(kinds)

    def _shard(self, shard: TarShard, others: Counter[str]) -> Iterator[Item]:
        samples: dict[str, Sample] = {}
        faults: list[Fault] = []
        try:
            for found in iterate_members(shard.path):
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    faults.extend(self._sort_in(found, samples, others))
        except READ_ERRORS as error:
            faults.append(Fault(f"cannot be read: {describe_error(error)}"))
        broken = {_parts(fault.member)[0] for fault in faults if fault.member is not None}
        yield from (self._item(shard, key, sample) for key, sample in samples.items() if key not in broken)
        for number, fault in enumerate(faults):
            words = f"{format_name(shard.path.name)} {fault.words}"
            if fault.certain:
                yield Item(f"{shard.name}:{number}", None, (), format_name(shard.path.name), problem=words)
            else:
                self.notes.append(words)

    def _sort_in(self, member: Member, samples: dict[str, Sample], others: Counter[str]) -> Iterator[Fault]:
        """Put a member to its sample, count one of another kind, pass over webdataset's own."""
        key, ending = _parts(member.name)
        if META.match(member.name):
            return
        if ending not in (*self.images, *self.captions, "json"):
            others[f".{ending}" if ending else ""] += 1
        elif ending in samples.setdefault(key, {}):
            yield Fault(
                f"holds {format_name(member.name)} twice; the sample is left out, since one may be an older one", member.name
            )
        else:
            samples[key][ending] = member

    def _item(self, shard: TarShard, key: str, sample: Sample) -> Item:
        origin = f"{format_name(shard.path.name)}, {format_name(key)}"
        name = f"{shard.name}/{key}"
        pictures = [ending for ending in self.images if ending in sample]
        if len(pictures) != 1:
            wrong = (
                "no picture" if not pictures else f"{len(pictures)} pictures; choose, as in source.images=[{pictures[0]}]"
            )
            there = ", ".join(f".{ending}" for ending in sample)
            return Item(name, None, (), origin, problem=f"{origin} holds {there}: {wrong}")
        told = self._told(shard, sample, origin)
        member = sample[pictures[0]]
        picture = FileSlice(shard.path, member.offset, member.length)
        return Item(name, picture, told.captions, origin, told.held_out, told.fields, told.problem)

    def _told(self, shard: TarShard, sample: Sample, origin: str) -> Annotation:
        """The captions in the order of the setting; a JSON's fields whether or not captions are taken from it."""
        told = [self._read(shard, sample[ending], ending) for ending in self.captions if ending in sample]
        missing = f"no caption: {origin} has no {' or '.join(f'.{ending}' for ending in self.captions)}"
        if "json" in sample and "json" not in self.captions:
            fields = self._read(shard, sample["json"], "json")
            told.append(replace(fields, captions=(), problem=fields.problem if fields.damaged else missing))
        return join_annotations(told) if told else Annotation(origin, problem=missing)

    def _read(self, shard: TarShard, member: Member, ending: str) -> Annotation:
        origin = f"{format_name(shard.path.name)}, {format_name(member.name)}"
        try:
            content = read_input(shard.path, limit=MAX_TEXT, offset=member.offset, length=member.length)
        except READ_ERRORS as error:
            return Annotation(origin, problem=f"no caption: {origin} cannot be read: {describe_error(error)}", damaged=True)
        if ending == "json":
            return annotate_from_json(content, column=self.caption_column, origin=origin)
        return annotate_from_text(content, origin=origin)


def _parts(name: str) -> tuple[str, str]:
    """A sample's name and a member's ending in lower case, as webdataset tells them apart; ("", "") if it has no ending."""
    from webdataset.tariterators import base_plus_ext

    key, ending = base_plus_ext(name.removeprefix("./"))
    return (key, ending.lower()) if key is not None else ("", "")
