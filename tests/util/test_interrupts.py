"""Ctrl-C is reported as Ctrl-C, whatever Lightning makes of it."""

import signal
import sys

import pytest

from ldm_train.util.interrupts import interruptible


def _exit_as_lightning_does() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)


def test_an_exit_that_was_made_of_an_interrupt_is_one_again() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        _exit_as_lightning_does()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_exits_pass() -> None:
    with pytest.raises(SystemExit), interruptible():
        raise SystemExit(3)
