"""A process that backs up and restores a file, or a server, and is killed before its n-th step.

    python backup_taker.py          then one line of JSON on stdin for each life: {"at": n, "action": …, "settings": …}

The imports are made once; each life is a fork. A step is a call of anything that changes a file or another process, and each
page or piece that passes. With `at` 0 nobody is killed, and the line on stdout says how many steps there were.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import msgspec

from llmspell.ops.backup import Backups, programs
from llmspell.settings import Settings, _decode
from llmspell.storage.sqlite import snapshot

passed = 0


def counting(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        step(at)
        result = function(*arguments, **named)
        step(at)
        return result

    return call


def step(at: int) -> None:
    global passed
    passed += 1
    if passed == at:
        os.kill(os.getpid(), signal.SIGKILL)


def live(order: dict[str, Any]) -> None:
    at = order["at"]
    snapshot.STEP_PAGES = 16  # so that a small file takes many steps
    for module, name in (
        (os, "write"), (os, "fsync"), (os, "link"), (os, "mkdir"), (os, "open"), (os, "close"), (shutil, "rmtree"),
        (Path, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "mkdir"),
        (subprocess, "Popen"), (programs.Running, "feed"), (programs.Running, "finish"), (programs.Running, "end_of_input"),
    ):  # fmt: skip
        setattr(module, name, counting(getattr(module, name), at))
    settings = msgspec.convert(order["settings"], Settings, dec_hook=_decode)
    backups = Backups(settings, going_on=lambda: step(at), progress=lambda *_: step(at))
    if order["action"] == "create":
        backups.create(verify=order["verify"])
    else:
        backups.restore(order["id"], into=order.get("into"), backup_current=False)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            live(json.loads(line))
            print(f"passed {passed}", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(f"dead {os.waitstatus_to_exitcode(status)}", flush=True)
