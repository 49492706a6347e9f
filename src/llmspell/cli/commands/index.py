"""`llmspell index`: how vectors are searched, indexing them now, and choosing parameters.

Not here: what is measured over a grid of parameters (`storage.index.grid`), what an index is (`storage.contracts.vector_index`).
"""

from __future__ import annotations

import asyncio
import os
import time
from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from llmspell.cli.output import async_command, counted, current_output, group, plain, printable
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import current_settings, open_tenant
from llmspell.codec import DIMENSIONS
from llmspell.errors import NotFound
from llmspell.storage.contracts.vector_index import (
    EF_CONSTRUCTION_MAX,
    EF_SEARCH_MAX,
    M_BY_DIMENSION,
    M_MAX,
    M_MIN,
    PRESETS,
    RECALL_MIN,
    RECALL_TARGET,
    HnswConfig,
    IndexChoice,
    VectorIndexStatus,
    estimate_overhead_bytes,
    estimate_vector_bytes,
)
from llmspell.storage.contracts.vectors import FREE_SPACE, SAMPLE_MAX

if TYPE_CHECKING:
    from llmspell.spell import Tenant
    from llmspell.storage.contracts.vector_index import Preset
    from llmspell.storage.index.grid import Grid, Point, Questions

POLL_S = 0.2
"""How often a build that is waited for is asked how far it is."""
VECTORS_MAX = 2**32 - 1
GENERATED_MIN, GENERATED_MAX = 100, 1_000_000
DEFAULT_SAMPLE = 10_000
GENERATED = "generated"
DIMENSION = click.Choice([str(size) for size in DIMENSIONS])


@group()
def index() -> None:
    """See how vectors are searched, index them now, and choose parameters.

    A search never waits for an index: what is not indexed is compared one by one.
    """


# --- what there is ----------------------------------------------------------------------------------------------------


@index.command()
@async_command
async def status() -> None:
    """Show how each embedding space of the tenant is searched.

    The tenant is that of the settings, or of --tenant. Recall was measured on the data when the index was built, against exact
    search. Both estimates of memory stand beside what was measured.
    """
    async with open_tenant() as tenant:
        spaces = await tenant.vectors.index_status()
    _emit_spaces(spaces)


@index.command()
@click.option("--dimension", type=DIMENSION, help="Only the spaces of this dimension.")
@async_command
async def build(dimension: str | None) -> ExitCode:
    """Index now what is large enough to be indexed and is not yet, and wait for it.

    The tenant is that of the settings, or of --tenant. Exit code 1 when an index was built that could not be kept in a file:
    it ends with this process.
    """
    output = current_output()
    wanted = None if dimension is None else int(dimension)
    started = time.perf_counter()
    async with open_tenant() as tenant:
        before = _chosen(await tenant.vectors.index_status(), wanted)
        with output.progress(sum(space.unindexed for space in before), "Indexing") as bar:
            work = asyncio.create_task(tenant.vectors.build_index(dimension=wanted))
            done = indexed = sum(space.indexed for space in before)
            while not (await asyncio.wait({work}, timeout=POLL_S))[0]:
                now = sum(one.indexed + one.building for one in _chosen(await tenant.vectors.index_status(), wanted))
                bar.advance(max(0, now - done))
                done = max(done, now)
            spaces = await work
            now = sum(space.indexed for space in spaces)
            bar.advance(max(0, now - done))
    _emit_spaces(spaces, wanted)
    elapsed = time.perf_counter() - started
    if now > indexed:
        output.note(f"{counted(now - indexed, 'vector')} indexed in {elapsed:.1f} s")
    else:
        output.note("Nothing was to be indexed.")
    return _warn_of_lost(spaces)


def _warn_of_lost(spaces: list[VectorIndexStatus]) -> ExitCode:
    """Warn of indexes that only this process has, which is about to end, and return the exit code that says so."""
    from llmspell.storage.open import index_folder

    lost = [space for space in spaces if space.built_at is not None and space.file_bytes is None]
    folder = index_folder(current_settings())
    if not lost or folder is None:
        return ExitCode.OK
    names = ", ".join(printable(space.space_id) for space in lost)
    current_output().warn(
        f"The index of {names} could not be kept in {printable(str(folder))}: it is gone with this process.",
        hint="Make that folder writable, with room on its disk, or name another with storage.vector_path; then build again.",
    )
    return ExitCode.FAILED


def _chosen(spaces: list[VectorIndexStatus], dimension: int | None) -> list[VectorIndexStatus]:
    return [space for space in spaces if dimension in (None, space.dimension)]


def _emit_spaces(spaces: list[VectorIndexStatus], dimension: int | None = None) -> None:
    document = {"spaces": [{**plain(space), "fragmentation": space.fragmentation} for space in spaces]}
    current_output().emit(document, lines=lambda: _space_lines(spaces))
    if not spaces:
        what = "no vectors" if dimension is None else f"no vectors of {dimension} dimensions"
        current_output().note(f"The tenant `{current_settings().tenant_id}` has {what}. Another one: --tenant ID")


def _space_lines(spaces: list[VectorIndexStatus]) -> Iterator[str]:
    for number, space in enumerate(spaces):
        if number:
            yield ""
        yield f"space          {printable(space.space_id)}"
        yield f"dimension      {space.dimension}"
        yield f"state          {space.state}"
        yield f"vectors        {space.vectors:,}"
        yield f"indexed        {space.indexed:,}"
        yield f"unindexed      {space.unindexed:,}"
        yield f"deleted        {space.deleted:,}"
        yield f"fragmentation  {space.fragmentation:.1%}"
        if space.m is not None:
            yield f"parameters     {_parameters(space)}"
        if space.recall is not None:
            how = f"measured with {space.ef_search} candidates" if space.ef_search else "because searches are exact"
            yield f"recall         {space.recall:.4f} {how}"
        if space.recall_by_ef:
            points = ", ".join(f"{ef}: {recall:.4f}" for ef, recall in sorted(space.recall_by_ef.items()))
            yield f"by candidates  {points}"
        if space.recall_target is not None:
            yield f"recall target  {space.recall_target}"
        yield f"memory         {_bytes(space.memory_bytes)} in this process"
        yield f"file           {_bytes(space.file_bytes)}"
        yield f"estimated      {_bytes(space.estimated_bytes)} for vectors and links (HNS-19)"
        yield f"               {_bytes(space.overhead_bytes)} for links alone (HNS-20)"
        if space.built_at is not None:
            yield f"built          {plain(space.built_at)}"


def _parameters(space: VectorIndexStatus) -> str:
    candidates = f"ef_search {space.ef_search}" if space.ef_search else "no number of candidates reaches the target"
    return f"m {space.m}, ef_construction {space.ef_construction}, {candidates}"


def _bytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size:,} bytes"


# --- parameters without a store ---------------------------------------------------------------------------------------


@index.command()
@click.option("--vectors", type=click.IntRange(0, VECTORS_MAX), required=True, help="How many vectors.")
@click.option("--dimension", type=DIMENSION, required=True, help="Their dimension.")
@click.option("--preset", type=click.Choice(PRESETS), help="A preset instead of what is configured.")
def estimate(vectors: int, dimension: str, preset: str | None) -> None:
    """Say which parameters an index of so many vectors would have, and estimate its memory. Opens no store.

    Two estimates are known, and they differ: that of a vector with its links (HNS-19), and that of the links alone (HNS-20).
    Neither is a measurement; `llmspell index status` has those.
    """
    size = int(dimension)
    choice = IndexChoice(preset=cast("Preset", preset)) if preset is not None else _configured()
    config = choice.config(vectors)
    each = estimate_vector_bytes(size, m=config.m)
    document = {
        "vectors": vectors,
        "dimension": size,
        "preset": choice.preset,
        "parameters": config,
        "recommended_m": M_BY_DIMENSION.get(size),
        "vector_bytes": each,
        "vectors_bytes": each * vectors,
        "overhead_bytes": estimate_overhead_bytes(vectors, m=config.m),
        "fits": vectors <= config.max_elements,
    }
    current_output().emit(document, lines=lambda: _estimate_lines(document, config))


def _configured() -> IndexChoice:
    from llmspell.storage.open import index_choice

    return index_choice(current_settings().rag.vector_storage.hnsw)


def _estimate_lines(document: dict[str, Any], config: HnswConfig) -> Iterable[str]:
    yield f"preset           {document['preset']}"
    yield f"m                {config.m}"
    yield f"ef_construction  {config.ef_construction}"
    yield f"ef_search        {config.ef_search}"
    yield f"max_elements     {config.max_elements:,}"
    if document["recommended_m"] is not None:
        least, most = document["recommended_m"]
        yield f"recommended m    {least if least == most else f'{least} to {most}'} for {document['dimension']} dimensions (HNS-12)"
    yield f"vectors, links   {document['vectors_bytes']:,} bytes: {document['vector_bytes']:,} for each vector (HNS-19)"
    yield f"links alone      {document['overhead_bytes']:,} bytes (HNS-20)"
    if not document["fits"]:
        yield f"too many         an index is made for {config.max_elements:,} vectors: raise max_elements"


# --- a grid of parameters ---------------------------------------------------------------------------------------------


@index.command()
@click.option("--dimension", type=DIMENSION, required=True, help="The dimension to measure.")
@click.option("--space", help="The embedding space to sample; default: the largest of the dimension.")
@click.option(
    "--sample",
    type=click.IntRange(GENERATED_MIN, SAMPLE_MAX),
    help=f"Vectors of the store; default {DEFAULT_SAMPLE:,}.",
)
@click.option(
    "--vectors", type=click.IntRange(GENERATED_MIN, GENERATED_MAX), help="Generate so many instead; needs no store."
)
@click.option("--m", type=click.IntRange(M_MIN, M_MAX), multiple=True, help="Default: 12, 16, 24.")
@click.option(
    "--ef-construction", type=click.IntRange(4, EF_CONSTRUCTION_MAX), multiple=True, help="Default: 64, 128, 256."
)
@click.option("--ef-search", type=click.IntRange(1, EF_SEARCH_MAX), multiple=True, help="Default: 20, 40, 100.")
@click.option("--questions", type=click.IntRange(1, 10_000), default=200, show_default=True, help="How many are asked.")
@click.option(
    "--recall",
    type=click.FloatRange(RECALL_MIN, 1),
    default=RECALL_TARGET,
    show_default=True,
    help="What the suggested parameters must reach.",
)
@click.option("--threads", type=click.IntRange(1, 1_024), help="Threads that build; default: half of the cores.")
@async_command
async def tune(
    dimension: str,
    space: str | None,
    sample: int | None,
    vectors: int | None,
    recall: float,
    questions: int,
    threads: int | None,
    **tried: tuple[int, ...],
) -> ExitCode:
    """Measure a grid of parameters: build time, size, query time and recall@10 against exact search. Changes nothing.

    An index is built for each m with each ef_construction, over vectors of the store (a sample) or over generated ones, and
    asked with each ef_search. Options that name a parameter may be repeated. Exit code 1 when nothing reached --recall.
    """
    if vectors is not None and (space is not None or sample is not None):
        raise click.UsageError("--vectors generates vectors: --space and --sample name those of the store")
    from llmspell.storage.index import grid

    wanted = grid.Grid(**{name: values for name, values in tried.items() if values})
    size = int(dimension)
    if vectors is not None:
        asked = await asyncio.to_thread(grid.generated, vectors, size, questions=questions)
        source = GENERATED
    else:
        async with open_tenant() as tenant:
            source, stored = await _sampled(tenant, size, space, sample or DEFAULT_SAMPLE)
        asked = await asyncio.to_thread(grid.of_vectors, stored, questions=questions)
    points = await asyncio.to_thread(_measured, wanted, asked, threads or max(1, (os.cpu_count() or 1) // 2))
    best = grid.least_effort(points, recall)
    document = {
        "source": source,
        "dimension": size,
        "vectors": len(asked),
        "questions": len(asked.questions),
        "recall_wanted": recall,
        "points": points,
        "suggested": best,
    }
    columns = ("m", "ef_construction", "ef_search", "build s", "bytes", "p50 ms", "p95 ms", "recall@10")
    current_output().emit(document, lines=lambda: map(_point_line, points), columns=columns)
    section = "rag.vector_storage.hnsw" if source == GENERATED or source.startswith(f"{FREE_SPACE}-") else "memory.hnsw"
    current_output().note(_asked(len(asked), len(asked.questions), questions))
    current_output().note(_suggestion(best, recall, section))
    return ExitCode.FAILED if best is None else ExitCode.OK


async def _sampled(tenant: Tenant, dimension: int, space: str | None, limit: int) -> tuple[str, list[array[float]]]:
    """Return the id of the space and a sample of it.

    Raises:
        NotFound: the tenant has no such space.
    """
    spaces = [
        one
        for one in await tenant.vectors.index_status()
        if one.dimension == dimension and space in (None, one.space_id)
    ]
    if not spaces:
        what = f"vectors of {dimension} dimensions" if space is None else f"space {space} of {dimension} dimensions"
        raise NotFound(
            f"The tenant `{tenant.id}` has no {what}.",
            hint="`llmspell index status` lists its spaces, --tenant names another tenant; --vectors generates some.",
        )
    largest = max(spaces, key=lambda one: one.vectors).space_id
    return largest, await tenant.vectors.sample(largest, limit=limit)


def _measured(wanted: Grid, asked: Questions, threads: int) -> list[Point]:
    from llmspell.storage.index import grid

    with current_output().progress(grid.rows_to_index(wanted, asked), "Indexing") as bar:
        return list(grid.measure(wanted, asked, threads=threads, progress=bar.advance))


def _point_line(point: Point) -> str:
    return "\t".join(
        (
            str(point.m),
            str(point.ef_construction),
            str(point.ef_search),
            f"{point.build_s:.2f}",
            f"{point.size_bytes}",
            f"{point.p50_ms:.3f}",
            f"{point.p95_ms:.3f}",
            f"{point.recall:.4f}",
        )
    )


def _asked(vectors: int, questions: int, wanted: int) -> str:
    said = f"Measured with {counted(questions, 'question')} against {counted(vectors, 'vector')}"
    return f"{said}: of a small sample a tenth are questions, not {wanted:,}." if questions < wanted else f"{said}."


def _suggestion(best: Point | None, recall: float, section: str) -> str:
    if best is None:
        return f"Nothing reached a recall of {recall}: try larger values, above all of --ef-search."
    return (
        f"Fastest with a recall of at least {recall}: m = {best.m}, ef_construction = {best.ef_construction},"
        f" ef_search = {best.ef_search}. They go into [{section}] of the configuration."
    )
