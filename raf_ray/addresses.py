"""Addresses as people give them: a dashboard's URL, a cluster's HOST:PORT. The one place that reads them."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from raf_ray.errors import InputError
from raf_ray.terminal import printable

CONNECT_SECONDS = 5.0


def is_url(text: str) -> bool:
    return text.lower().startswith(("http:", "https:"))


def web_address(text: str, what: str) -> str:
    """A URL of a server such as Ray's dashboard: ``http://HOST:PORT``, without a slash at its end.

    Args:
        what: names it in the error, such as ``--address``.

    Raises InputError where it is none.
    """
    scheme, colon, rest = text.strip().rstrip("/").partition(":")
    url = f"{scheme.lower()}{colon}{rest}"
    try:
        parts = urlsplit(url)
        good = bool(parts.hostname) and (parts.port is None or parts.port > 0) and url.startswith(f"{parts.scheme}://")
        (parts.hostname or "").encode("idna")
    except ValueError:  # brackets, a port that is no number or out of range, a host's name that is none
        good = False
    if not good or any(c.isspace() or not c.isprintable() for c in url):
        raise InputError(f"{what} {printable(text)} is no address of a server; give http://HOST:PORT")
    return url


def host_and_port(text: str, what: str) -> tuple[str, int]:
    """``HOST:PORT`` or ``[IPV6]:PORT``. Raises InputError where it is neither."""
    host, colon, port = text.strip().rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or any(c.isspace() or c in "[]/" for c in bare):
        raise InputError(f"{what} {printable(text)} is not HOST:PORT, auto or local")
    if not 0 < number < 2**16:
        raise InputError(f"{what} {printable(text)}: the port must be a number from 1 to 65535")
    return bare, number


def knock(host: str, port: int) -> None:
    """Raise OSError where nothing listens there."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except UnicodeError as error:  # a name with an empty part, or one of more than 63 characters
        raise OSError(f"{host} is no name of a host") from error
