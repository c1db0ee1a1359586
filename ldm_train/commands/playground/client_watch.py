"""Know which answers are waited for: a drawing ends when nobody waits for it, and is forgotten when it was answered."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from urllib.parse import parse_qs

from gradio import Blocks
from gradio.context import LocalContext

from ldm_train.assembly.studio import ShouldStop
from ldm_train.commands.playground.exchange import App, Message, Receive, Send
from ldm_train.commands.playground.sessions import MOST_SESSIONS

UNAWAITED = 60.0  # seconds of a drawing whose answer nobody asks for
CALL, STREAM = "/gradio_api/call/draw/", "/gradio_api/queue/data"  # by which programs wait for answers


class AnswerWatch:
    """An ASGI application that notes for whose answers programs wait, and lets all requests through to another one.

    Args:
        awaited: counts of the requests that wait, by the names of events and sessions.
        forget: called with the name of an event when the request for its answer is over.
    """

    def __init__(self, app: App, awaited: Counter[str], forget: Callable[[str], None]) -> None:
        self.app, self.awaited, self.forget = app, awaited, forget

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        key = path.removeprefix(CALL) if path.startswith(CALL) else read_session(scope) if path == STREAM else None
        if not key:
            await self.app(scope, receive, send)
            return
        self.awaited[key] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.awaited -= Counter([key])
            if path != STREAM:
                self.forget(key)


def read_session(scope: Message) -> str | None:
    """Return the session that a request waits for news of."""
    query = scope.get("query_string", b"")
    assert isinstance(query, bytes)
    return parse_qs(query.decode("latin-1")).get("session_hash", [None])[0]


def watch_client(awaited: Counter[str], session: str | None) -> ShouldStop:
    """Return a function that says whether the client of the event that this thread answers has left.

    A client has left if it waited and waits no more, by what is counted here or by gradio's mark on the event, or if it did
    not come for `UNAWAITED` seconds of drawing. Of an unknown event nobody leaves.
    """
    queue, key = getattr(LocalContext.blocks.get(None), "_queue", None), LocalContext.event_id.get(None)
    event, start = getattr(queue, "event_ids_to_events", {}).get(key), time.monotonic()

    came = False

    def has_left() -> bool:
        nonlocal came
        waits = bool(awaited[str(key)] or awaited[str(session)])
        came = came or waits
        patient = came or time.monotonic() - start <= UNAWAITED
        return event is not None and (not event.alive or (came and not waits) or not patient)

    return has_left


def forget_event(page: Blocks, event: str) -> None:
    """Remove what gradio keeps of a program's event that was answered: it keeps thousands, with a copy of the page each."""
    for kept in (page._queue.pending_messages_per_session, page._queue.pending_event_ids_session):
        kept.pop(event, None)
    for states in (page.state_holder.session_data, page.state_holder.time_last_used):
        states.pop(event, None)


def limit_memory(page: Blocks) -> None:
    """Let gradio keep no more sessions than the playground, and no statistics, which it computes anew after each event."""
    page.state_session_capacity = MOST_SESSIONS
    page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize
