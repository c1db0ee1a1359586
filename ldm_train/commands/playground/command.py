"""`ldm-train playground`: serve a page in the browser on which to draw with trained runs."""

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldm_train.commands.playground.listening import Address, choose_token, open_socket
from ldm_train.settings.schema.using import PlaygroundSettings
from ldm_train.util.files import atomic_write, make_folder
from ldm_train.util.interrupts import ended_by_signals
from ldm_train.util.locks import hold_lock
from ldm_train.util.messages import note
from ldm_train.util.ownership import LOCK, PLAYGROUND, check_folder
from ldm_train.util.text import list_names

TEMPORARY = "temporary"  # below out: what gradio would write elsewhere
PATIENCE = 0.5  # seconds for the step of a drawing that goes on at the end
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def run(settings: PlaygroundSettings) -> None:
    """Serve the page until the process is interrupted.

    Raises:
        ValueError: gradio is missing, the port is taken, a run cannot be opened, or `out` is not a playground's folder.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the playground needs the package gradio: pip install 'ldm-train[playground]'")
    token, playground, code = choose_token(settings), None, 128 + signal.SIGINT
    try:
        with (
            ended_by_signals(signal.SIGTERM, signal.SIGHUP),
            open_folder(settings.out) as folder,
            open_socket(settings.host, settings.port) as listener,
        ):
            os.environ |= QUIET | {"GRADIO_TEMP_DIR": str(folder / TEMPORARY)}  # read when gradio is imported
            runs = [settings.run_dir] if isinstance(settings.run_dir, str) else settings.run_dir
            note(f"loading {list_names(runs, 20)} …")
            from ldm_train.commands.playground.playground import Playground
            from ldm_train.commands.playground.web_app import build_app, build_server

            try:
                playground = Playground(settings, folder)
                address = Address(settings.host, listener.getsockname()[1], token)
                server = build_server(build_app(playground, address), playground)
                print(describe(address, settings), flush=True)
                server.run(sockets=[listener])
            finally:
                if playground is not None:
                    playground.close()
                shutil.rmtree(folder / TEMPORARY, ignore_errors=True)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else code
        raise
    finally:
        if playground is not None and not playground.is_idle(PATIENCE):
            end_process(code)


def end_process(code: int) -> None:
    """End the process at once: no thread can be stopped within a step, and Python would wait for it."""
    os.write(2, b"ldm-train: interrupted\n")
    os._exit(code)


def describe(address: Address, settings: PlaygroundSettings) -> str:
    """Return what to open, and who can."""
    kept = "a temporary folder, removed at the end; set out=DIR to keep them" if settings.out is None else settings.out
    who = (
        "only this machine reaches it"
        if address.hosts
        else "any machine that reaches this one, and knows the token, can use it"
    )
    other = f"\non another machine, open {address.other_link}, or this machine's address instead of its name" * (
        address.other_link is not None
    )
    return f"the playground is at {address.link} ({who}); Ctrl-C ends it{other}\npictures and uploads go to {kept}"


@contextmanager
def open_folder(out: str | None) -> Iterator[Path]:
    """Give the folder that all is written to: one with a playground's mark, or a temporary one.

    Raises:
        ValueError: it is something else, or another playground's.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ldm-train-playground-", ignore_cleanup_errors=True) as name:
            yield Path(name)
        return
    folder = Path(out)
    check_folder(folder, PLAYGROUND, setting="out")
    make_folder(folder)
    busy = f"out={folder} belongs to a playground that is still going; end that one, or choose another out"
    with hold_lock(folder / LOCK, busy=busy, remove=True):
        atomic_write(folder / PLAYGROUND.mark, '{"playground": 1}\n')
        yield folder
