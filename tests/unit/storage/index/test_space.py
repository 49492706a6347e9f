"""A space in memory follows its database by change numbers, and answers each snapshot as that sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from tests.fixtures.soak import size, tell
from tests.unit.storage.index.table import Table, names, owner, where

from llmspell.clock import EPOCH
from llmspell.errors import CorruptStore
from llmspell.storage.contracts.filters import Node
from llmspell.storage.contracts.vectors import FILTER_FIELDS
from llmspell.storage.index.blocks import Block, joined
from llmspell.storage.index.columns import Columns, Payload
from llmspell.storage.index.exact import Rows, owner_bytes, owner_words
from llmspell.storage.index.graph import Graph
from llmspell.storage.index.recall import Recall
from llmspell.storage.index.space import Indexed, Source, Space, View

LARGE = 2**40


@pytest.fixture
def table() -> Table:
    made = Table()
    made.insert("a", "b", "c", "d")
    return made


@pytest.fixture
def space() -> Space:
    return Space(8)


def seen(space: Space, source: Source) -> list[str]:
    return names(space.view(source, LARGE))


def graph_over(base: Block) -> Indexed:
    graph = Graph.build(base.halves, m=8, ef_construction=32)
    return Indexed(graph, Recall(), 8, 32, EPOCH)


def index(space: Space, view: View, *, compact: bool = False, meanwhile: object = None) -> None:
    """Do what a builder does with a view, which may be behind the space by then."""
    kept = np.flatnonzero(view.alive) if compact and view.alive is not None else None
    base = joined(view.base, view.tail)
    base = base if kept is None else base.at(kept)
    space.install(base, graph_over(base), len(view), kept)


def matching(space: Space, source: Source, view: View, node: Node) -> list[str] | None:
    found = space.matching(node, source, lambda: Columns(FILTER_FIELDS))
    if found is None:
        return None
    return sorted(id.lstrip(b"\0").decode() for id in owner_bytes(view.owners(view.there(found))))


# --- catching up ------------------------------------------------------------------------------------------------------


def test_a_space_is_read_once(space: Space, table: Table) -> None:
    assert seen(space, table.source()) == seen(space, table.source()) == ["a", "b", "c", "d"]
    assert table.read == 4


def test_insertions_are_appended_without_reading_the_rest(space: Space, table: Table) -> None:
    seen(space, table.source())
    table.insert("e")

    assert seen(space, table.source()) == ["a", "b", "c", "d", "e"]
    assert table.read == 5


def test_a_space_that_was_empty_when_it_was_first_searched_is_filled_later(space: Space) -> None:
    table = Table()
    assert seen(space, table.source()) == []
    table.insert("a")

    assert seen(space, table.source()) == ["a"]


@pytest.mark.parametrize("logged", [True, False], ids=["by-log", "by-names"])
def test_deletions_are_noted_without_reading_vectors_again(space: Space, table: Table, logged: bool) -> None:
    seen(space, table.source())
    table.delete("b")
    if not logged:
        table.forget_log()

    assert seen(space, table.source()) == ["a", "c", "d"]
    assert table.read == 4
    assert space.dead == 1


@pytest.mark.parametrize("logged", [True, False], ids=["by-log", "by-names"])
def test_a_row_that_was_replaced_counts_once_with_its_new_vector(space: Space, table: Table, logged: bool) -> None:
    seen(space, table.source())
    table.delete("b")
    table.insert("b", "e")
    if not logged:
        table.forget_log()

    view = space.view(table.source(), LARGE)

    assert names(view) == ["a", "b", "c", "d", "e"]
    assert view is not None
    (at,) = view.there(space.positions(owner_words([owner("b")])))
    fresh = Space(8).view(table.source(), LARGE)
    assert fresh is not None
    again = Space(8)
    again.view(table.source(), LARGE)
    (expected,) = again.positions(owner_words([owner("b")]))
    assert (view.halves(np.array([at])) == fresh.halves(np.array([expected]))).all()


@pytest.mark.parametrize("logged", [True, False], ids=["by-log", "by-names"])
def test_windows_are_told_apart(space: Space, table: Table, logged: bool) -> None:
    table.insert("w", parts=3)
    view = space.view(table.source(), LARGE)
    assert view is not None
    assert (names(view).count("w"), view.windows) == (3, 3)
    table.delete("w")
    table.insert("w", parts=1)
    if not logged:
        table.forget_log()

    assert seen(space, table.source()) == ["a", "b", "c", "d", "w"]


def test_a_row_deleted_and_inserted_again_many_times_between_two_searches_counts_once(
    space: Space, table: Table
) -> None:
    seen(space, table.source())
    for _ in range(5):
        table.delete("b")
        table.insert("b")
    table.delete("c")

    assert seen(space, table.source()) == ["a", "b", "d"]


def test_a_reading_that_fails_half_way_is_started_anew(space: Space, table: Table) -> None:
    good = table.source()

    def fails(after: int) -> Iterator[Rows]:
        yield next(good.pages(after))
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        space.view(replace(good, pages=fails), LARGE)

    assert seen(space, good) == ["a", "b", "c", "d"]


def test_a_log_that_cannot_be_read_is_as_if_nothing_had_been_known(space: Space, table: Table) -> None:
    seen(space, table.source())
    table.delete("b")
    table.insert("e")

    def fails(after: int) -> object:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        space.view(replace(table.source(), changes=fails), LARGE)  # type: ignore[arg-type]

    assert seen(space, table.source()) == ["a", "c", "d", "e"]


def test_a_space_larger_than_its_limit_is_not_kept(space: Space, table: Table) -> None:
    assert space.view(table.source(), 10) is None
    assert (space.rows, space.version) == (0, None)
    assert seen(space, table.source()) == ["a", "b", "c", "d"]


# --- older snapshots --------------------------------------------------------------------------------------------------


def test_an_older_snapshot_sees_neither_later_insertions_nor_later_deletions(space: Space, table: Table) -> None:
    older = table.source()
    seen(space, older)
    table.insert("e")
    table.delete("a")
    seen(space, table.source())

    assert seen(space, older) == ["a", "b", "c", "d"]
    assert seen(space, table.source()) == ["b", "c", "d", "e"]


def test_an_older_snapshot_is_not_served_when_rows_it_sees_may_never_have_been_read(space: Space, table: Table) -> None:
    older = table.source()
    table.delete("a")
    seen(space, table.source())

    assert space.view(older, LARGE) is None, "`a` was never read: a space that began behind its removal cannot show it"


def test_a_snapshot_that_sees_rows_which_came_and_went_between_two_searches_is_not_served(
    space: Space, table: Table
) -> None:
    oldest = table.source()
    seen(space, oldest)
    table.insert("e")
    between = table.source()
    table.delete("e")
    seen(space, table.source())

    assert space.view(between, LARGE) is None
    assert space.view(oldest, LARGE) is None
    assert seen(space, table.source()) == ["a", "b", "c", "d"]


def test_of_a_row_that_went_twice_the_first_time_counts_for_the_one_that_was_there(space: Space, table: Table) -> None:
    seen(space, table.source())
    table.delete("a")
    table.insert("a")
    table.delete("a")
    table.insert("e")
    seen(space, table.source())

    (at,) = space.positions(owner_words([owner("a")]))
    assert space._tail.died[at] == 2


def test_an_older_snapshot_is_not_served_after_names_were_compared(space: Space, table: Table) -> None:
    seen(space, table.source())
    table.insert("e")
    older = table.source()
    table.delete("a")
    table.forget_log()
    seen(space, table.source())

    assert space.view(older, LARGE) is None
    assert seen(space, table.source()) == ["b", "c", "d", "e"]


def test_a_view_does_not_change_when_its_space_does(space: Space, table: Table) -> None:
    view = space.view(table.source(), LARGE)
    for step in range(40):
        table.insert(f"e{step}")
        seen(space, table.source())
    table.delete("a")
    seen(space, table.source())

    assert names(view) == ["a", "b", "c", "d"]


def test_an_older_snapshot_sees_less_than_a_graph_holds(space: Space, table: Table) -> None:
    older = table.source()
    seen(space, older)
    table.insert("e", "f")
    newer = table.source()
    view = space.view(newer, LARGE)
    assert view is not None
    index(space, view)

    back = space.view(older, LARGE)

    assert names(back) == ["a", "b", "c", "d"]
    assert back is not None
    assert back.indexed is None, "a graph cannot answer for rows that are not to be seen"
    assert seen(space, newer) == ["a", "b", "c", "d", "e", "f"]


# --- a graph ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compact", [False, True], ids=["all-rows", "compacted"])
def test_what_happened_during_a_build_is_carried_over(space: Space, table: Table, compact: bool) -> None:
    seen(space, table.source())
    table.delete("a")
    view = space.view(table.source(), LARGE)
    assert view is not None
    table.delete("b")
    table.insert("e", "b")
    seen(space, table.source())
    before = table.read

    index(space, view, compact=compact)

    assert seen(space, table.source()) == ["b", "c", "d", "e"]
    assert table.read == before
    now = space.view(table.source(), LARGE)
    assert now is not None
    assert now.indexed is not None
    assert (len(now.base), len(now.tail), space.dead) == ((3, 2, 1) if compact else (4, 2, 2))
    table.delete("c", "e")
    table.insert("f")
    assert seen(space, table.source()) == ["b", "d", "f"]


def test_a_snapshot_from_before_a_compaction_is_not_served(space: Space, table: Table) -> None:
    older = table.source()
    seen(space, older)
    table.delete("a")
    view = space.view(table.source(), LARGE)
    assert view is not None
    assert seen(space, older) == ["a", "b", "c", "d"]
    index(space, view, compact=True)

    assert space.view(older, LARGE) is None
    assert seen(space, table.source()) == ["b", "c", "d"]


def test_a_graph_over_part_of_a_space_leaves_the_rest_behind_it(space: Space, table: Table) -> None:
    view = space.view(table.source(), LARGE)
    assert view is not None
    index(space, view)
    table.insert("e", "f")
    first = space.view(table.source(), LARGE)
    assert first is not None
    assert (len(first.base), len(first.tail), space.unindexed) == (4, 2, 2)
    table.insert("g")
    seen(space, table.source())

    index(space, first)

    second = space.view(table.source(), LARGE)
    assert names(second) == ["a", "b", "c", "d", "e", "f", "g"]
    assert second is not None
    assert (len(second.base), len(second.tail)) == (6, 1)


@pytest.mark.parametrize("logged", [True, False], ids=["by-log", "by-names"])
def test_a_restored_space_is_caught_up_from_its_change(table: Table, logged: bool) -> None:
    first = Space(8)
    view = first.view(table.source(), LARGE)
    assert view is not None
    base, version = joined(view.base, view.tail), table.source().version
    table.delete("a")
    table.insert("e")
    if not logged:
        table.forget_log()
    table.read = 0
    space = Space(8)

    space.restore(base, graph_over(base), table.source().version._replace(change=version.change))

    assert seen(space, table.source()) == ["b", "c", "d", "e"]
    assert table.read == (1 if logged else 2), "new rows alone are read, and once more to compare names"


def test_a_restored_space_serves_no_snapshot_from_before_its_file(table: Table) -> None:
    older = table.source()
    table.insert("e")
    view = Space(8).view(table.source(), LARGE)
    assert view is not None
    base = joined(view.base, view.tail)
    space = Space(8)
    space.restore(base, graph_over(base), table.source().version)

    assert space.view(older, LARGE) is None


# --- filters ----------------------------------------------------------------------------------------------------------

NEW = where({"metadata.name": "new"})


def test_a_filter_follows_insertions_rewritings_and_removals(space: Space, table: Table) -> None:
    view = space.view(table.source(), LARGE)
    assert view is not None
    assert matching(space, table.source(), view, NEW) == []

    for change, expected in (
        (lambda: table.insert("e", metadata={"name": "new"}), ["e"]),
        (lambda: table.rewrite("a", {"name": "new"}), ["a", "e"]),
        (lambda: table.rewrite("e", {}), ["a"]),
        (lambda: table.delete("a"), []),
        (lambda: table.insert("a", metadata={"name": "new"}), ["a"]),
        (lambda: (table.delete("a"), table.insert("a", metadata={})), []),
        (lambda: (table.rewrite("b", {"name": "new"}), table.rewrite("b", {})), []),
        (lambda: (table.rewrite("b", {"name": "new"}), table.delete("c")), ["b"]),
    ):
        change()
        source = table.source()
        view = space.view(source, LARGE)
        assert view is not None
        assert matching(space, source, view, NEW) == expected
        fresh = Space(8)
        assert matching(fresh, source, fresh.view(source, LARGE), NEW) == expected  # type: ignore[arg-type]


def test_a_filter_is_read_once_and_then_held(space: Space, table: Table) -> None:
    view = space.view(table.source(), LARGE)
    assert view is not None
    assert not space.holds(NEW)
    matching(space, table.source(), view, NEW)
    assert space.holds(NEW)

    def never(after: int) -> list[Payload]:
        raise AssertionError("held")

    assert matching(space, replace(table.source(), payloads=never), view, NEW) == []


def test_a_filter_that_begins_after_rows_have_gone_steps_over_them(space: Space, table: Table) -> None:
    seen(space, table.source())
    table.delete("a", "c")
    table.rewrite("d", {"name": "new"})
    view = space.view(table.source(), LARGE)
    assert view is not None

    assert matching(space, table.source(), view, NEW) == ["d"]


@pytest.mark.parametrize("compact", [False, True], ids=["all-rows", "compacted"])
def test_columns_keep_their_rows_when_a_graph_is_taken_in(space: Space, table: Table, compact: bool) -> None:
    table.insert("n1", metadata={"name": "new"})
    view = space.view(table.source(), LARGE)
    assert view is not None
    matching(space, table.source(), view, NEW)
    table.delete("a")
    view = space.view(table.source(), LARGE)
    assert view is not None
    table.insert("n2", metadata={"name": "new"})
    table.rewrite("b", {"name": "new"})
    seen(space, table.source())

    index(space, view, compact=compact)

    source = table.source()
    view = space.view(source, LARGE)
    assert view is not None
    assert matching(space, source, view, NEW) == ["b", "n1", "n2"]


def test_a_filter_is_not_answered_for_an_older_snapshot(space: Space, table: Table) -> None:
    older = table.source()
    view = space.view(older, LARGE)
    assert view is not None
    matching(space, older, view, NEW)
    table.rewrite("a", {"name": "new"})
    seen(space, table.source())

    assert matching(space, older, view, NEW) is None


def test_damaged_metadata_are_an_error_each_time_and_nothing_is_kept_of_them(space: Space, table: Table) -> None:
    view = space.view(table.source(), LARGE)
    assert view is not None
    matching(space, table.source(), view, NEW)
    table.rewrite("a", {"name": "new"})
    source = table.source()
    bad = replace(source, payload=lambda owners, parts: [Payload("s", 0, 0, "{")])

    with pytest.raises(CorruptStore):
        space.view(bad, LARGE)
    view = space.view(bad, LARGE)
    assert view is not None
    with pytest.raises(CorruptStore):
        matching(space, replace(bad, payloads=lambda after: [Payload("s", 0, 0, "{")] * 4), view, NEW)

    view = space.view(source, LARGE)
    assert view is not None
    assert matching(space, source, view, NEW) == ["a"]


# --- histories --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(size(ci=40, soak=4_000)))
def test_any_history_is_followed_as_by_one_who_reads_all_of_it(seed: int) -> None:
    choose = np.random.default_rng(seed)
    table, space = Table(), Space(8)
    older: list[tuple[Source, list[str], list[str]]] = []
    builds: list[tuple[int, View]] = []
    for step in range(60):
        change(table, choose, step)
        if choose.random() < 0.5:
            source = table.source()
            everything = sorted(id.lstrip(b"\0").decode() for id, _ in table.rows)
            new = sorted(
                id.lstrip(b"\0").decode() for (id, _), row in table.rows.items() if row.metadata.get("name") == "new"
            )
            view = space.view(source, LARGE)
            assert names(view) == everything
            assert view is not None
            if choose.random() < 0.6:
                assert matching(space, source, view, NEW) == new
            older.append((source, everything, new))
            if choose.random() < 0.3:
                builds.append((space.epoch, view))
        if older and choose.random() < 0.3:
            source, everything, new = older[choose.integers(len(older))]
            back = space.view(source, LARGE)
            assert back is None or names(back) == everything
            tell(older_snapshots_served=back is not None, older_snapshots_refused=back is None)
        if builds and choose.random() < 0.5:
            epoch, view = builds.pop(choose.integers(len(builds)))
            if epoch == space.epoch and space.version is not None and len(view):
                index(space, view, compact=bool(choose.integers(2)))
                tell(graphs_taken_in=1)
    tell(space_histories=1)


def change(table: Table, choose: np.random.Generator, step: int) -> None:
    living = sorted({id.lstrip(b"\0").decode() for id, _ in table.rows})
    match choose.integers(7):
        case 0 | 1 | 2:
            metadata: dict[str, object] = {"name": "new"} if choose.random() < 0.4 else {}
            table.insert(*(f"{step}-{n}" for n in range(choose.integers(1, 5))), metadata=metadata)
        case 3 if living:
            table.delete(*choose.choice(living, min(len(living), 3), replace=False))
        case 4 if living:
            name = str(choose.choice(living))
            table.delete(name)
            table.insert(name, parts=int(choose.integers(1, 4)))
        case 5 if living:
            table.rewrite(str(choose.choice(living)), {"name": "new"} if choose.random() < 0.5 else {"name": "old"})
        case 6 if choose.random() < 0.2:
            table.forget_log()
        case _:
            pass
