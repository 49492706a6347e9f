"""What the provider tests share: the reference vectors, and a model endpoint on this machine that fails as planned."""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.services import require_service

from llmspell.errors import ModelMissing
from llmspell.providers.models import find_model

GOLDEN = Path(__file__).parent / "golden_minilm.json"
Reply = Callable[[dict[str, Any]], "tuple[int, dict[str, str], bytes]"]


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed model; nothing is downloaded."""
    try:
        return find_model("all-MiniLM-L6-v2", folder=tmp_path_factory.mktemp("none"))
    except ModelMissing as missing:
        require_service("the model all-MiniLM-L6-v2", str(missing))


def vectors_for(texts: list[str], dimension: int = 384) -> np.ndarray[Any, Any]:
    """What the planned endpoint answers: the length of a text decides its vector, which is not normalised."""
    rows = np.ones((len(texts), dimension), dtype="<f4")
    rows[:, 0] = [1 + len(text) for text in texts]
    return rows


def embeddings(body: dict[str, Any], *, order: Callable[[list[Any]], list[Any]] = list, dimension: int = 384) -> bytes:
    """A correct answer to a request, in the encoding that was asked for."""
    rows = vectors_for(body["input"], dimension)
    packed = body.get("encoding_format") == "base64"
    data = [
        {"index": i, "embedding": base64.b64encode(row.tobytes()).decode() if packed else row.tolist()}
        for i, row in enumerate(rows)
    ]
    return json.dumps({"object": "list", "data": order(data)}).encode()


class PlannedEndpoint:
    """Answers each request by the next planned reply, and correctly when none is planned."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        self.base_url = ""

    def plan(self, status: int = 200, body: bytes | None = None, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.replies.append(lambda request: (status, named, embeddings(request) if body is None else body))

    def plan_stall(self) -> None:
        """Answer only when the test is over."""

        def stall(request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
            self.released.wait(30)
            return 200, {}, embeddings(request)

        self.replies.append(stall)

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        return self.replies.popleft()(request) if self.replies else (200, {}, embeddings(request))


@pytest.fixture
def endpoint() -> Iterator[PlannedEndpoint]:
    planned = PlannedEndpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            planned.requests.append(request)
            planned.headers.append(dict(self.headers))
            status, headers, body = planned.answer(request)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # the client's deadline has passed
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    planned.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield planned
    planned.released.set()
    server.shutdown()
    thread.join()
    server.server_close()
