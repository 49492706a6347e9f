from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Shell
from tests.fixtures.living_store import live_in
from tests.fixtures.postgres import PostgresDatabase

from llmspell.cli.table_progress import TableProgress
from llmspell.settings import Settings
from llmspell.storage.contracts.transfer_tables import TYPES

PROCESS_LIMIT_S = 60
RECORDS = 128
"""What `living_store` makes for its two tenants."""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lived") / "store.db"
    asyncio.run(live_in(f"sqlite:///{path}", settings=Settings()))
    return path


@pytest.fixture
def full(shell: Shell, lived: Path) -> Shell:
    """A store that was lived in."""
    shutil.copy(lived, shell.file)
    return shell


def data_of(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))["data"]


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name or path.suffix == ".json")


def test_a_file_a_server_and_a_file_again_hold_the_same(full: Shell, postgres_empty_database: PostgresDatabase) -> None:
    server = postgres_empty_database
    full.environment.setenv("DATABASE_URL", server.app_url)
    full.environment.setenv("DATABASE_ADMIN_URL", server.admin_url)
    full.environment.setenv("DATABASE_OPERATOR_URL", server.operator_url)
    back = f"sqlite:///{full.folder / 'back.db'}"
    first, second, third = (str(full.folder / f"{number}.json") for number in (1, 2, 3))

    done = [
        full("database", "migrate", "--store", server.app_url),
        full("storage", "export", "--backend", "sqlite", "--all-tenants", "--output", first),
        full("storage", "import", "--backend", "postgres", "--input", first),
        full("storage", "export", "--backend", "postgresql", "--all-tenants", "--output", second),
        full("storage", "import", "--store", back, "--input", second),
        full("storage", "export", "--store", back, "--all-tenants", "--output", third),
        full("storage", "verify", "--all-tenants", full.url, server.app_url),
        full("storage", "verify", "--all-tenants", third, back),
    ]

    assert [one.code for one in done] == [0] * len(done), [one.err for one in done]
    assert data_of(Path(first)) == data_of(Path(second)) == data_of(Path(third))
    assert done[-1].out == done[-2].out == ""
    assert json.loads(Path(second).read_text("utf-8"))["source_backend"] == "postgresql"


def test_a_store_moves_into_a_server_without_a_file(full: Shell, postgres_database: PostgresDatabase) -> None:
    url, operator = postgres_database.app_url, postgres_database.operator_url

    moved = full("storage", "transfer", "--all-tenants", full.url, url, "--to-operator", operator, "--json")
    same = full("storage", "verify", "--all-tenants", full.url, url, "--second-operator", operator)

    assert (moved.code, moved.document["records"], same.code, same.out) == (0, RECORDS, 0, "")


def test_all_tenants_of_a_server_need_its_operator(full: Shell, postgres_database: PostgresDatabase) -> None:
    done = full("storage", "transfer", "--all-tenants", full.url, postgres_database.app_url)

    assert done.code == 2
    assert "operator" in done.err


def test_one_tenant_moves_as_the_role_that_serves(full: Shell, postgres_database: PostgresDatabase) -> None:
    url = postgres_database.app_url
    assert full("storage", "export", "--tenant", "acme", "--output", "acme.json").code == 0

    assert full("storage", "import", "--store", url, "--input", "acme.json").code == 0
    assert full("storage", "verify", "--tenant", "acme", "acme.json", url).code == 0


def test_the_summary_counts_by_type_and_names_what_stays(full: Shell) -> None:
    done = full("storage", "export", "--all-tenants", "--output", "all.json")

    assert done.lines[0] == "sessions\t12"
    assert "vectors (3072 dimensions)\t6" in done.lines
    assert done.lines[-1] == f"✓ exported\t{RECORDS}"
    assert "✓ knowledge_graph.entities 6/6" in done.err
    assert "api_keys" in done.err
    assert oct((full.folder / "all.json").stat().st_mode)[-3:] == "600"


def test_a_document_has_every_count(full: Shell) -> None:
    document = full("storage", "export", "--all-tenants", "--output", "all.json", "--json").document

    assert document["records"] == document["statistics"]["total"] == RECORDS
    assert document["statistics"]["vectors (384 dimensions)"] == 10
    assert document["tables"]["event_log"]["read"] == 6
    assert document["tenants"] is None
    assert "api_keys" in document["excluded"]
    assert set(TYPES) <= set(data_of(full.folder / "all.json"))


def test_the_tenant_of_the_command_line_is_exported_and_others_are_mentioned(full: Shell) -> None:
    done = full("storage", "export", "--output", "mine.json")

    assert {row["tenant_id"] for row in data_of(full.folder / "mine.json")["sessions"]} == {"default"}
    assert "1 other tenant of this store is not in the export" in done.err
    assert full("storage", "export", "--tenant", "acme", "--all-tenants", "--output", "x").code == 2


def test_stdout_has_the_export_and_nothing_else(full: Shell) -> None:
    plain = full("storage", "export", "--all-tenants", "--output", "-")
    told = full("storage", "export", "--all-tenants", "--output", "-", "--json")

    assert json.loads(plain.out)["summary"]["total"] == RECORDS
    assert f"✓ exported  {RECORDS}" in plain.err
    assert json.loads(told.out)["data"] == json.loads(plain.out)["data"]
    assert json.loads(told.err)["records"] == RECORDS


@pytest.mark.parametrize("packed", ["gz", "zst", "none"])
def test_what_was_packed_comes_in_again(full: Shell, packed: str) -> None:
    assert full("storage", "export", "--all-tenants", "--output", "file", "--compress", packed).code == 0
    back = f"sqlite:///{full.folder / 'back.db'}"

    assert full("storage", "import", "--store", back, "--input", "file").code == 0
    assert full("storage", "verify", "--all-tenants", "file", back).code == 0


def test_a_stream_is_imported(full: Shell) -> None:
    text = full("storage", "export", "--all-tenants", "--output", "-").out
    back = f"sqlite:///{full.folder / 'back.db'}"

    assert full("storage", "import", "--store", back, "--input", "-", stdin=text).code == 0
    assert full("storage", "verify", "--all-tenants", full.url, back).code == 0


def test_a_trial_makes_no_file_and_changes_none(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")
    missing = full.folder / "missing.db"

    into = full("storage", "import", "--store", f"sqlite:///{missing}", "--input", "all.json", "--dry-run", "--json")
    over = full("storage", "transfer", "--all-tenants", full.url, f"sqlite:///{missing}", "--dry-run", "--json")
    again = full("storage", "import", "--input", "all.json", "--dry-run", "--on-conflict", "replace")

    assert [into.document[name] for name in ("records", "dry_run")] == [RECORDS, True]
    assert (over.document["records"], again.code) == (RECORDS, 0)
    assert not missing.exists()
    assert full("storage", "verify", "--all-tenants", "all.json", full.url).code == 0


def test_what_is_there_already_is_refused_kept_or_replaced(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")

    refused = full("storage", "import", "--input", "all.json")
    kept = full("storage", "import", "--input", "all.json", "--on-conflict", "skip")
    replaced = full("storage", "import", "--input", "all.json", "--on-conflict", "replace", "--json")

    assert (refused.code, kept.code, replaced.code) == (5, 0, 0)
    assert "record=1" in refused.err
    assert kept.lines[-2:] == [f"of those, kept as they are in the target\t{RECORDS}", "✓ imported\t0"]
    assert replaced.document["replaced"] > 0
    assert full("storage", "verify", "--all-tenants", "all.json", full.url).code == 0


def test_a_broken_file_names_its_place_and_changes_nothing(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")
    whole = (full.folder / "all.json").read_bytes()
    (full.folder / "cut.json").write_bytes(whole[: len(whole) // 2])
    back = f"sqlite:///{full.folder / 'back.db'}"
    assert full("database", "migrate", "--store", back).code == 0

    done = full("storage", "import", "--store", back, "--input", "cut.json", "--json")

    assert done.code == 1
    assert "byte=" in json.loads(done.err)["error"]["detail"]
    assert full("storage", "export", "--store", back, "--all-tenants", "--output", "-", "--json").code == 0
    assert json.loads(full("storage", "verify", "--all-tenants", "all.json", back, "--json").out)["equal"] is False


def test_differences_are_named_by_table_tenant_and_record(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")
    assert full("add", "--tenant", "acme", "something new").code == 0

    done = full("storage", "verify", "--all-tenants", "all.json", full.url, "--differences", "1")

    assert done.code == 1
    assert done.lines[0] == "memories\tacme\t\t2 in A, 3 in B"
    assert done.lines[-1].startswith("memories\tacme\tmemory_id=")
    assert done.lines[-1].endswith("\tonly in B")


def test_a_part_is_chosen_by_name_and_number(full: Shell) -> None:
    done = full("storage", "export", "--only", "sessions,artifacts", "--limit", "5", "--output", "part.json", "--json")

    assert done.code == 0
    found = data_of(full.folder / "part.json")
    assert (len(found["sessions"]), found.get("kv_store", [])) == (5, [])
    assert {row["session_id"] for row in found["artifacts"]} <= {row["session_id"] for row in found["sessions"]}
    assert full("storage", "export", "--only", "nothing", "--output", "x.json").code == 2


def interrupt(shell: Shell, after: int) -> None:
    """Type Ctrl-C when progress has been told so many times."""
    told = itertools.count(1)

    def interrupted(*_: object) -> None:
        if next(told) == after:
            signal.raise_signal(signal.SIGINT)

    shell.environment.setattr(TableProgress, "__call__", interrupted)


@pytest.mark.parametrize("after", [1, 12])
def test_an_interrupt_leaves_no_file(full: Shell, after: int) -> None:
    interrupt(full, after)

    assert full("storage", "export", "--all-tenants", "--output", "all.json").code == 130
    assert left_over(full.folder) == []


@pytest.mark.parametrize("after", [1, 12, 40])
def test_an_interrupt_keeps_nothing_of_an_import(full: Shell, after: int) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")
    back = f"sqlite:///{full.folder / 'back.db'}"
    interrupt(full, after)
    assert full("storage", "import", "--store", back, "--input", "all.json").code == 130
    full.environment.setattr(TableProgress, "__call__", lambda *_: None)

    document = full("storage", "verify", "--all-tenants", back, "all.json", "--json").document
    assert (document["rows"], document["equal"]) == (0, False)


def test_a_reader_that_leaves_is_no_failure(full: Shell) -> None:
    command = [sys.executable, "-m", "llmspell", "storage", "export", "--all-tenants", "--output", "-", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"{"
        process.stdout.close()
        assert process.wait(PROCESS_LIMIT_S) == 141
        assert process.stderr.read() == b""


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_a_store_is_never_replaced_by_an_export(full: Shell, tmp_path: Path, linked: bool) -> None:
    path = Path(full.file)
    if linked:
        path = tmp_path / "link.json"
        path.symlink_to(full.file)

    done = full("storage", "export", "--all-tenants", "--output", str(path))

    assert done.code == 2
    assert "must not name a store" in done.err
    assert full("storage", "info", "--all-tenants", "--json").code == 0


def test_all_tenants_are_compared_unless_one_is_named_or_a_file_holds_one(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")
    full("storage", "export", "--tenant", "acme", "--output", "acme.json")

    whole = full("storage", "verify", "all.json", full.url, "--json")
    one = full("storage", "verify", "acme.json", full.url, "--json")
    asked = full("storage", "verify", "--all-tenants", "acme.json", full.url, "--json")

    assert (whole.code, whole.document["tenant"], whole.document["rows"]) == (0, None, RECORDS)
    assert (one.code, one.document["tenant"]) == (0, "acme")
    assert 0 < one.document["rows"] < RECORDS
    assert asked.code == 1, "the store holds other tenants too"


def test_a_store_that_is_not_there_is_not_made(shell: Shell) -> None:
    assert shell("storage", "export", "--output", "x.json").code == 1
    assert shell("storage", "transfer", shell.url, "memory://").code == 1
    assert shell("storage", "verify", shell.url, "memory://").code == 1
    assert not shell.file.exists()


def test_memory_takes_a_file_for_a_look(full: Shell) -> None:
    full("storage", "export", "--all-tenants", "--output", "all.json")

    done = full("storage", "import", "--backend", "memory", "--input", "all.json", "--json")

    assert (done.code, done.document["backend"], done.document["records"]) == (0, "memory", RECORDS)


def test_the_standard_input_is_compared_when_its_tenant_is_said(full: Shell) -> None:
    """It can be read once only, so it is not looked at for that."""
    text = full("storage", "export", "--tenant", "acme", "--output", "-").out

    unsaid = full("storage", "verify", "-", full.url, stdin=text)

    assert (unsaid.code, "--tenant" in unsaid.err, "cut off" in unsaid.err) == (2, True, False)
    assert full("storage", "verify", "-", full.url, "--tenant", "acme", stdin=text).code == 0
