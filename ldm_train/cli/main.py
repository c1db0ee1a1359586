"""`ldm-train VERB [overrides]`: the command's entry, which answers Ctrl-C and a closed pipe whatever was being done.

Only the standard library is imported before the block that answers them.
"""

import os
import select
import signal
import sys
from typing import TextIO

VERBS = {
    "fit": "from a folder to pictures, in the minutes that there are: all that follows, with settings that are chosen",
    "check": "read everything that encoding will read, and list what cannot be used",
    "encode": "encode captioned pictures into a latent cache",
    "train": "train a noise predictor on latent caches, or on pictures that are encoded on the fly",
    "sample": "draw pictures for prompts with a trained run",
    "evaluate": "measure a trained run on what it never saw",
    "export": "write a run's trained weights as a file, or as diffusers', the web UIs' or a LoRA's folder",
    "report": "write one page about runs: curves, pictures, metrics, settings, what went wrong",
    "runs": "list the runs below a folder: state, speed, best metrics, what differs",
    "explain": "write one page that shows on a picture what a run does: noise, what the network predicts, drawing",
    "tokens": "split a text into the tokens that a text encoder reads, with their numbers and nearest neighbours",
    "playground": "serve a page in the browser on which to draw with trained runs",
    "train_autoencoder": "train a KL autoencoder on pictures",
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; exits with 0, 1 (refused or failed, with a message), 2 (not understood) or 130 (Ctrl-C)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            from ldm_train.util.interrupts import ending_at_once

            with ending_at_once():
                from ldm_train.cli.quick_answers import answer_at_once

                answer_at_once(words, VERBS)
                from ldm_train.cli.run_command import run_command

            run_command(words, VERBS)
        finally:
            sys.stdout.flush()  # here, since Python's own flush at the end reports a closed pipe
    except BrokenPipeError:
        if not (closed := [stream for stream in (sys.stdout, sys.stderr) if has_no_reader(stream)]):
            raise
        for stream in closed:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except KeyboardInterrupt:
        print("ldm-train: interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def has_no_reader(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose other end was closed, as `head` does after ten lines."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or a system without poll
        return False
