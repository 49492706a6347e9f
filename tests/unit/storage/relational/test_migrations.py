"""Which migrations there are, and which a database still needs: without a database."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from llmspell.errors import MigrationError, MigrationModified, SchemaTooNew
from llmspell.storage.relational.migrations import Applied, Migration, bookkeeping, load, plan


def migration(version: int, sql: str = "SELECT 1;") -> Migration:
    return Migration(version, f"V{version:03}__step", sql, hashlib.sha256(sql.encode()).hexdigest())


def applied(of: Migration) -> Applied:
    return Applied(of.version, of.name, of.sha256)


THREE = (migration(1), migration(2, "SELECT 2;"), migration(3, "SELECT 3;"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package with a `migrations` folder to fill; it is called `a_dialect`."""
    folder = tmp_path / "a_dialect" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "a_dialect" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "a_dialect", raising=False)
    return folder


def test_files_are_loaded_in_the_order_of_their_numbers(package: Path) -> None:
    for name in ("V002__second_step", "V003__third", "V001__first"):
        (package / f"{name}.sql").write_text(f"-- {name}")

    assert [loaded.name for loaded in load("a_dialect")] == ["V001__first", "V002__second_step", "V003__third"]


def test_the_hash_is_of_the_text_in_utf_8(package: Path) -> None:
    (package / "V001__first.sql").write_text("-- µs\n", encoding="utf-8")

    assert load("a_dialect")[0].sha256 == hashlib.sha256("-- µs\n".encode()).hexdigest()


def test_other_line_ends_make_no_other_migration(package: Path) -> None:
    (package / "V001__first.sql").write_bytes(b"SELECT 1;\r\nSELECT 2;\r\n")

    assert load("a_dialect")[0].sha256 == hashlib.sha256(b"SELECT 1;\nSELECT 2;\n").hexdigest()


def test_the_bookkeeping_file_is_no_migration(package: Path) -> None:
    (package / "schema_migrations.sql").write_text("CREATE TABLE schema_migrations (version);")

    assert load("a_dialect") == ()
    assert bookkeeping("a_dialect") == "CREATE TABLE schema_migrations (version);"


@pytest.mark.parametrize(
    "name", ["V1__short", "v001__lower", "V001_one_underscore", "V001__Upper", "001__first", "V001__"]
)
def test_a_file_with_another_form_of_name_is_refused(package: Path, name: str) -> None:
    (package / f"{name}.sql").touch()

    with pytest.raises(MigrationError, match=r"V<three digits>"):
        load("a_dialect")


def test_a_gap_in_the_numbers_is_refused(package: Path) -> None:
    (package / "V001__first.sql").touch()
    (package / "V003__third.sql").touch()

    with pytest.raises(MigrationError, match=r"expected='V002'"):
        load("a_dialect")


def test_a_number_used_twice_is_refused(package: Path) -> None:
    (package / "V001__first.sql").touch()
    (package / "V001__also_first.sql").touch()

    with pytest.raises(MigrationError, match="each number once"):
        load("a_dialect")


def test_an_empty_database_needs_everything() -> None:
    planned = plan(THREE, [])

    assert planned.pending == THREE
    assert planned.current_version == 0


def test_what_is_applied_is_not_pending() -> None:
    planned = plan(THREE, [applied(THREE[1]), applied(THREE[0])])

    assert planned.pending == THREE[2:]
    assert planned.current_version == 2


def test_a_database_that_has_everything_needs_nothing() -> None:
    assert plan(THREE, map(applied, THREE)).pending == ()


def test_an_applied_migration_with_another_hash_is_refused() -> None:
    with pytest.raises(MigrationModified, match="V002__step"):
        plan(THREE, [applied(THREE[0]), Applied(2, "V002__step", "0" * 64)])


def test_an_applied_migration_with_another_name_is_refused() -> None:
    with pytest.raises(MigrationModified):
        plan(THREE, [Applied(1, "V001__renamed", THREE[0].sha256)])


def test_a_database_of_a_newer_release_is_refused() -> None:
    with pytest.raises(SchemaTooNew, match=r"at schema version 4, .* knows up to 3.*V004__later"):
        plan(THREE, [*map(applied, THREE), Applied(4, "V004__later", "0" * 64)])


def test_a_hole_among_the_applied_ones_is_refused() -> None:
    with pytest.raises(MigrationError, match="V002__step"):
        plan(THREE, [applied(THREE[0]), applied(THREE[2])])
