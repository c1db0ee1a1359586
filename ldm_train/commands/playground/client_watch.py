"""Know whether the program that asked for a drawing still waits for it."""

from gradio.context import LocalContext

from ldm_train.assembly.studio import ShouldStop


def watch_client() -> ShouldStop:
    """Return a function that says whether the client of the event that this thread answers has left.

    Gradio marks an event when the connection closes on which its answer is awaited; of an unknown event nobody leaves.
    """
    queue, key = getattr(LocalContext.blocks.get(None), "_queue", None), LocalContext.event_id.get(None)
    event = getattr(queue, "event_ids_to_events", {}).get(key)
    return lambda: not getattr(event, "alive", True)
