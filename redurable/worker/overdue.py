"""
The third detector: leases that ran out. It catches hung hosts and cut cables, which leave their sockets open.

An entry that is overdue is only noted; it is taken at a second look one lease later on this process's own clock, if
no reconnect lay between: a frozen or restarted server makes everybody look idle.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from redurable.clock import monotonic
from redurable.errors import StoreError
from redurable.events import emit
from redurable.store.keeper import Keeper

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["overdue"]


async def overdue(worker: Worker, keeper: Keeper) -> None:
    """Take overdue entries until the worker stops."""
    lease = worker.settings.lease
    seen: dict[tuple[str, bytes, str], float] = {}
    connects = worker.store.mux.connects
    while not worker.stopping.is_set():
        await asyncio.sleep(lease / 4)
        if worker.store.mux.connects != connects or not worker.may_judge():
            connects = worker.store.mux.connects
            seen.clear()
            continue
        now, still = monotonic(), {}
        for stream in await keeper.all_streams():
            try:
                found = await keeper.pending(stream, idle=int(lease * 1000))
            except StoreError:
                continue  # no group there yet
            for entry in found:
                key = (stream, entry.entry, entry.owner)
                first = seen.get(key, now)
                if now - first < lease:
                    still[key] = first
                    continue
                word = await keeper.recover(entry)
                emit("lease.overdue", worker=entry.owner, stream=stream, word=word)
        seen = still
