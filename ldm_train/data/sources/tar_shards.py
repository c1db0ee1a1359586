"""Pictures and captions in tar files, in webdataset's format."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ldm_train.data.pictures.formats import PICTURE_ENDINGS, UNREAD_SUFFIXES
from ldm_train.data.sources.annotations import (
    Annotation,
    Lines,
    annotate_from_json,
    annotate_from_text,
    describe_parameters,
    join_annotations,
    require_lines,
)
from ldm_train.data.sources.folder_walk import format_suffix_counts
from ldm_train.data.sources.items import FileSlice, Item, format_name
from ldm_train.data.sources.source import Source
from ldm_train.data.sources.tar_files import TarShard, fetch_shard, find_shards
from ldm_train.data.sources.tar_index import Fault, Member, iterate_members
from ldm_train.util.inputs import MAX_LINE, MAX_TEXT, READ_ERRORS, describe_error, read_input
from ldm_train.util.ownership import is_system_folder

Sample = dict[str, Member]  # members by suffix
ARRAY = "npy"
IGNORED_NAMES = re.compile(r"__[^/]*__($|/)")  # names that webdataset ignores


class TarShards(Source):
    """Samples in tar files, whose members have the same name up to the first dot: `0001.jpg`, `0001.txt`, `0001.json`.

    Tars are not unpacked: pictures are read at their place in them. The object in `0001.json` has further fields, of which
    `split` holds out as in a folder's metadata.

    Args:
        path: a glob, "shard-{0000..0009}.tar", a URL (https://…, hf://…, pipe:…), or a list of these.
        images: suffixes of pictures; None for those of all formats that are read, without arrays: ["npy"] reads these.
        captions: suffixes of captions; the first that is not empty is used.
        caption_column: the name of the caption in a `.json`.
        lines: whether each line of a text is a caption ("each"), or all lines are one ("one").
        download: the folder where downloaded shards are stored.
        prefix, suffix: added to every caption.
        maps: suffixes of each picture's maps, by the maps' names: {"depth": "depth.png"} for `0001.depth.png`.
        commands: whether to accept `pipe:COMMAND` and URLs that other programs than curl open; only from the command line.

    Raises:
        ValueError: a shard does not exist, nothing matches, URLs are given without `download`, or no shard has a picture.
    """

    def __init__(
        self,
        path: str | Sequence[str],
        *,
        images: Sequence[str] | None = None,
        captions: Sequence[str] = ("txt", "caption", "json"),
        caption_column: str = "text",
        lines: Lines = "each",
        download: str | None = None,
        prefix: str = "",
        suffix: str = "",
        maps: Mapping[str, str] | None = None,
        commands: bool = False,
    ) -> None:
        super().__init__(
            prefix=prefix, suffix=suffix, maps={name: end.lower().lstrip(".") for name, end in (maps or {}).items()}
        )
        endings = [ending.lower().lstrip(".") for ending in (PICTURE_ENDINGS if images is None else images)]
        self.images = [ending for ending in endings if ending not in self.maps.values()]
        self.captions = [ending.lower().lstrip(".") for ending in captions]
        self.caption_column = caption_column
        require_lines(lines)
        self.lines: Lines = lines
        self.num_parameters = 0
        self.arrays: set[str] = set()  # samples of a shard with an array that is not read
        self.shards = find_shards(path, download, commands=commands)

    def items(self) -> Iterator[Item]:
        others: Counter[str] = Counter()
        self.num_parameters = 0
        empty = True
        for shard in self.shards:
            fetch_shard(shard)
            for item in self._shard(shard, others):
                empty = False
                yield item
        kinds = f"not read as pictures or captions: {format_suffix_counts(others)}"
        if empty:
            suffixes = " ".join(f".{ending}" for ending in self.images)
            raise ValueError(
                f"no picture in {self.shards[0].path} and the other files of source.path (looked for {suffixes} after the "
                f"first dot of each name); {kinds if others else 'it is empty'}; see source.images"
            )
        self.notes += describe_parameters(self.num_parameters)
        if others:
            self.notes.append(kinds)
        dotted = [ending.lstrip(".") for ending in self.unread if ending.rpartition(".")[2] in self.images]
        if dotted:
            self.warnings.append(
                f"a suffix begins at the first dot of a name: source.images=[{','.join([*self.images, *dotted[:5]])}] "
                f"reads .{dotted[0]} too, or rename the pictures"
            )

    def _shard(self, shard: TarShard, others: Counter[str]) -> Iterator[Item]:
        samples: dict[str, Sample] = {}
        faults: list[Fault] = []
        unread: list[tuple[str, str]] = []  # samples and suffixes
        self.arrays.clear()
        try:
            for found in iterate_members(shard.path):
                if isinstance(found, Fault):
                    faults.append(found)
                else:
                    faults.extend(self._sort_in(found, samples, others, unread))
        except READ_ERRORS as error:
            faults.append(Fault(f"cannot be read: {describe_error(error)}"))
        broken = {_parts(fault.member)[0] for fault in faults if fault.member is not None}
        yield from (self._item(shard, key, sample) for key, sample in samples.items() if key not in broken)
        has_picture = {key for key, sample in samples.items() if not sample.keys().isdisjoint(self.images)}
        self.unread.update(f".{ending}" for key, ending in unread if key not in has_picture)
        for number, fault in enumerate(faults):
            words = f"{format_name(shard.path.name)} {fault.words}"
            if fault.certain:
                yield Item(f"{shard.name}:{number}", None, (), format_name(shard.path.name), problem=words)
            else:
                self.notes.append(words)

    def _sort_in(
        self, member: Member, samples: dict[str, Sample], others: Counter[str], unread: list[tuple[str, str]]
    ) -> Iterator[Fault]:
        """Add a member to its sample, count one of another kind, and ignore webdataset's own."""
        key, ending = _parts(member.name)
        if IGNORED_NAMES.match(member.name) or any(map(is_system_folder, member.name.split("/")[:-1])):
            return
        if ending not in (*self.images, *self.captions, *self.maps.values(), "json"):
            others[f".{ending}" if ending else ""] += 1
            if ending == ARRAY:
                self.arrays.add(key)
            last = ending.rpartition(".")[2]
            if last in self.images or f".{last}" in UNREAD_SUFFIXES:
                unread.append((key, ending))
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
            array = f"; source.images=[{ARRAY}] reads .{ARRAY} as pictures" if key in self.arrays else ""
            wrong = (
                f"no picture{array}"
                if not pictures
                else f"{len(pictures)} pictures; choose, as in source.images=[{pictures[0]}]"
            )
            there = ", ".join(f".{ending}" for ending in sample)
            return Item(name, None, (), origin, problem=f"{origin} holds {there}: {wrong}")
        annotation = self._annotate(shard, sample, origin)
        files = {ending: FileSlice(shard.path, member.offset, member.length) for ending, member in sample.items()}
        return Item(
            name,
            files[pictures[0]],
            annotation.captions,
            origin,
            annotation.held_out,
            annotation.fields,
            annotation.problem,
            maps={map_name: files[ending] for map_name, ending in self.maps.items() if ending in files},
        )

    def _annotate(self, shard: TarShard, sample: Sample, origin: str) -> Annotation:
        """Return the first caption in the order of the setting, with the fields of the JSON in any case."""
        annotations = [self._read(shard, sample[ending], ending) for ending in self.captions if ending in sample]
        missing = f"no caption: {origin} has no {' or '.join(f'.{ending}' for ending in self.captions)}"
        if "json" in sample and "json" not in self.captions:
            fields = self._read(shard, sample["json"], "json")
            annotations.append(replace(fields, captions=(), problem=fields.problem if fields.damaged else missing))
        return join_annotations(annotations) if annotations else Annotation(origin, problem=missing)

    def _read(self, shard: TarShard, member: Member, ending: str) -> Annotation:
        origin = f"{format_name(shard.path.name)}, {format_name(member.name)}"
        try:
            limit = MAX_LINE if ending == "json" else MAX_TEXT
            content = read_input(shard.path, limit=limit, offset=member.offset, length=member.length)
        except READ_ERRORS as error:
            return Annotation(origin, problem=f"no caption: {origin} cannot be read: {describe_error(error)}", damaged=True)
        if ending == "json":
            return annotate_from_json(content, column=self.caption_column, origin=origin)
        annotation = annotate_from_text(content, origin=origin, lines=self.lines)
        self.num_parameters += annotation.has_parameters
        return annotation


def _parts(name: str) -> tuple[str, str]:
    """Split a member's name as webdataset does: the sample's name, and the suffix in lower case; ("", "") without suffix."""
    from webdataset.tariterators import base_plus_ext

    key, ending = base_plus_ext(name.removeprefix("./"))
    return (key, ending.lower()) if key is not None else ("", "")
