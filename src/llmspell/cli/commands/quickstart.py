"""`llmspell quickstart`: the main job from end to end, on a sample or on a conversation of the user's own.

Not here: the story (`cli.telling`), its looks (`cli.story`), the store it is told on (`ops.story_store`).
"""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from llmspell.cli.output import Output, command, current_options, current_output
from llmspell.cli.session import current_settings
from llmspell.ops.story_store import StoryBackend, StoryStore, story_store

if TYPE_CHECKING:
    from llmspell.cli.telling import Story
    from llmspell.providers.embedder import Embedder
    from llmspell.settings import Settings

PROGRESS_FROM = 200
"""Fewer memories are kept before anybody would wonder."""


@command()
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--backend", type=click.Choice(get_args(StoryBackend)), help="Where it is told; default: a fresh file.")
def quickstart(file: Path | None, backend: StoryBackend | None) -> None:
    """See the whole product work on a sample, in a minute.

    It keeps a conversation of several weeks, searches it by meaning and by word, asks the facts as of two instants and
    as known at two instants, assembles a context within a token budget, and measures all of it.

    FILE is a conversation of your own, in the form that `llmspell add --from` reads. The store is made for the story
    and replaced by the next run; with --store it is yours, and the story goes to a tenant of its own.
    """
    from llmspell.cli.telling import read_story
    from llmspell.directories import directories

    output, settings = current_output(), current_settings()
    story = read_story(file)
    embedder = story_embedder(settings)  # before a store is made: without a model there is nothing to show
    with story_store(
        backend,
        named=current_options().store,
        settings=settings,
        data_folder=directories().data,
        announce=output.note,
    ) as place:
        document = asyncio.run(_tell(story, place, embedder, output))
    from llmspell.cli.story import draw

    output.emit(document, render=lambda console: draw(console, document), render_in_pipes=True)


def story_embedder(settings: Settings) -> Embedder:
    """Open the configured embedder without its cache; the local model where the configured one knows no meaning.

    Raises:
        MissingExtra, ModelMissing: what is missing, and the command that brings it.
    """
    from llmspell.providers.configured import open_configured

    chosen = settings.embedding
    if chosen.provider == "hashing":
        chosen = msgspec.structs.replace(chosen, provider="local", model=None, dimensions=None)
    chosen = msgspec.structs.replace(chosen, cache=msgspec.structs.replace(chosen.cache, enabled=False))
    return open_configured(chosen)


async def _tell(story: Story, place: StoryStore, embedder: Embedder, output: Output) -> dict[str, Any]:
    import llmspell
    from llmspell.cli.telling import Teller
    from llmspell.clock import ManualClock, SystemClock
    from llmspell.settings import load_settings

    options = current_options()
    settings = load_settings(options.config, overrides={"storage.url": place.url, **place.overrides})
    clock = ManualClock(SystemClock().now())
    name = options.tenant or ("default" if place.own else f"quickstart-{clock.now():%Y-%m-%d-%H%M%S}")
    async with llmspell.connect(place.url, settings=settings, embedder=embedder, clock=clock) as spell:
        await spell.tenants.create(name, exist_ok=True)
        with output.progress(len(story.items) if len(story.items) >= PROGRESS_FROM else 0, "Keeping") as bar:
            done = 0

            def progress(count: int) -> None:
                nonlocal done
                bar.advance(count - done)
                done = count

            told = await Teller(spell.tenant(name), story, clock=clock, embedder=embedder).tell(progress=progress)
    store = {
        "backend": place.backend,
        "url": place.shown_url,
        "kept": place.kept,
        "where": place.where,
        "tenant": name,
        "file": place.file,
        "size_bytes": place.file.stat().st_size if place.file else None,
    }
    return {"store": store, **told, "next": _next(story, place, name)}


def _next(story: Story, place: StoryStore, tenant: str) -> list[str]:
    """Return commands that work on the store just made; where it is gone, those that make one to keep."""
    if not place.kept:
        return [
            "llmspell quickstart",
            "llmspell init",
            "llmspell add 'I prefer tea.' --role Ada",
            "llmspell search tea",
        ]
    quoted = shlex.quote
    commands = []
    if current_options().store is not None or current_settings().storage.url != place.url:
        hidden = place.shown_url != place.url
        commands.append(
            "# with the URL of your store in LLMSPELL_STORAGE__URL:"
            if hidden
            else f"export LLMSPELL_STORAGE__URL={quoted(place.url)}"
        )
    commands += [f"export LLMSPELL_TENANT_ID={quoted(tenant)}"] if tenant != "default" else []
    commands.append(f"llmspell search {quoted(story.questions[0].text)} --explain")
    if story.times is not None:
        times = story.times
        commands.append(
            f"llmspell graph show {quoted(times.subject)} --predicate {times.predicate}"
            f" --as-of {times.as_of[-1]} --known-at {times.known_at[0]}"
        )
    commands.append(f"llmspell context {quoted(story.context.text)} --max-tokens 200 --explain")
    commands.append("llmspell add 'The story goes on.' --session mine --role me")
    return commands
