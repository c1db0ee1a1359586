"""Notes and warnings: printed by one handler, and records of `logging` for others."""

import logging
import sys

import pytest

from ldm_train.util.messages import LOGGER, Caution, note_all, print_messages, warn


def test_warnings_are_marked_and_notes_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    print_messages()
    note_all(["starting at 3%", Caution("the disk is nearly full")])
    warn("late")
    assert capsys.readouterr().out == "starting at 3%\nwarning: the disk is nearly full\nwarning: late\n"


def test_they_leave_standard_output_to_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    print_messages(to_stderr=True)
    warn("late")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: late\n")


def test_a_program_gets_them_as_records(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(LOGGER, "handlers", [])
    monkeypatch.setattr(LOGGER, "propagate", True)
    with caplog.at_level(logging.INFO, "ldm_train"):
        note_all(["a", Caution("b")])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", "a"), ("WARNING", "b")]


def test_the_hubs_client_prints_each_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import logging as hub_logging

    print_messages()
    root, client = logging.StreamHandler(sys.stdout), hub_logging.get_logger("huggingface_hub.utils._http")
    own = logging.StreamHandler(sys.stdout)  # like the client's, which holds the standard error of another test
    logging.getLogger().addHandler(root)
    logging.getLogger("huggingface_hub").addHandler(own)
    try:
        client.warning("Retrying in 1s [Retry 1/5].")
    finally:
        logging.getLogger().removeHandler(root)
        logging.getLogger("huggingface_hub").removeHandler(own)
    assert capsys.readouterr().out.count("Retrying") == 1
