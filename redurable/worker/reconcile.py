"""
The reconciler: walks all heads, slowly and always, and re-adds what a lost write took from an open intent.

A failover or a restart may lose an entry, a timer, a group; after a reconnect, or when a group was found missing, it
walks once at speed. What it opens and mends is already as it should be, nearly always: nothing is written then.
While nobody holds anything on an unchanged server nothing moves, and it stands still but for an hourly walk.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial
from typing import TYPE_CHECKING

from redurable.errors import StoreError, StoreUnavailable
from redurable.events import emit
from redurable.store import schedules
from redurable.store.keeper import Keeper
from redurable.store.walk import legible, scan

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["reconcile"]

_PAGE = 200
_SLOW = 5.0
_HOUR = 3600.0
_FAST = 0.05
_SETTLED = 1.0
_OPEN = {b"CREATED", b"SUBMITTED", b"IN_PROGRESS", b"WAITING"}


async def reconcile(worker: Worker, keepers: list[Keeper]) -> None:
    """Mend until the worker stops; one walk serves all partitions."""
    store, mux = worker.store, worker.store.mux
    cursor: bytes = b"0"
    connects, alarms, hurry = mux.connects, worker.alarmed.rings, False
    while not worker.stopping.is_set():
        if hurry:
            await asyncio.sleep(_FAST)
        elif await worker.pace.wait(_SLOW, _HOUR * (0.5 + random.random()), partial(worker.alarmed.wait, alarms)):
            cursor, hurry = b"0", True
        elif worker.pace.calm:
            continue
        if mux.connects != connects or worker.alarmed.rings != alarms:
            # others and what they still have on its way come back first
            await asyncio.sleep(_SETTLED)
            connects, alarms, cursor, hurry = mux.connects, worker.alarmed.rings, b"0", True
        if cursor == b"0":
            for keeper in keepers:
                await keeper.open([s for q in worker.queues for s in keeper.streams_of(q)[0]])
            worker.suspects.ring()  # a message may have been missed
            await schedules.mend(store)
        cursor, places = await scan(store, cursor, "i:", count=_PAGE)
        asked = [legible(mux.command("HGET", store.keys[p].head(i), "status")) for p, i in places]
        states = await asyncio.gather(*asked)
        open_ones = [place for place, state in zip(places, states, strict=True) if state in _OPEN]
        words = await asyncio.gather(*(_mend(worker, keepers[partition], intent) for partition, intent in open_ones))
        if mended := words.count("MENDED"):
            emit("intents.mended", count=mended)
        if cursor == b"0":
            hurry = False


async def _mend(worker: Worker, keeper: Keeper, intent: str) -> str:
    try:
        return await keeper.mend(intent)
    except StoreUnavailable:
        raise
    except StoreError as error:  # something else wrote to its keys: the others are mended all the same
        emit("loop.failed", worker=worker.id, loop="reconcile", error=error)
        return "STALE"
