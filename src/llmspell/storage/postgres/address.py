"""Where a store is: its URL, read once, and shown only without secrets."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from llmspell.errors import InvalidUrl

CONNECT_TIMEOUT_S = 10
_KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
"""A peer that vanished without a word is noticed within a minute: also one that owes a receipt for what was sent, where no
keepalive is sent (milliseconds; systems that do not have it ignore it)."""
_SCHEME = re.compile(r"^postgres(?:ql)?://")


class Target(msgspec.Struct, frozen=True):
    """Where to connect. `shown` names it without secrets."""

    parameters: dict[str, Any]
    shown: str

    def __repr__(self) -> str:
        return f"Target({self.shown!r})"


def on_database(url: str, database: str) -> str:
    """Return the same URL for another database of the server.

    Raises:
        InvalidUrl: it cannot be read.
    """
    read_url(url)
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "dbname"]
    return urlunsplit(parts._replace(path=f"/{quote(database, safe='')}", query=urlencode(query, quote_via=quote)))


def read_url(url: str, *, connect_timeout_s: int = CONNECT_TIMEOUT_S) -> Target:
    """Read a `postgresql://` URL; its own parameters, such as `connect_timeout`, win over ours.

    Raises:
        InvalidUrl: it cannot be read. The URL itself is not repeated, for a password may be in it.
    """
    if not _SCHEME.match(url):
        raise InvalidUrl("The URL of a PostgreSQL store starts with postgresql://.")
    try:
        given = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        raise InvalidUrl(
            "The URL of the PostgreSQL store cannot be read.",
            hint="Use postgresql://role:password@host:5432/database, with special characters percent-encoded.",
        ) from None
    ours = {"connect_timeout": connect_timeout_s, "application_name": "llmspell", **_KEEPALIVE}
    role, host, port = given.get("user"), given.get("host") or given.get("hostaddr"), given.get("port")
    shown = f"{role or 'the default role'}@{host or 'local socket'}:{port or 5432}/{given.get('dbname') or role or ''}"
    return Target({**ours, **given, "client_encoding": "UTF8"}, shown)
