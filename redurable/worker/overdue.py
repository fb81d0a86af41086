"""
The third detector: leases that ran out. It catches hung hosts and cut cables, which leave their sockets open.

An entry that is overdue is only noted; it is taken at a second look one lease later on this process's own clock, if
no reconnect lay between: a frozen or restarted server makes everybody look idle. Invariant: nothing is taken within two
leases of its last renewal; its owner begins nothing by then (`runtime.threshold`). Since this looks at every pending
list of the partition, it is also what tells the process that nobody holds anything there (`pace`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redurable.clock import monotonic
from redurable.errors import StoreError
from redurable.events import emit
from redurable.store.keeper import Keeper

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["overdue"]

_CALM = 30.0
_FEW = 12  # streams that a calm look sees, in turn: what it costs does not grow with their number


async def overdue(worker: Worker, keeper: Keeper) -> None:
    """Take overdue entries until the worker stops."""
    lease, pace = worker.settings.lease, worker.pace.parts[keeper.keys.partition]
    seen: dict[tuple[str, bytes, str], float] = {}
    connects, turn = worker.store.mux.connects, 0
    while not worker.stopping.is_set():
        calm = await pace.wait(lease / 4, max(_CALM, lease))
        stirs, held = pace.stirs, 0
        if worker.store.mux.connects != connects or not worker.may_judge():
            connects = worker.store.mux.connects
            seen.clear()
            continue
        now, still = monotonic(), {}
        streams = await keeper.all_streams()
        if calm:
            turn += _FEW
            streams = [streams[(turn + i) % len(streams)] for i in range(min(_FEW, len(streams)))]
        for stream in streams:
            try:
                if not (pending := await keeper.held(stream)):
                    continue
                held += pending
                found = await keeper.pending(stream, idle=int(lease * 1000))
            except StoreError:
                continue  # no group there yet
            for entry in found:
                key = (stream, entry.entry, entry.owner)
                first = seen.get(key, now)
                if now - first < lease or entry.idle < 2000 * lease:
                    still[key] = first
                    continue
                word, queue = await keeper.recover(entry), keeper.keys.lane_of(stream)[0]
                emit("lease.overdue", worker=entry.owner, queue=queue, word=word, seconds=entry.idle / 1000)
        seen = still
        if held and calm:
            pace.stir()
        elif not held and not calm:
            pace.found_empty(stirs)
