"""The spaces of one process, within one limit of bytes; the least recently searched leave first. Safe to share between threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

from llmspell.storage.index.blocks import Positions
from llmspell.storage.index.space import Heavy, Source, Space, View

SPACES_MAX: Final = 10_000


class SpaceCache:
    """Spaces by any key."""

    def __init__(
        self,
        max_bytes: int,
        *,
        begin: Callable[[Hashable, Space, Source], None] | None = None,
        gone: Callable[[Hashable], None] = lambda key: None,
    ) -> None:
        """`begin` fills a space that is new here as far as it can, before the rows are read; `gone` is told of one that left."""
        self.max_bytes = max_bytes
        self._begin = begin
        self._gone = gone
        self._spaces: OrderedDict[Hashable, Space] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._total = 0
        self._lock = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """What all spaces take, as they were when they were last looked at."""
        return self._total

    def __len__(self) -> int:
        return len(self._spaces)

    def get(self, key: Hashable) -> Space | None:
        """Return a space that is here."""
        return self._spaces.get(key)

    def space(self, key: Hashable, dimension: int) -> Space:
        """Return a space, and keep it for a while."""
        with self._lock:
            space = self._spaces.get(key)
            if space is None:
                space = self._spaces[key] = Space(dimension)
            self._spaces.move_to_end(key)
        return space

    def drop(self, key: Hashable) -> None:
        """Let a space go."""
        with self._lock:
            known = self._pop(key)
        if known:
            self._gone(key)

    def view(
        self,
        key: Hashable,
        source: Source,
        choose: Callable[[Space, View], Positions | None] | None = None,
        *,
        light: bool = False,
    ) -> tuple[View | None, Positions | None]:
        """Return the rows that the source's snapshot sees, and which of them `choose` says, ascending (None: all).

        No view: the space is ahead of the snapshot and cannot go back, or is larger than the whole cache.

        Raises:
            Heavy: `light` was asked for, and rows would have to be read, or somebody waited for.
        """
        space = self.space(key, source.dimension)
        if not space.lock.acquire(blocking=not light):
            raise Heavy
        try:
            if light and not space.is_current(source):
                raise Heavy
            if space.version is None and self._begin is not None:
                self._begin(key, space, source)
            view = space.view(source, self.max_bytes)
            chosen = choose(space, view) if choose is not None and view is not None else None
            size = space.size_bytes
        finally:
            space.lock.release()
        if size != self._sizes.get(key):
            self._weigh(key, size)
        return view, chosen

    def _weigh(self, key: Hashable, size: int) -> None:
        """Note what a space takes, and let others go when that is too much."""
        left: list[Hashable] = []
        with self._lock:
            if key in self._spaces:
                self._total += size - self._sizes.get(key, 0)
                self._sizes[key] = size
            while (self._total > self.max_bytes or len(self._spaces) > SPACES_MAX) and len(self._spaces) > 1:
                oldest = next(iter(self._spaces))
                if oldest == key:
                    self._spaces.move_to_end(key)
                    continue
                self._pop(oldest)
                left.append(oldest)
        for one in left:
            self._gone(one)

    def _pop(self, key: Hashable) -> bool:
        """Forget a space, and say whether it was here. The lock is held."""
        self._total -= self._sizes.pop(key, 0)
        return self._spaces.pop(key, None) is not None
