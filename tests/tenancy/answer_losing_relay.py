"""Stands for a server's socket, passes everything on, and on request loses the server's answers: a commit that nobody hears of."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict
from tests.fixtures.pgbouncer import PORT, folder_for_sockets

from llmspell.ops.postgres_installation import server_account

CHUNK_BYTES = 65_536


class Relay:
    """Between a pooler and its server."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._server = conninfo_to_dict(url)
        self._writers: list[asyncio.StreamWriter] = []
        self.losing = False
        """Whether answers of the server are swallowed."""
        self.lost_bytes = 0

    def cut(self) -> None:
        """Close every connection."""
        while self._writers:
            self._writers.pop().close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection, both ways, until one side closes it."""
        host, port = str(self._server.get("host") or ""), int(self._server.get("port") or 5432)
        if host.startswith("/"):
            answers, questions = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            answers, questions = await asyncio.open_connection(host, port)
        self._writers += [writer, questions]
        await asyncio.gather(self._pass(reader, questions, False), self._pass(answers, writer, True))

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await source.read(CHUNK_BYTES):
                if answers and self.losing:
                    self.lost_bytes += len(data)
                    continue
                target.write(data)
                await target.drain()
        except ConnectionError:
            pass
        finally:
            target.close()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    """Listen, in a new folder, for what shall reach the server of `url`."""
    account = server_account()
    folder = folder_for_sockets(account)
    relay = Relay(folder, url)
    try:
        listening = await asyncio.start_unix_server(relay.serve, folder / f".s.PGSQL.{PORT}")
        if account.dropped:
            for path in (folder / f".s.PGSQL.{PORT}", folder):
                os.chown(path, account.uid, account.gid)
        try:
            yield relay
        finally:
            listening.close()
            relay.cut()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
