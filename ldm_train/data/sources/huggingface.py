"""Pictures in datasets of Hugging Face's `datasets`, on the hub or in local files."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from ldm_train.data.sources.annotations import annotate_from_values, read_key, suggest_column
from ldm_train.data.sources.arrow import iterate_rows
from ldm_train.data.sources.columns import (
    PictureFetcher,
    find_number_type,
    is_small,
    may_hold_pictures,
    name_class,
    read_cell,
)
from ldm_train.data.sources.dataset_splits import DataFiles, DatasetRequest, load_split
from ldm_train.data.sources.items import EncodedPicture, Item, PictureBytes, TablePicture, format_name
from ldm_train.data.sources.source import Source
from ldm_train.util.inputs import READ_ERRORS, describe_error

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Files = dict[str, EncodedPicture]  # of a row, by the names of their columns
RowAndFiles = tuple[Mapping[str, object], Files | str]  # a row's values, and its files or the problem with its picture


class HuggingFace(Source):
    """A split of a dataset, in its order.

    Columns of text and numbers become fields; a column `split` holds examples out as in a folder's metadata.

    Args:
        path: a name on the hub, a folder, a `.parquet`, `.arrow`, `.jsonl` or `.csv` file, or a `save_to_disk` folder.
        name: the configuration, if there are several.
        split: the split to train on, or a slice of it: "train[:10%]".
        held_out_split: a further split, which is held out.
        image_column: the pictures' column.
        caption_column: the captions' column; a value may be a text, a list of texts or a class.
        key_column: a column of unique, permanent names; None uses the split and the row's number.
        data_files: which files of the dataset to use.
        revision: the commit on the hub, so that the data stay the same.
        cache_dir: where `datasets` stores downloads and converted data; None uses its default.
        streaming: whether to read over the network, once and in order, without storing the data.
        prefix, suffix: added to every caption.
        maps: the columns of each picture's maps, by the maps' names: {"depth": "depth_image"}; they have pictures or arrays.

    Raises:
        ValueError: the dataset cannot be loaded, or has no such split or column.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str | None = None,
        split: str = "train",
        held_out_split: str | None = None,
        image_column: str = "image",
        caption_column: str = "text",
        key_column: str | None = None,
        data_files: DataFiles = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        streaming: bool = False,
        prefix: str = "",
        suffix: str = "",
        maps: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix, maps=maps)
        if held_out_split == split:
            raise ValueError(
                f"source.held_out_split={split} is also source.split, so nothing is left to train on; choose another one"
            )
        self.request = DatasetRequest(str(path), name, data_files, revision, cache_dir, streaming)
        self.split = split
        self.held_out_split = held_out_split
        self.image_column = image_column
        self.caption_column = caption_column
        self.key_column = key_column

    def items(self) -> Iterator[Item]:
        yield from self._split(self.split, held_out=False)
        if self.held_out_split is not None:
            yield from self._split(self.held_out_split, held_out=True)

    def _split(self, split: str, *, held_out: bool) -> Iterator[Item]:
        import datasets

        data = load_split(self.request, split)
        if isinstance(data, datasets.IterableDataset) and data.features is None:
            data = data._resolve_features()
        features = data.features  # built again at each access
        self._check(features)
        files = {name: find_number_type(features[name]) for name in (self.image_column, *self.maps.values())}
        columns = [name for name, kind in features.items() if name not in files and self._is_read(name, kind)]
        data = data.select_columns([*columns, *files])
        for name in [name for name, numbers in files.items() if numbers is None]:
            data = data.cast_column(name, datasets.Image(decode=False))
        at_rest = isinstance(data, datasets.Dataset)
        if at_rest and self.request.streaming and split == self.split:
            self.notes.append("source.streaming has no effect on a folder that save_to_disk wrote")
        rows = self._at_rest(data, columns, files) if at_rest else self._stream(data, files)
        for number, (values, found) in enumerate(rows):
            row = {name: name_class(features[name], values.get(name)) for name in columns}
            yield self._item(row, found, f"{split}/{number:08d}", held_out=held_out)

    def _check(self, features: Mapping[str, object]) -> None:
        files = {"image_column": self.image_column, **{f"maps.{name}": column for name, column in self.maps.items()}}
        texts = {"caption_column": self.caption_column, "key_column": self.key_column}
        for setting, column in (files | texts).items():
            if column is None or (setting == "caption_column" and not self.needs_captions):
                continue
            if column not in features:
                rest = suggest_column(column, features, setting)
                raise ValueError(f"{self.request.path} has no column {column!r} (source.{setting}): {rest}")
            both = next((name for name, other in files.items() if setting in texts and other == column), None)
            if both:
                raise ValueError(f"source.{both}={column} is also source.{setting}: a column has either pictures or texts")
        for setting, column in files.items():
            kind = features[column]
            is_map = setting != "image_column"
            if not (is_map and find_number_type(kind)) and not may_hold_pictures(kind):
                what = "pictures or arrays of numbers" if is_map else "pictures"
                raise ValueError(f"source.{setting}={column} has no {what} but {kind}; choose the column with the {what}")

    def _is_read(self, name: str, kind: object) -> bool:
        """Return whether a column is read while items are columns: not if it is large."""
        return name in (self.caption_column, self.key_column) or is_small(kind)

    def _at_rest(self, data: "Dataset", columns: list[str], files: Mapping[str, str | None]) -> Iterator[RowAndFiles]:
        """Yield rows with pictures that are read when needed."""
        fetch = {name: PictureFetcher(data.select_columns([name]), name, numbers) for name, numbers in files.items()}
        listing = data.select_columns(columns).with_format("arrow")
        needed = {self.caption_column, self.key_column or self.caption_column, "split"}
        batches = (batch for table in listing.iter(batch_size=1000) for batch in table.combine_chunks().to_batches())
        rows: Iterable[Mapping[str, object] | str] = (row for batch in batches for row in iterate_rows(batch, needed))
        if not columns:  # a table without columns has no rows
            rows = ({} for _ in range(len(data)))
        for number, row in enumerate(rows):
            yield (
                ({}, row)
                if isinstance(row, str)
                else (row, {name: TablePicture(one, number) for name, one in fetch.items()})
            )

    def _stream(self, data: "IterableDataset", files: Mapping[str, str | None]) -> Iterator[RowAndFiles]:
        """Yield rows with their pictures in memory; a stream that breaks off ends with a problem."""
        rows = iter(data)
        while True:
            try:
                values = next(rows)
            except StopIteration:
                return
            except Exception as error:  # whatever the network and the readers of all formats raise
                yield {}, f"the stream broke off here: {describe_error(error)}"
                return
            try:
                yield values, {name: PictureBytes(read_cell(values.get(name), kind)) for name, kind in files.items()}
            except READ_ERRORS as error:
                yield values, str(error) or describe_error(error)

    def _item(self, values: Mapping[str, object], files: Files | str, place: str, *, held_out: bool) -> Item:
        """Return the item of a row; `files` of type str are a problem."""
        if isinstance(files, str):
            return Item(place, None, (), format_name(place), problem=f"{format_name(place)}: {files}")
        apart = [] if self.key_column is None else [self.key_column]
        annotation = annotate_from_values(values, column=self.caption_column, origin=format_name(place), apart=apart)
        key = place if self.key_column is None else read_key(values[self.key_column])
        if key is None:
            problem = f"{format_name(place)} has no usable name: {self.key_column} is empty or an absolute path"
            return Item(place, None, (), format_name(place), problem=problem)
        return Item(
            key,
            files[self.image_column],
            annotation.captions,
            annotation.origin,
            held_out or annotation.held_out,
            annotation.fields,
            annotation.problem,
            maps={name: files[column] for name, column in self.maps.items()},
        )
