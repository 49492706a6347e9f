"""The schema as text, taken apart into objects and compared. Pure: nothing here asks a server.

Not here: how the text is read from the catalogues (`schema_verify`, `schema_catalogue.sql`).

Rule 1: both sides are taken apart by the same code, so a difference is one of the databases.
Rule 2: what llmspell itself does to a schema after its migrations is no difference: the strict mode, indexes of vectors with
parameters of their own, vectors in partitions. An unfinished move of vectors leaves extra objects that do no harm.
Rule 3: how the server writes a condition after a dump has brought it back is no difference: it has read its own text then, and
casts each element of a list and not the list, and nests no OR.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from llmspell.storage.contracts.schema import Difference

OTHERS_MAY_ADD = frozenset({"table", "index", "sequence", "schema"})
SIGNATURE_POLICY = "tenant_signature"
_OBJECTS = (
    ("schema", re.compile(r"CREATE SCHEMA (\S+);")),
    ("sequence", re.compile(r"CREATE SEQUENCE (\S+) ")),
    ("function", re.compile(r"CREATE OR REPLACE (?:FUNCTION|PROCEDURE) (.+)")),
    ("table", re.compile(r"CREATE TABLE (\S+) \(")),
    ("constraint", re.compile(r"ALTER TABLE (\S+) ADD CONSTRAINT (\S+) ")),
    ("index", re.compile(r"CREATE (?:UNIQUE )?INDEX (\S+) ON (?:ONLY )?(\S+) ")),
    ("trigger", re.compile(r"CREATE (?:CONSTRAINT )?TRIGGER (\S+) .*? ON (\S+) ")),
    ("policy", re.compile(r"CREATE POLICY (\S+) ON (\S+) ")),
    ("grant", re.compile(r"GRANT [A-Z, ]+ ON (.+) TO (\S+);")),
    ("default privileges", re.compile(r"ALTER DEFAULT PRIVILEGES IN SCHEMA (\S+) GRANT [A-Z, ]+ ON (\S+) TO (\S+);")),
)
_HNSW = re.compile(r"( USING hnsw .*?) WITH \([^)]*\)")
_VECTORS = re.compile(r"llmspell\.vector_embeddings_\d+$")
_MOVED = re.compile(r"(?:llmspell\.)?(?:vector_embeddings|idx_vec|unique_vec)\w*?_\d+\w*_(?:p\d+|parted|repeat)\b")
_ONLY_PACE = re.compile(r" WITH \((?:autovacuum_\w+=[^,)]+(?:, )?)+\)")
_PACE = re.compile(r", autovacuum_\w+=[^,)]+|(?<= WITH \()autovacuum_\w+=[^,)]+, ")
_CAST_LIST = re.compile(r"\(ARRAY\[((?:'(?:[^']|'')*'::character varying(?:, )?)+)\]\)::text\[\]")
_ELEMENT = re.compile(r"'(?:[^']|'')*'::character varying")
_DEFAULT_TARGET = re.compile(r" STATISTICS -1\b")
_NO_BRACKETS = str.maketrans("", "", "()")


class SchemaObject(NamedTuple):
    """One object. `table` is what it belongs to, if to one; `text` is its definition."""

    kind: str
    name: str
    table: str | None
    text: str


def read_objects(text: str) -> dict[tuple[str, str], SchemaObject]:
    """Take a schema text apart. An object is known by its kind and a name that says what it belongs to.

    Raises:
        ValueError: a statement of a form that is not known: a programming error.
    """
    found: dict[tuple[str, str], SchemaObject] = {}
    for statement in _statements(text):
        made = _object(statement)
        found[made.kind, made.name] = made
    return found


def _statements(text: str) -> Iterator[str]:
    lines: list[str] = []
    in_function = False
    for line in text.splitlines():
        if not lines and (not line or line.startswith("--")):
            continue
        in_function = in_function or (not lines and line.startswith("CREATE OR REPLACE"))
        lines.append(line)
        if line == ";" if in_function else line.endswith(";"):
            yield "\n".join(lines)
            lines, in_function = [], False
    if lines:
        raise ValueError(f"a statement of the schema does not end: {lines[0]}")


def _object(statement: str) -> SchemaObject:
    for kind, pattern in _OBJECTS:
        match = pattern.match(statement)
        if match is None:
            continue
        parts = match.groups()
        if kind in ("schema", "sequence", "table", "function"):
            return SchemaObject(kind, parts[0], parts[0] if kind == "table" else None, statement)
        if kind == "constraint":
            return SchemaObject(kind, f"{parts[1]} on {parts[0]}", parts[0], statement)
        if kind == "index":
            schema = parts[1].partition(".")[0]
            return SchemaObject(kind, f"{schema}.{parts[0]}", parts[1], statement)
        if kind in ("trigger", "policy"):
            return SchemaObject(kind, f"{parts[0]} on {parts[1]}", parts[1], statement)
        return SchemaObject(kind, " to ".join((", ".join(parts[:-1]), parts[-1])), None, statement)
    raise ValueError(f"a statement of the schema is not known: {statement[:80]}")


def compare(expected: str, actual: str, *, signed: bool, same_server: bool = True) -> list[Difference]:
    """Return what is different in `actual`, in the order of the schema.

    `signed`: tenants must be signed, so every table of tenants has one more policy. `same_server`: both texts were written by the
    same major version; otherwise definitions, which versions write differently, are not compared, only names.
    """
    wanted, there = read_objects(_untuned(expected)), read_objects(_untuned(actual))
    if signed:
        wanted = {**_signatures(wanted), **wanted}
    moved = {one.table for one in there.values() if one.kind == "table" and _is_partitioned_vectors(one)}
    found: list[Difference] = []
    for key, one in wanted.items():
        other = there.get(key)
        if other is None:
            found.append(Difference(kind=one.kind, name=one.name, departure="missing"))
        elif same_server and one.table not in moved and _plain(one) != _plain(other):
            found += _changes(one, other)
        elif one.kind == "table":
            found += [difference for difference in _changes(one, other) if difference.departure != "changed"]
    found += [
        _extra(one, wanted) for key, one in there.items() if key not in wanted and not _is_ours(one, signed=signed)
    ]
    return found


def expected_policies(objects: Mapping[tuple[str, str], SchemaObject]) -> dict[str, list[str]]:
    """Return the names of the policies of each table."""
    policies: dict[str, list[str]] = {}
    for one in objects.values():
        if one.kind == "policy" and one.table is not None:
            policies.setdefault(one.table, []).append(one.name.partition(" on ")[0])
    return policies


def _signatures(wanted: Mapping[tuple[str, str], SchemaObject]) -> dict[tuple[str, str], SchemaObject]:
    """The policy of signed tenants on each table of tenants. A function of the schema makes them, so only their names are known."""
    made = {}
    for table, names in expected_policies(wanted).items():
        if "tenant_isolation_select" in names:
            name = f"{SIGNATURE_POLICY} on {table}"
            made["policy", name] = SchemaObject("policy", name, table, "")
    return made


def _untuned(text: str) -> str:
    """Leave out how early autovacuum comes to a table: that is the operator's choice (`llmspell database tune`)."""
    return _PACE.sub("", _ONLY_PACE.sub("", text))


def _plain(one: SchemaObject) -> str:
    """Return a definition without what may differ."""
    if one.kind == "constraint":
        return _CAST_LIST.sub(_cast_elements, one.text)
    if one.kind == "trigger" and " AND " not in one.text:  # without AND the brackets decide nothing
        return one.text.translate(_NO_BRACKETS)
    return _DEFAULT_TARGET.sub("", _HNSW.sub(r"\1", one.text) if one.kind == "index" else one.text)


def _cast_elements(cast_list: re.Match[str]) -> str:
    elements = _ELEMENT.sub(r"(\g<0>)::text", cast_list[1])
    return f"ARRAY[{elements}]"


def _is_partitioned_vectors(one: SchemaObject) -> bool:
    return _VECTORS.match(one.name) is not None and " PARTITION BY HASH " in one.text


def _is_ours(one: SchemaObject, *, signed: bool) -> bool:
    """Whether it is extra because llmspell made it after the migrations."""
    if _MOVED.search(one.name) or (one.table is not None and _MOVED.search(one.table)):
        return True
    of_keys = one.name.startswith("llmspell_private") or " on llmspell_private." in one.name
    return of_keys or (signed and one.kind == "policy" and one.name.startswith(f"{SIGNATURE_POLICY} on "))


def _extra(one: SchemaObject, wanted: Mapping[tuple[str, str], SchemaObject]) -> Difference:
    of_another = one.table is not None and ("table", one.table) not in wanted
    harmless = (one.kind in OTHERS_MAY_ADD and not _is_unique(one)) or (of_another and one.kind != "policy")
    return Difference(kind=one.kind, name=one.name, departure="extra", harmless=harmless)


def _is_unique(one: SchemaObject) -> bool:
    return one.text.startswith("CREATE UNIQUE INDEX")


def _changes(one: SchemaObject, other: SchemaObject) -> list[Difference]:
    if one.kind != "table":
        if not one.text:  # of a policy of signed tenants only the name is known here
            return []
        return [Difference(kind=one.kind, name=one.name, departure="changed", detail=_first_line_apart(one, other))]
    found = []
    wanted, there = _columns(one.text), _columns(other.text)
    for name, definition in wanted.items():
        if name not in there:
            found.append(Difference(kind="column", name=f"{one.name}.{name}", departure="missing"))
        elif _DEFAULT_TARGET.sub("", there[name]) != _DEFAULT_TARGET.sub("", definition):
            detail = f"is `{there[name]}`, should be `{definition}`"
            found.append(Difference(kind="column", name=f"{one.name}.{name}", departure="changed", detail=detail))
    found += [
        Difference(kind="column", name=f"{one.name}.{name}", departure="extra") for name in there if name not in wanted
    ]
    ends = [text.rpartition("\n")[2] for text in (one.text, other.text)]
    if ends[0] != ends[1]:
        kind = "row-level security" if _without_rls(ends[0]) == _without_rls(ends[1]) else "table"
        detail = f"ends with `{ends[1]}`, should end with `{ends[0]}`"
        found.append(Difference(kind=kind, name=one.name, departure="changed", detail=detail))
    return found


def _columns(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines()[1:-1]:
        name, _, definition = line.strip().rstrip(",").partition(" ")
        found[name] = definition
    return found


def _without_rls(end: str) -> str:
    return end.replace(" ENABLE ROW LEVEL SECURITY", "").replace(" FORCE ROW LEVEL SECURITY", "")


def _first_line_apart(one: SchemaObject, other: SchemaObject) -> str:
    """Say where two definitions part, without repeating a whole function."""
    wanted, there = one.text.splitlines(), other.text.splitlines()
    for mine, its in zip(wanted, there, strict=False):
        if mine != its:
            return f"is `{its.strip()[:160]}`, should be `{mine.strip()[:160]}`"
    return "is longer than it should be" if len(there) > len(wanted) else "is shorter than it should be"
