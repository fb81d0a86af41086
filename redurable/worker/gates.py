"""
Which of a worker's queues are paused, and the moment in which that changes.

It is stored; a change is told on the bulletin, and looked up again after every reconnect, when a message may have been
missed. Consumers read the streams of open queues only, and begin anew when `turned` is set: what a worker does for an
intent is the same whether or not there are paused queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from redurable.events import emit
from redurable.store.store import Store

__all__ = ["QUEUES", "Gates"]

QUEUES = b"queues"  # what is published when a queue is paused or resumed


class Gates:
    """The gates of one worker; `turned` is set once, when `closed` is no longer as it was."""

    def __init__(self) -> None:
        self.closed: frozenset[str] = frozenset()
        self.turned = asyncio.Event()

    async def look(self, store: Store, queues: Iterable[str], worker: str) -> None:
        """Read which of *queues* are paused now."""
        names = await store.mux.command("SMEMBERS", store.keys[0].paused)
        closed = frozenset(raw.decode() for raw in names).intersection(queues)
        if closed != self.closed:
            self.closed, turned, self.turned = closed, self.turned, asyncio.Event()
            turned.set()
            emit("queues.turned", worker=worker, paused=sorted(closed))
