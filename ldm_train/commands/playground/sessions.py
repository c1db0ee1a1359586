"""What each browser did: its pictures, and the drawing that it may cancel. No session sees another one's."""

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ldm_train.util.files import atomic_write, make_folder

MOST_SESSIONS = 1000  # sessions; of more the oldest are forgotten
PATIENCE = 30.0  # seconds that a cancelled drawing may take to end
HISTORY = 100  # pictures of a session that are listed
PICTURE = re.compile(r"(?P<session>[\w-]{22})/(?P<name>\d{5}(-attention)?\.png)", re.ASCII)


@dataclass(frozen=True)
class HistoryEntry:
    """A picture of a session.

    Args:
        number: from 1, in the order of drawing.
        path: of its file below the folder of pictures, which is part of its address.
        run, prompt, settings: from which it was drawn, as the page has them.
        attention: the path of the picture of the attention to its words.
        restorable: whether prompt and settings draw it again; not of a picture between two others.
    """

    number: int
    path: str
    run: str
    prompt: str
    settings: Mapping[str, object]
    command: str
    seconds: float
    step: int
    messages: tuple[str, ...] = ()
    attention: str | None = None
    restorable: bool = True


@dataclass
class BrowserSession:
    """One browser's pictures.

    Attributes:
        key: names its folder; nobody can guess it.
        stop: set to cancel what is being drawn.
        ended: set when nothing more comes from the last drawing.
    """

    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    entries: list[HistoryEntry] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event | None = None
    count: int = 0

    @contextmanager
    def drawing(self) -> Iterator[threading.Event]:
        """Yield what is set to cancel a drawing, which goes on until the context is left."""
        self.stop, self.ended = stop, ended = threading.Event(), threading.Event()
        try:
            yield stop
        finally:
            ended.set()

    def cancel(self) -> None:
        """Cancel what is being drawn, and wait until nothing more comes from it."""
        ended = self.ended
        self.stop.set()
        if ended is not None:
            ended.wait(PATIENCE)

    def find(self, number: object) -> HistoryEntry:
        """Return an entry by its number.

        Raises:
            ValueError: this session has none.
        """
        for entry in self.entries:
            if entry.number == number:
                return entry
        raise ValueError(f"there is no picture {number} in this session's history")

    def add(self, entry: HistoryEntry) -> None:
        """List an entry, and forget the oldest one after `HISTORY`."""
        self.entries.append(entry)
        del self.entries[:-HISTORY]


class Sessions:
    """All sessions, by what a browser sends to be known again.

    Args:
        folder: of the pictures, with a folder for each session.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sessions: OrderedDict[str, BrowserSession] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, browser: str | None) -> BrowserSession:
        """Return a browser's session; a new one for each call without a name."""
        with self._lock:
            session = self._sessions.pop(browser, None) if browser else None
            session = session or BrowserSession()
            if browser:
                self._sessions[browser] = session
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
            return session

    def close(self, browser: str | None) -> None:
        """Cancel what a browser that left was drawing, and forget it; its pictures stay in their folder."""
        with self._lock:
            session = self._sessions.pop(browser, None) if browser else None
        if session is not None:
            session.stop.set()

    def save(self, session: BrowserSession, name: str, content: bytes) -> str:
        """Write a picture of a session, and return its path below the folder."""
        make_folder(self.folder / session.key)
        atomic_write(self.folder / session.key / name, content)
        return f"{session.key}/{name}"

    def find_picture(self, path: str) -> Path:
        """Return the file of a picture's path.

        Raises:
            ValueError: there is none.
        """
        if PICTURE.fullmatch(path) is None or not (self.folder / path).is_file():
            raise ValueError(f"there is no picture {path!r}")
        return self.folder / path
