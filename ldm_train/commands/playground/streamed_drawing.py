"""Draw in a thread, and yield previews until the picture is finished."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from ldm_train.assembly.studio import OnStep, ShouldStop

PATIENCE = 1.0  # seconds for the step that goes on when the reader stops
Result = TypeVar("Result")


@dataclass(frozen=True)
class Preview:
    """What the network expects after a step: uint8 (3, H, W); steps count from 1."""

    step: int
    steps: int
    image: Tensor


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """What a drawing returned, or what it raised."""

    result: Result | None
    error: Exception | None = None


def stream_drawing(
    draw: Callable[[OnStep, ShouldStop], Result], stop: threading.Event
) -> Iterator[Preview | Finished[Result]]:
    """Yield the previews of a drawing, and its end last. If the reader stops early, so does the drawing.

    Args:
        draw: called in a thread.
        stop: set to cancel it.
    """
    waiting: queue.SimpleQueue[Preview | Finished[Result]] = queue.SimpleQueue()

    def work() -> None:
        try:
            waiting.put(Finished(draw(lambda *step: waiting.put(Preview(*step)), stop.is_set)))
        except Exception as error:
            waiting.put(Finished(None, error))

    thread = threading.Thread(target=work, name="drawing", daemon=True)
    thread.start()
    over = False
    try:
        while True:
            found = waiting.get()
            while isinstance(found, Preview) and not waiting.empty():
                found = waiting.get()  # a browser that reads slowly sees the newest
            over = isinstance(found, Finished)
            yield found
            if over:
                return
    finally:
        if not over:
            stop.set()
        thread.join(PATIENCE)
