"""Two tenants on a server that demands signatures: A, whom an attacker has, and B, whose rows bear a mark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import psycopg
from tests.fixtures.postgres import TENANT_KEY

from llmspell.storage.postgres.tenant_key import read_tenant_key

if TYPE_CHECKING:
    from tests.fixtures.postgres import PostgresDatabase

Connection = psycopg.Connection[tuple[Any, ...]]

KEY = read_tenant_key(TENANT_KEY)
MARKER = "marker-of-b"
REFUSED = "LS311"
FAR = 2_000_000_000  # a second in 2033
BIND = "SELECT set_config('app.current_tenant_id', %s, true), set_config('app.tenant_signature', %s, true)"
FILL = """
INSERT INTO llmspell.kv_store (tenant_id, key, kv_id, value, created_at, updated_at)
VALUES (%(tenant)s, %(marker)s, gen_random_uuid(), convert_to(%(marker)s, 'UTF8'), now(), now());
INSERT INTO llmspell.memories (tenant_id, memory_id, content, event_at) VALUES (%(tenant)s, gen_random_uuid(), %(marker)s, now());
INSERT INTO llmspell.event_log (tenant_id, event_id, event_type, correlation_id, timestamp, sequence, payload)
VALUES (%(tenant)s, gen_random_uuid(), %(marker)s, gen_random_uuid(), now(), 1, '{}')
"""


class Pair(NamedTuple):
    """Two tenants of one database, each with a row in three tables."""

    database: PostgresDatabase
    a: str
    b: str

    @contextmanager
    def as_a(self) -> Iterator[Connection]:
        """A transaction of the serving role in which A is bound and signed; it is rolled back."""
        with psycopg.connect(self.database.app_url) as connection:
            connection.execute(BIND, (self.a, signature(self.a)))
            yield connection
            connection.rollback()


def signature(tenant: str, *, until: int = FAR) -> str:
    return KEY.sign(tenant.encode(), until=until).decode()


def fill(database: PostgresDatabase) -> Pair:
    pair = Pair(database, f"a-{uuid4()}", f"b-{uuid4()}")
    with psycopg.ClientCursor(psycopg.connect(database.superuser_url)) as superuser:
        for tenant, marker in ((pair.a, "marker-of-a"), (pair.b, MARKER)):
            superuser.execute(FILL, {"tenant": tenant, "marker": marker})
        superuser.connection.commit()
        superuser.connection.close()
    return pair


def rows_of(database: PostgresDatabase, tenant: str) -> list[tuple[Any, ...]]:
    """What really is there, seen by a superuser."""
    with psycopg.connect(database.superuser_url) as superuser:
        query = "SELECT key, convert_from(value, 'UTF8') FROM llmspell.kv_store WHERE tenant_id = %s ORDER BY key"
        return superuser.execute(query, (tenant,)).fetchall()


def attack(pair: Pair, statements: Sequence[str], *, commit: bool = False) -> tuple[str, str | None]:
    """Run an attack. Return everything that it brought to light, errors included, and the SQLSTATE it ended with."""
    loot: list[str] = []
    with pair.as_a() as connection, connection.cursor() as cursor:
        connection.add_notice_handler(lambda notice: loot.append(str(notice.message_primary)))
        try:
            for statement in statements:
                text = statement.replace("{B}", pair.b)
                if text.startswith("COPY"):
                    with cursor.copy(text.encode()) as copy:
                        loot += [bytes(block).decode() for block in copy]
                    continue
                cursor.execute(text.encode())
                if cursor.description is not None:
                    # set_config answers with what it was given: only what tables answered counts.
                    loot += [str(value) for row in cursor.fetchall() for value in row if value != pair.b]
        except psycopg.Error as error:
            diag = error.diag
            loot += [str(part) for part in (diag.message_primary, diag.message_detail, diag.message_hint, diag.context)]
            return "\n".join(loot), error.sqlstate
        if commit:
            connection.commit()
    return "\n".join(loot), None
