"""What wandb has written to its own files: records in LevelDB's log format, 7 bytes of a header before the first block."""

from collections.abc import Iterator
from pathlib import Path

from ldm_train.util.safe_json import parse_json

BLOCK = 32768
HEADER = 7  # of a part of a record: checksum (4 bytes), length (2), kind (1)
WHOLE, FIRST, LAST = 1, 2, 4


def last_step(folder: Path, identity: str) -> int:
    """The last value of `step` among the rows of a run, in whichever of its directories; 0 where there is none."""
    for path in sorted(folder.glob(f"*run-*-{identity}/run-{identity}.wandb"), reverse=True):
        steps = [int(row["step"]) for row in rows(path) if "step" in row]
        if steps:
            return max(steps)
    return 0


def rows(path: Path) -> Iterator[dict[str, float]]:
    """The rows of numbers that a run has logged, by name; of what is no number the rest is left out."""
    from wandb.proto.wandb_internal_pb2 import Record

    for data in records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            values = {"/".join(item.nested_key) or item.key: parse_json(item.value_json) for item in record.history.item}
            yield {name: value for name, value in values.items() if isinstance(value, int | float)}


def records(data: bytes) -> Iterator[bytes]:
    """The records of a file, up to where it was cut off."""
    at, record = HEADER, b""
    while at + HEADER <= len(data):
        room = BLOCK - at % BLOCK
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if room < HEADER or kind == 0:  # the rest of a block is empty
            at += room
            continue
        if at + HEADER + length > len(data):
            return
        part = data[at + HEADER : at + HEADER + length]
        record = part if kind in (WHOLE, FIRST) else record + part
        at += HEADER + length
        if kind in (WHOLE, LAST):
            yield record
