"""Secrets in URIs: what of ``http://user:password@host`` and the like may be shown, stored or sent.

Masked are a password, a user that stands alone (it may be a token), and what is called so behind the ``?``.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

MASK = "***"

LONGEST_USER = 20
"""A longer user before a password is a token too, for all anybody can tell."""

SHORTEST_ALONE = 4
"""Shorter secrets are looked for in other people's texts only with their user: `a` stands in every sentence."""

WITHOUT_USER = ("sqlite", "file")
"""Schemes of nothing but a path, in which an @ means nothing."""

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://(?:[^\s@/]*:(?!\d{1,5}(?:[^\w@]|$))[^\n@]{0,200}(?<!\s)@(?=[\w\[]))?\S*")
"""In a text; also with a space in the password."""

QUERY = re.compile(r"\?[\w.\-]+=")
"""Where it begins."""

SECRET_KEY = re.compile(r"([?&;][^=&;\s]*(?:pass|pwd|token|secret|api_?key|access_?key|credential|odbc_connect)"
                        r"[^=&;\s]*=)([^&;#\s]*)", re.IGNORECASE)  # fmt: skip


def masked(uri: str) -> str:
    """The URI as it may be shown. What holds no secret stays as it is, and so does what was masked already."""
    head, user, rest = _split(uri)
    return head + (_masked_user(user) if user else "") + SECRET_KEY.sub(rf"\1{MASK}", rest)


def masked_in(text: str) -> str:
    """A text with every URI in it masked."""
    return URI.sub(lambda found: masked(found[0]), text) if "://" in text else text


def is_masked(uri: str) -> bool:
    """Whether something of the URI was masked, so that nobody can connect by it."""
    _, user, rest = _split(uri)
    return MASK in user.removesuffix("@").split(":") or any(value == MASK for _, value in SECRET_KEY.findall(rest))


def unmasked(uri: str, user: str | None, password: str | None) -> str:
    """The masked URI with these in the places of what was masked; None leaves the mask."""
    head, old, rest = _split(uri)
    name, colon, word = old.removesuffix("@").partition(":")
    if MASK in (name, word):
        if user is not None:
            name = quote(user, safe="")
        if password is not None and name != MASK:
            colon, word = ":", quote(password, safe="")
        old = f"{name}{colon}{word}@"

    def fill(found: re.Match[str]) -> str:
        known = found[2] == MASK and password is not None and "pass" in found[1].lower()
        return found[1] + (quote_plus(password or "") if known else found[2])

    return head + old + SECRET_KEY.sub(fill, rest)


def place(uri: str) -> str:
    """The URI without anybody's name and secrets: two of one place mean the same server or database."""
    head, _, rest = _split(uri)
    return head + SECRET_KEY.sub("", rest)


def scrubbed(text: str, uri: str) -> str:
    """What somebody else says of a URI, such as an error, without the URI's secrets in whatever form."""
    text = text.replace(uri, masked(uri))
    for secret in sorted(set(_secrets(uri)), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return masked_in(text)


def _split(uri: str) -> tuple[str, str, str]:
    """``scheme://``, ``user:password@`` (empty without one), and the rest."""
    scheme, separator, body = uri.partition("://")
    head = scheme + separator
    first = body.find("@")
    if first < 0 or body.startswith("/") or scheme.lower() in WITHOUT_USER or _has_no_user(uri):
        return head, "", body
    # Passwords are often given as they are, with an @, a / or a ? in them: the last @ before a query ends it.
    query = QUERY.search(body, first)
    last = body.rfind("@", 0, query.start() if query else len(body))
    return head, body[: last + 1], body[last + 1 :]


def _has_no_user(uri: str) -> bool:
    """Whether it is a whole web address whose first @ is no part of ``user:password@host``."""
    try:
        parts = urlsplit(uri)
        return parts.scheme in ("http", "https") and "@" not in parts.netloc and parts.port != -1
    except ValueError:
        return False


def _masked_user(user: str) -> str:
    name, _, password = user.removesuffix("@").partition(":")
    if not name and not password:
        return user
    if not password:
        return f"{MASK}@"
    return f"{MASK if len(name) > LONGEST_USER else name}:{MASK}@"


def _secrets(uri: str) -> Iterator[str]:
    """Each secret of the URI, as it stands there, decoded, encoded and as a server is told it."""
    _, user, rest = _split(uri)
    name, _, password = user.removesuffix("@").partition(":")
    alone = [value for _, value in SECRET_KEY.findall(rest)]
    if password != MASK and user:
        yield user
        told = f"{unquote(name)}:{unquote(password)}"
        yield b64encode(told.encode("utf-8", "replace")).decode()
        yield told
        alone.append(password)
    if not password or len(name) > LONGEST_USER:
        alone.append(name)
    for word in alone:
        if word != MASK:
            forms = {word, unquote(word), unquote_plus(word), quote(unquote(word), safe=""), repr(word)[1:-1]}
            yield from (form for form in forms if len(form) >= SHORTEST_ALONE)
