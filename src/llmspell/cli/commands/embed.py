"""`llmspell embed --pending`: compute the embeddings that memories still wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llmspell.cli.output import async_command, command, current_output
from llmspell.cli.problems import ExitCode
from llmspell.cli.session import open_tenant
from llmspell.codec import LIMIT_MAX, require_limit

if TYPE_CHECKING:
    from llmspell.spell import Tenant

PENDING_MAX = 1_000_000
DEFAULT_LIMIT = 1_000
PAGES_MAX = 100_000
"""Pages of 1,000 memories that are looked through for pending ones."""


@command()
@click.option(
    "--pending", is_flag=True, help="The memories that were kept while the embedder failed, or in a transaction."
)
@click.option("--limit", type=int, default=DEFAULT_LIMIT, show_default=True, help="How many at most, 1 to 1,000,000.")
@click.option("--dry-run", is_flag=True, help="Count them, compute nothing.")
@async_command
async def embed(pending: bool, limit: int, dry_run: bool) -> ExitCode:
    """Compute embeddings that are still pending.

    Call it again while some are left: a memory that is changed meanwhile is embedded by whoever changed it.
    """
    if not pending:
        raise click.UsageError("say what to embed: --pending")
    require_limit(limit, maximum=PENDING_MAX)
    output = current_output()
    async with open_tenant() as tenant:
        waiting = await count_pending(tenant)
        wanted, done = min(waiting, limit), 0
        if not dry_run:
            with output.progress(wanted, "Embedding") as bar:

                def progress(count: int) -> None:
                    nonlocal done
                    bar.advance(count - done)
                    done = count

                done = await tenant.memory.embed_pending(limit=limit, progress=progress) if wanted else 0
        left = waiting - done
    document = {"pending": waiting, "embedded": done, "left": left, "dry_run": dry_run}
    said = f"{waiting:,} pending; nothing was computed" if dry_run else f"{done:,} embedded, {left:,} left"
    output.emit(document, lines=lambda: [said])
    return ExitCode.OK if dry_run or done >= wanted else ExitCode.FAILED


async def count_pending(tenant: Tenant) -> int:
    """Count a tenant's memories whose embedding is pending, page by page."""
    count, cursor = 0, None
    for _ in range(PAGES_MAX):
        page = await tenant.memory.list(order="created_at", cursor=cursor, limit=LIMIT_MAX)
        count += sum(record.embedding_state == "pending" for record in page.items)
        cursor = page.next_cursor
        if cursor is None:
            break
    return count
