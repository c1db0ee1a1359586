"""Find the tar files (shards) that a setting names, and download those with URLs."""

import glob
import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from ldm_train.util.files import atomic_file, hidden_path, make_folder
from ldm_train.util.locks import LOCK_SUFFIX, hold_lock
from ldm_train.util.text import as_word

PATIENCE = 6 * 3600  # seconds to wait for another process's download
PLAIN_SCHEMES = ("https", "http", "hf", "file")  # of URLs that run no command


@dataclass(frozen=True)
class TarShard:
    """A tar file, which is downloaded from its `url` if it has one. Its pictures' keys begin with `name`."""

    name: str
    path: Path
    url: str | None = None


def find_shards(setting: str | Sequence[str], download: str | None, *, commands: bool) -> list[TarShard]:
    """Return the shards that a path, a glob, a brace list, a URL, or a list of these names, in order.

    Args:
        download: the folder for downloaded shards.
        commands: whether a place may be a command (`pipe:…`), or be opened by another program than curl.

    Raises:
        ValueError: a shard does not exist or is named twice, nothing matches, a URL is given without a folder for downloads,
            or a command although commands are not accepted.
    """
    settings = [setting] if isinstance(setting, str) else list(setting)
    places = [found for one in settings for place in _expanded(one) for found in _matching(place)]
    if not commands:
        for place in places:
            check_no_command(place)
    if not places:
        raise ValueError("source.path is an empty list; give a glob, a brace list or a list of tar files, or URLs of them")
    twice = [place for place, count in Counter(places).items() if count > 1]
    if twice:
        raise ValueError(f"source.path names {twice[0]} twice; give each shard once")
    remote = [place for place in places if is_remote(place)]
    if remote and download is None:
        raise ValueError(f"source.path={remote[0]} must be downloaded; set source.download to a folder for the shards")
    local = [os.path.abspath(place) for place in places if not is_remote(place)]
    common = os.path.commonpath([os.path.dirname(path) for path in local]) if local else ""
    stems = Counter(_stem(place) for place in remote)
    shards = []
    for place in places:
        if is_remote(place):
            unique = f"{_stem(place)}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
            name = _stem(place) if stems[_stem(place)] == 1 else unique
            shards.append(TarShard(name, Path(download or "") / f"{unique}.tar", place))
        else:
            name = Path(os.path.relpath(place, common)).as_posix()
            shards.append(TarShard(name.removesuffix(".tar"), Path(place)))
    return shards


def fetch_shard(shard: TarShard) -> None:
    """Download a shard if it is not there yet, atomically; raise ValueError if it cannot be downloaded."""
    if shard.url is None or shard.path.exists():
        return
    from webdataset.gopen import gopen

    make_folder(shard.path.parent)
    lock = hidden_path(shard.path, LOCK_SUFFIX)
    busy = f"source.path: another process has been fetching {shard.url} for {PATIENCE / 3600:.0f} hours"
    with hold_lock(lock, busy=busy, wait=PATIENCE, remove=True):
        if shard.path.exists():
            return  # another process downloaded it meanwhile
        try:
            with atomic_file(shard.path) as file, gopen(shard.url) as stream:
                shutil.copyfileobj(stream, file)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"source.path: {shard.url} cannot be downloaded ({error}); earlier downloads are kept in {shard.path.parent}"
            ) from error


def check_no_command(place: str) -> None:
    """Raise ValueError if opening a place would run a command, or a program that uses the user's credentials."""
    scheme = urlparse(place.strip()).scheme.lower()
    if is_remote(place) and scheme not in PLAIN_SCHEMES:
        raise ValueError(
            f"source.path={place}: {scheme}: runs a program, and is accepted only where source.path is typed on the command "
            f"line (in Python: commands=True), not from a file; a file may give paths and {', '.join(PLAIN_SCHEMES)}"
        )


def is_remote(place: str) -> bool:
    """Return whether a place is a URL or a command."""
    return place.startswith("pipe:") or "://" in place


def _expanded(setting: str) -> list[str]:
    """Expand braces, places separated by `::`, and ${…} from the environment, as webdataset does."""
    from webdataset.shardlists import expand_urls

    if os.path.lexists(setting):
        return [setting]
    try:
        places = list(expand_urls(setting))
    except (ValueError, AssertionError) as error:
        raise ValueError(
            f"source.path={setting} cannot be expanded: {error}; 'source.path=DIR/shard-{{0000..0009}}.tar' can, in quotes"
        ) from error
    return [url2pathname(urlparse(place).path) if place.startswith("file:") else place for place in places]


def _matching(place: str) -> list[str]:
    """Return a URL or an existing file itself, or the files that match a glob."""
    if is_remote(place) or os.path.isfile(place):
        return [place]
    if os.path.isdir(place):
        word = as_word("source.path", f"{place.rstrip('/')}/*.tar")
        raise ValueError(f"source.path={place} is a folder; name its shards: {word}")
    if not glob.has_magic(place):
        raise ValueError(f"source.path: the shard {place} does not exist")
    found = sorted(path for path in glob.glob(place, recursive=True) if os.path.isfile(path))
    if not found:
        raise ValueError(f"source.path={place} matches no file; name tar files")
    return found


def _stem(url: str) -> str:
    """Return a name for the file of a URL or a command: the last part that looks like a file name."""
    path = url if url.startswith("pipe:") else urlparse(url).path
    parts = re.findall(r"[\w.-]+", path)
    tars = [part for part in parts if part.endswith(".tar")]
    return (tars or parts or ["shard"])[-1].removesuffix(".tar").lstrip(".") or "shard"
