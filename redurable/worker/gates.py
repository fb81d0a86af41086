"""
Which of a worker's queues are paused, or give their fresh work to another version, and the moment that changes.

Both are stored; a change is told on the bulletin, and looked up again after every reconnect, when a message may have
been missed. Consumers read the streams of open queues only, and begin anew when `turned` is set: what a worker does
for an intent is the same whether or not there are paused queues and versions. What is known here of versions spares
reads; the claim looks again, and decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from redurable.events import emit
from redurable.store.keeper import Keeper
from redurable.store.store import Store

__all__ = ["QUEUES", "Gates", "deploy"]

QUEUES = b"queues"  # what is published when a queue is paused or resumed, or has another current version


class Gates:
    """The gates of one worker of *version*; `turned` is set once, when they are no longer as they were."""

    def __init__(self, version: str = "") -> None:
        self.version = version
        self.closed: frozenset[str] = frozenset()
        self.foreign: frozenset[str] = frozenset()
        self.gated = bool(version)  # whether the claim has to look which version is current
        self.turned = asyncio.Event()

    async def look(self, store: Store, queues: Collection[str], worker: str) -> None:
        """Read which of *queues* are paused now, and which have another current version."""
        keys = store.keys[0]
        asked = store.mux.command("SMEMBERS", keys.paused)
        fields = [field for queue in queues for field in (queue, f"{queue}/")]
        found = [raw.decode() if raw else None for raw in await store.mux.command("HMGET", keys.versions, *fields)]
        current = {q: promoted or newest for q, newest, promoted in zip(queues, found[::2], found[1::2], strict=True)}
        foreign = frozenset(queue for queue, version in current.items() if version not in (None, self.version))
        closed = frozenset(raw.decode() for raw in await asked).intersection(queues)
        gated = bool(self.version) or any(current.values())
        if (closed, foreign, gated) != (self.closed, self.foreign, self.gated):
            self.closed, self.foreign, self.gated = closed, foreign, gated
            turned, self.turned = self.turned, asyncio.Event()
            turned.set()
            emit("queues.turned", worker=worker, paused=sorted(closed), elsewhere=sorted(foreign))


async def deploy(keepers: Iterable[Keeper], queues: Collection[str]) -> None:
    """Make the version of *keepers* known for *queues*, in the order of their first coming; nothing without one."""
    await asyncio.gather(*(k.deploy(queue) for k in keepers if k.version for queue in queues))
