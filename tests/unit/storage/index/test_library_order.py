"""Libraries that cannot stand each other in every order."""

from __future__ import annotations

import subprocess
import sys

import pytest

GRAPH_FIRST = """
import numpy as np
from llmspell.storage.index.graph import Graph
rows = np.eye(16, dtype=np.float16)
graph = Graph.build(rows, m=8, ef_construction=40)
import onnxruntime
assert onnxruntime.get_available_providers()
print(graph.search(rows[3].astype(np.float32), 1)[0])
"""


def test_texts_can_be_embedded_after_vectors_were_searched() -> None:
    """usearch or numkong before onnxruntime may end the process."""
    pytest.importorskip("onnxruntime")

    run = subprocess.run([sys.executable, "-c", GRAPH_FIRST], capture_output=True, text=True, timeout=120, check=False)

    assert (run.returncode, run.stdout.strip()) == (0, "3"), run.stderr
