"""An artifact of 100 MiB is put, read and deleted in at most 64 MiB of memory above what the process has anyway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fixtures.stores import DATABASES, url_of

EXTRA_MAX_KIB = 64 * 1024
LIMIT_S = 240
# The peak of a process only grows: what it has after a small artifact has gone the same way is what it has anyway.
PROGRAM = """
import asyncio, hashlib, os, sys
import llmspell

URL, TENANT, KIND, WAY = sys.argv[1:]
MEBIBYTE = 1_048_576

class Noise:
    # A file that nobody has to keep: its bytes cannot be compressed, or only a little.
    def __init__(self, mebibytes):
        self.left = mebibytes * MEBIBYTE
        self.hash = hashlib.sha256()
    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        piece = os.urandom(size) if KIND == "noise" else os.urandom(size // 2) + bytes(size - size // 2)
        self.hash.update(piece)
        return piece

class Sink:
    def __init__(self):
        self.hash = hashlib.sha256()
    def write(self, piece):
        self.hash.update(piece)
        return len(piece)

async def pieces(file):
    while piece := file.read(100_000):
        yield piece

async def go(tenant, session, mebibytes):
    for source in (lambda file: file, pieces):
        file, sink = Noise(mebibytes), Sink()
        put = await tenant.artifacts.put(session, "n", source(file))
        assert put.size_bytes == mebibytes * MEBIBYTE
        assert await tenant.artifacts.download(put.id, into=sink) == put.size_bytes
        assert sink.hash.digest() == file.hash.digest()
        assert await tenant.artifacts.verify(put.id)
        if WAY == "whole":
            assert len(await tenant.artifacts.read(put.id)) == put.size_bytes
        assert await tenant.artifacts.delete(put.id)

def peak():
    # Not ru_maxrss: that of the process before exec is kept, and tests are large.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

async def main():
    async with llmspell.connect(URL, settings=llmspell.Settings(), embedder="hashing") as spell:
        await spell.tenants.create(TENANT)
        tenant = spell.tenant(TENANT)
        session = (await tenant.sessions.create()).id
        await go(tenant, session, 2)
        before = peak()
        await go(tenant, session, 100)
        print(peak() - before)
        assert (await tenant.artifacts.stats()).contents == 0

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["noise", "half noise"])
@pytest.mark.parametrize("backend", DATABASES)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_a_large_artifact_needs_little_memory(
    backend: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    assert extra_kib(url_of(backend, request, tmp_path), kind, "pieces") <= EXTRA_MAX_KIB


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_the_measure_sees_a_content_that_is_read_whole(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    assert extra_kib(url_of("sqlite", request, tmp_path), "noise", "whole") >= 100 * 1024


def extra_kib(url: str, kind: str, way: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, url, f"memory-{kind}", kind, way],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
