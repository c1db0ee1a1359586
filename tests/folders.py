"""What a folder holds, to compare before and after a command."""

import hashlib
from pathlib import Path


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder, hidden ones too; "" for folders and links."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
