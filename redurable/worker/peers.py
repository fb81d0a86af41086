"""
The second detector: processes whose liveness channel has lost its subscribers.

A process subscribes twice (loop and renewal thread) to a channel that nobody publishes to; when it dies its kernel
closes the sockets and the server sees no subscriber within a millisecond. Each worker watches the next two of the ring
of all registered, every 40 ms (every 6 s while nobody holds anything); two misses in a row, and the recover script
asks the server itself before it takes anything. Now and then all are looked at. Nothing is judged for some seconds
after a reconnect or a changed server.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from redurable.clock import monotonic
from redurable.errors import StoreError
from redurable.events import emit
from redurable.store.keeper import Keeper, Pending

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["peers", "recover_worker"]

_EVERY = 0.04
_CALM = 6.0
_RING = 2.5
_WATCHED = 2
_MISSES = 2


async def recover_worker(keepers: list[Keeper], dead: str, *, liveness: bool, counted: bool = True) -> dict[str, int]:
    """
    Take over whatever *dead* holds in the partitions of *keepers*, and forget it; return how often a word was answered.

    The first partition, where all processes are known, comes last: should we die meanwhile, another goes on.
    """
    words: Counter[str] = Counter()
    for keeper in reversed(keepers):
        words += await _recover(keeper, dead, liveness, counted)
    return dict(words)


async def _recover(keeper: Keeper, dead: str, liveness: bool, counted: bool) -> Counter[str]:
    words: Counter[str] = Counter()
    for stream in await keeper.all_streams():
        while found := await _pending(keeper, stream, dead):
            answers = await asyncio.gather(
                *(keeper.recover(entry, liveness=liveness, counted=counted) for entry in found)
            )
            words.update(answers)
            if "ALIVE" in answers or len(found) < 100:
                break
    if not words["ALIVE"]:
        await keeper.dismiss(dead)
    return words


async def _pending(keeper: Keeper, stream: str, owner: str) -> list[Pending]:
    try:
        return await keeper.pending(stream, owner=owner)
    except StoreError:
        return []  # no group: nothing was ever delivered from it


async def peers(worker: Worker, keepers: list[Keeper]) -> None:
    """Watch other processes until the worker stops, and take over what one held in any partition."""
    keys = keepers[0].keys
    misses: dict[str, int] = {}
    missed_at: dict[str, float] = {}
    ring: list[str] = []
    next_look = 0.0
    while not worker.stopping.is_set():
        if monotonic() >= next_look:
            next_look = monotonic() + _RING
            everyone = await _registered(worker)
            ring = _next_of(everyone, worker.id)
            misses = {name: count for name, count in misses.items() if name in everyone}
            watched = everyone
        else:
            watched = ring
        others = [w for w in watched if w != worker.id]
        if others and worker.may_judge():
            counts = await worker.store.mux.command("PUBSUB", "NUMSUB", *(keys.liveness(w) for w in others))
            for name, count in zip(others, counts[1::2], strict=True):
                misses[name] = 0 if count else misses.get(name, 0) + 1
                if misses[name] == 1:
                    missed_at[name] = monotonic()
                    ring = sorted({*ring, name})  # look again soon, whoever watches it
                elif misses[name] >= _MISSES and worker.may_judge():
                    next_look = 0.0
                    misses.pop(name, None)
                    missed = missed_at.pop(name)
                    if name in await _registered(worker):  # else another was faster
                        words = await recover_worker(keepers, name, liveness=True)
                        ms = round((monotonic() - missed) * 1000, 2)
                        emit("worker.lost", worker=name, by="peers", taken=words, ms=ms)
        if any(misses.values()):
            await asyncio.sleep(_EVERY)  # who was not seen once is looked for again at once, at any pace
        else:
            await worker.pace.wait(_EVERY, _CALM)


async def _registered(worker: Worker) -> list[str]:
    fields = await worker.store.mux.command("HKEYS", worker.store.keys[0].workers)
    return sorted({f.decode().rstrip("#") for f in fields})


def _next_of(everyone: list[str], me: str) -> list[str]:
    ring = [w for w in everyone if w > me] + [w for w in everyone if w < me]
    return ring[:_WATCHED]
