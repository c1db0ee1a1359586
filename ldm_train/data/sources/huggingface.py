"""Pictures in a dataset of Hugging Face's `datasets`: on the hub, or in local files."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ldm_train.data.sources.annotations import annotate_from_values, read_key, suggest_column
from ldm_train.data.sources.arrow import iterate_rows
from ldm_train.data.sources.columns import PictureFetcher, is_small, may_hold_pictures, name_class, read_encoded_picture
from ldm_train.data.sources.dataset_splits import DataFiles, DatasetRequest, load_split, one_line
from ldm_train.data.sources.items import Item, Picture, PictureBytes, TablePicture, format_name
from ldm_train.data.sources.source import Source
from ldm_train.util.inputs import READ_ERRORS, describe_error

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

RowAndPicture = tuple[Mapping[str, object], Picture | str]  # a row's values and picture, or what is wrong with that


class HuggingFace(Source):
    """A split of a dataset, in its order; pictures as the bytes that it holds.

    Columns of text and numbers are kept; `split` among them keeps from training as in a folder's metadata.

    Args:
        path: a name on the hub, a folder, a `.parquet`, `.arrow`, `.jsonl` or `.csv` file, or a `save_to_disk` folder.
        name: which configuration, where there are several.
        split: what to train on, also a slice: "train[:10%]".
        held_out_split: a further split, to keep from training.
        image_column, caption_column: a caption may be a list, or the name of a class.
        key_column: names that are unique and lasting; None takes the split and the row's number.
        data_files: which files of the dataset.
        revision: the commit on the hub, so that it stays the same.
        cache_dir: where `datasets` keeps what it downloads and converts; None takes its own place.
        streaming: read over the network, once and in order, without keeping it.
        prefix, suffix: put around every caption.

    Raises:
        ValueError: it cannot be had, or has no such split or column.
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
    ) -> None:
        super().__init__(prefix=prefix, suffix=suffix)
        if held_out_split == split:
            raise ValueError(f"source.held_out_split={split} is source.split too; then nothing is left to train on")
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
        features = data.features  # made anew at each access
        self._check(features)
        listed = [name for name, kind in features.items() if name != self.image_column and self._is_listed(name, kind)]
        data = data.select_columns([*listed, self.image_column]).cast_column(self.image_column, datasets.Image(decode=False))
        at_rest = isinstance(data, datasets.Dataset)
        if at_rest and self.request.streaming and split == self.split:
            self.notes.append("source.streaming has no effect on what save_to_disk wrote")
        rows = self._at_rest(data, listed) if at_rest else self._passing(data)
        for number, (values, picture) in enumerate(rows):
            told = {name: name_class(features[name], values.get(name)) for name in listed}
            yield self._item(told, picture, f"{split}/{number:08d}", held_out=held_out)

    def _check(self, features: Mapping[str, object]) -> None:
        wanted = {"image_column": self.image_column, "caption_column": self.caption_column, "key_column": self.key_column}
        for setting, column in wanted.items():
            if column is not None and column not in features:
                rest = suggest_column(column, features, setting)
                raise ValueError(f"{self.request.path} has no column {column!r} (source.{setting}): {rest}")
        if not may_hold_pictures(features[self.image_column]):
            kind = features[self.image_column]
            raise ValueError(f"source.image_column={self.image_column} holds no pictures but {kind}; which column does?")

    def _is_listed(self, name: str, kind: object) -> bool:
        """Whether a column is read in naming the items: not what is large."""
        return name in (self.caption_column, self.key_column) or is_small(kind)

    def _at_rest(self, data: "Dataset", listed: list[str]) -> Iterator[RowAndPicture]:
        """Rows whose pictures are read when asked for."""
        fetch = PictureFetcher(data.select_columns([self.image_column]), self.image_column)
        listing = data.select_columns(listed).with_format("arrow")
        needed = {self.caption_column, self.key_column or self.caption_column, "split"}
        batches = (batch for table in listing.iter(batch_size=1000) for batch in table.combine_chunks().to_batches())
        rows = (row for batch in batches for row in iterate_rows(batch, needed))
        for number, row in enumerate(rows):
            yield ({}, row) if isinstance(row, str) else (row, TablePicture(fetch, number))

    def _passing(self, data: "IterableDataset") -> Iterator[RowAndPicture]:
        """Rows with their pictures; a stream that breaks off ends in its problem."""
        rows = iter(data)
        while True:
            try:
                values = next(rows)
            except StopIteration:
                return
            except Exception as error:  # whatever the network and the readers of all formats raise
                yield {}, f"the stream broke off here: {one_line(error)}"
                return
            try:
                yield values, PictureBytes(read_encoded_picture(values.get(self.image_column)))
            except READ_ERRORS as error:
                yield values, str(error) or describe_error(error)

    def _item(self, values: Mapping[str, object], picture: Picture | str, place: str, *, held_out: bool) -> Item:
        """`picture` is a text where it is a problem."""
        if isinstance(picture, str):
            return Item(place, None, (), format_name(place), problem=f"{format_name(place)}: {picture}")
        apart = [] if self.key_column is None else [self.key_column]
        told = annotate_from_values(values, column=self.caption_column, origin=format_name(place), apart=apart)
        key = place if self.key_column is None else read_key(values[self.key_column])
        if key is None:
            problem = f"{format_name(place)} has no name of its own: {self.key_column} is empty or an absolute path"
            return Item(place, None, (), format_name(place), problem=problem)
        return Item(key, picture, told.captions, told.origin, held_out or told.held_out, told.fields, told.problem)
