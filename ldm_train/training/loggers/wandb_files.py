"""Read wandb's files: records in LevelDB's log format, with a header of 7 bytes before the first block."""

from collections.abc import Iterator
from pathlib import Path

from ldm_train.util.safe_json import parse_json

BLOCK_SIZE = 32768
HEADER = 7  # bytes before each part of a record: checksum (4), length (2), kind (1)
KIND_FULL, KIND_FIRST, KIND_LAST = 1, 2, 4


def read_last_step(folder: Path, identity: str) -> int:
    """Return the last `step` among the rows of a wandb run, in any of its directories; 0 if there is none."""
    for path in sorted(folder.glob(f"*run-*-{identity}/run-{identity}.wandb"), reverse=True):
        steps = [int(row["step"]) for row in read_history(path) if "step" in row]
        if steps:
            return max(steps)
    return 0


def read_history(path: Path) -> Iterator[dict[str, float]]:
    """Yield the rows that a run has logged, as numbers by name; other values are dropped."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in split_records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {"/".join(item.nested_key) or item.key: parse_json(item.value_json) for item in record.history.item}
            yield {name: value for name, value in values.items() if isinstance(value, int | float)}


def split_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file, up to where it is cut off."""
    at, record = HEADER, b""
    while at + HEADER <= len(data):
        room = BLOCK_SIZE - at % BLOCK_SIZE
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if room < HEADER or kind == 0:  # the rest of the block is padding
            at += room
            continue
        if at + HEADER + length > len(data):
            return
        part = data[at + HEADER : at + HEADER + length]
        record = part if kind in (KIND_FULL, KIND_FIRST) else record + part
        at += HEADER + length
        if kind in (KIND_FULL, KIND_LAST):
            yield record
