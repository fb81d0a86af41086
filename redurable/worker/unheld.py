"""
What was delivered to this process and reached nobody in it: the reply of a blocking read that was lost on its way.

Such an entry stays in our pending list, and no other process may touch it while we live. An entry that no attempt
holds at two looks in a row, and that nothing has renewed for a second, is handed back, uncounted. Looked at with every
renewal, and oftener for some seconds after any of our connections was made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from redurable.clock import monotonic
from redurable.errors import StoreError
from redurable.events import emit
from redurable.store.keeper import Keeper, Pending

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["unheld"]

_OFTEN = 0.4
_DISTURBED = 3.0  # s for which a new connection makes us look oftener
_CALM = 3600.0  # `overdue` sees what is pending, ours too, and ends the calm
_IDLE_MS = 1000


async def unheld(worker: Worker, keeper: Keeper) -> None:
    """Hand back what nobody here holds until cancelled: a worker that drains reads nothing more, but may for long."""
    before: set[tuple[str, bytes]] = set()
    looked, pace = monotonic(), worker.pace.parts[keeper.keys.partition]
    while True:
        await pace.wait(_OFTEN, _CALM)
        now = monotonic()
        quiet = now - worker.disturbed_at > _DISTURBED and not worker.stopping.is_set()
        if quiet and now - looked < worker.settings.lease / 4:
            continue
        looked = now
        found = await _unheld(worker, keeper)
        back = [entry for entry in found if (entry.stream, entry.entry) in before]
        before = {(entry.stream, entry.entry) for entry in found}
        if back:
            words = await asyncio.gather(*(keeper.recover(entry, counted=False) for entry in back))
            emit("entries.returned", worker=worker.id, count=words.count("OK"))


async def _unheld(worker: Worker, keeper: Keeper) -> list[Pending]:
    found: list[Pending] = []
    for queue in worker.queues:
        lanes, alone = keeper.streams_of(queue)
        for stream in (*lanes, *alone):
            last = None
            with contextlib.suppress(StoreError):  # no group there yet
                while page := await keeper.pending(stream, owner=worker.id, idle=_IDLE_MS, behind=last):
                    found += page
                    last = page[-1]
    held = {(a.lease.stream, a.lease.entry) for a in worker.attempts.values()}
    return [entry for entry in found if (entry.stream, entry.entry) not in held]
