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

from redurable.events import emit
from redurable.store import schedules
from redurable.store.keeper import Keeper

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["reconcile"]

_PAGE = 200
_SLOW = 5.0
_HOUR = 3600.0
_FAST = 0.05
_SETTLED = 1.0
_OPEN = {b"CREATED", b"SUBMITTED", b"IN_PROGRESS", b"WAITING"}


async def reconcile(worker: Worker, keeper: Keeper) -> None:
    """Mend until the worker stops."""
    mux, prefix = worker.store.mux, keeper.keys.head_prefix
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
            await keeper.open([s for q in worker.queues for s in keeper.streams_of(q)[0]])
            worker.suspects.ring()  # a message may have been missed
            await schedules.mend(worker.store)
        cursor, keys = await mux.command("SCAN", cursor, "MATCH", prefix + "*", "COUNT", _PAGE)
        states = await asyncio.gather(*(mux.command("HGET", key, "status") for key in keys))
        open_ones = [k.decode()[len(prefix) :] for k, s in zip(keys, states, strict=True) if s in _OPEN]
        words = await asyncio.gather(*(keeper.mend(intent) for intent in open_ones))
        if mended := words.count("MENDED"):
            emit("intents.mended", count=mended)
        if cursor == b"0":
            hurry = False
