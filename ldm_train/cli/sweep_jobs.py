"""The names of the directories of a sweep's jobs."""

import hashlib
import re
from collections.abc import Mapping

LONGEST = 120  # of a name, which file systems end at 255 bytes


def job_name(swept: Mapping[str, str]) -> str:
    """A directory's name for these settings: itself if that is safe, else with a checksum for what was replaced or cut."""
    whole = ",".join(f"{name}={value}" for name, value in swept.items())
    safe = re.sub(r"[^\w.=,+-]+", "_", whole, flags=re.ASCII)[:LONGEST]
    return safe if safe == whole else f"{safe}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
