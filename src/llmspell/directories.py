"""Where llmspell keeps things on this machine, for this user. Nothing is created here.

Not here: which of these places the settings choose (`settings`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Directories(msgspec.Struct, frozen=True):
    """Where llmspell keeps things for this user (XDG base directories; the platform's own folders on Windows)."""

    config: Path
    data: Path
    state: Path
    cache: Path
    """May be deleted at any time."""
    runtime: Path


def directories(environ: Mapping[str, str] | None = None) -> Directories:
    """Return the user's directories; nothing is created. A relative `XDG_…` variable is ignored, as XDG says."""
    environ = os.environ if environ is None else environ
    home = Path(environ.get("HOME") or Path.home())

    def choose(variable: str, windows_variable: str, fallback: Path) -> Path:
        for name in (variable, windows_variable if os.name == "nt" else ""):
            if name and environ.get(name) and Path(environ[name]).is_absolute():
                return Path(environ[name]) / "llmspell"
        return fallback / "llmspell"

    owner = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return Directories(
        config=choose("XDG_CONFIG_HOME", "APPDATA", home / ".config"),
        data=choose("XDG_DATA_HOME", "LOCALAPPDATA", home / ".local" / "share"),
        state=choose("XDG_STATE_HOME", "LOCALAPPDATA", home / ".local" / "state"),
        cache=choose("XDG_CACHE_HOME", "LOCALAPPDATA", home / ".cache"),
        runtime=choose("XDG_RUNTIME_DIR", "", Path(tempfile.gettempdir()) / f"user-{owner}"),
    )
