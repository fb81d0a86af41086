"""
The reconciler: walks all heads, slowly and always, and re-adds what a lost write took from an open intent.

A failover or a restart may lose an entry, a timer, a group; after a change of the server it walks faster.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redurable.clock import monotonic
from redurable.events import emit
from redurable.store.keeper import Keeper

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["reconcile"]

_PAGE = 200
_SLOW = 5.0
_FAST = 0.05
_OPEN = {b"CREATED", b"SUBMITTED", b"IN_PROGRESS", b"WAITING"}


async def reconcile(worker: Worker, keeper: Keeper) -> None:
    """Mend until the worker stops."""
    mux, prefix = worker.store.mux, keeper.keys.head_prefix
    cursor: bytes = b"0"
    connects, hurry = mux.connects, 0
    while not worker.stopping.is_set():
        if mux.connects != connects:
            connects, cursor, hurry = mux.connects, b"0", 1
        await asyncio.sleep(_FAST if hurry and monotonic() >= worker.quiet_until - 4.0 else _SLOW)
        cursor, keys = await mux.command("SCAN", cursor, "MATCH", prefix + "*", "COUNT", _PAGE)
        states = await asyncio.gather(*(mux.command("HGET", key, "status") for key in keys))
        open_ones = [k.decode()[len(prefix) :] for k, s in zip(keys, states, strict=True) if s in _OPEN]
        words = await asyncio.gather(*(keeper.mend(intent) for intent in open_ones))
        if mended := words.count("MENDED"):
            emit("intents.mended", count=mended)
        if cursor == b"0":
            hurry = 0
