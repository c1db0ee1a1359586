"""Where the page is served: an address that is checked, a port that is free, and the token that others must know."""

import errno
import ipaddress
import secrets
import socket
from dataclasses import dataclass, replace

from ldm_train.settings.schema.using import PlaygroundSettings

SHORTEST = 16  # letters of a token
SEARCHED = 100  # ports after one that is taken


@dataclass(frozen=True)
class Address:
    """Where the page is.

    Args:
        token: what a browser must know; None if nobody else can reach the page.
    """

    host: str
    port: int
    token: str | None

    @property
    def url(self) -> str:
        """The page's address without the token."""
        return f"http://{bracket_host(self.host)}:{self.port}/"

    @property
    def link(self) -> str:
        """What to open in a browser."""
        return self.url if self.token is None else f"{self.url}?token={self.token}"

    @property
    def other_link(self) -> str | None:
        """What to open on another machine, if it is another link: an address that stands for all cannot be opened there."""
        if self.host not in ("0.0.0.0", "::"):
            return None
        return replace(self, host=socket.gethostname()).link

    @property
    def hosts(self) -> frozenset[str] | None:
        """The values of the header Host that are accepted; None for any, where the token protects the page."""
        if not is_loopback(self.host):
            return None
        names = {bracket_host(self.host), "localhost", "127.0.0.1", "[::1]"}
        ports = [f":{self.port}"] + [""] * (self.port == 80)  # which browsers leave out
        return frozenset(f"{name}{port}" for name in names for port in ports)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bracket_host(host: str) -> str:
    """Return an address as URLs write it."""
    return f"[{host}]" if ":" in host else host


def choose_token(settings: PlaygroundSettings) -> str | None:
    """Return the token that the settings give, or a new one if others can reach the page.

    Raises:
        ValueError: it is too short, or cannot stand in an address.
    """
    token = settings.token
    if token is None:
        return None if is_loopback(settings.host) else secrets.token_urlsafe(24)
    if len(token) < SHORTEST or not all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in token):
        raise ValueError(
            f"token=… must have at least {SHORTEST} letters, digits, - and _, and has {len(token)} characters; leave it out "
            "and a random one is made"
        )
    return token


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        ValueError: the port is taken, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port={port} is taken by another program; set port={find_free(host, port, family)}") from error
        raise ValueError(f"host={host} port={port} cannot be listened on: {error.strerror or error}") from error


def find_free(host: str, port: int, family: socket.AddressFamily) -> int:
    """Return the next free port after one; 0, for any, if there is none nearby."""
    for other in range(port + 1, min(port + SEARCHED, 65536)):
        try:
            with socket.create_server((host, other), family=family):
                return other
        except OSError:
            continue
    return 0
