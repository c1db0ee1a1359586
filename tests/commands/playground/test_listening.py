"""Where the page listens, and what others must know."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ldm_train.commands.playground.command import describe
from ldm_train.commands.playground.listening import Address, choose_token, is_loopback, open_socket
from ldm_train.settings.composition import compose_as
from ldm_train.settings.schema.using import PlaygroundSettings


def read_settings(*words: str) -> PlaygroundSettings:
    return compose_as(PlaygroundSettings, ["run_dir=x", *words])


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_other_machines_need_a_token(host: str, own: bool) -> None:
    settings = read_settings(f"host='{host}'")
    token = choose_token(settings)
    assert is_loopback(host) is own
    assert (token is None) is own
    assert token is None or (len(token) >= 24 and token != choose_token(settings))


@pytest.mark.parametrize("token", ["short", "a token with spaces in it", "a;token;that;is;a;cookie"])
def test_a_token_that_is_easy_or_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="16"):
        choose_token(read_settings(f"token='{token}'"))


def test_a_token_may_be_given_on_this_machine_too() -> None:
    assert choose_token(read_settings("token=abcdefghijklmnop")) == "abcdefghijklmnop"
    assert Address("127.0.0.1", 80, "abcdefghijklmnop").link == "http://127.0.0.1:80/?token=abcdefghijklmnop"
    assert Address("::1", 80, None).link == "http://[::1]:80/"


def test_an_address_that_stands_for_all_comes_with_one_that_others_can_open() -> None:
    token = "abcdefghijklmnop"
    for host in ("0.0.0.0", "::"):
        assert Address(host, 7860, token).other_link == f"http://{socket.gethostname()}:7860/?token={token}"
        assert socket.gethostname() in describe(Address(host, 7860, token), read_settings())
    assert Address("192.0.2.1", 7860, token).other_link is None


def test_a_port_that_is_taken_is_reported_with_the_next_free_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"port={port} ") as error:
            open_socket("127.0.0.1", port)
        free = int(str(error.value).rpartition("port=")[2])
        assert free > port or free == 0
    open_socket("127.0.0.1", port).close()


def test_an_address_of_another_machine_is_reported() -> None:
    with pytest.raises(ValueError, match=r"host=192\.0\.2\.1"):
        open_socket("192.0.2.1", 0)


def test_without_gradio_the_command_says_what_to_install(ldm_train: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm_train.commands.playground.command.importlib.util.find_spec", lambda name: None)
    answer = ldm_train("playground", "run_dir=x")
    assert answer.code == 1
    assert "pip install 'ldm-train[playground]'" in answer.err


def test_a_folder_of_something_else_is_left_alone(
    ldm_train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ldm_train.commands.playground.command.importlib.util.find_spec", lambda name: True)
    (tmp_path / "mine.txt").write_text("keep")
    answer = ldm_train("playground", "run_dir=x", f"out={tmp_path}")
    assert answer.code == 1
    assert "mine.txt" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
