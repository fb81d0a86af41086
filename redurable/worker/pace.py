"""
How closely a process looks after the others: closely while anybody holds an intent, seldom while nobody does.

Nobody can lose what nobody holds, so looking then is only a safety net, and an idle worker costs its server next to
nothing; neither does a busy one in the partitions that have nothing: each has a pace of its own. A process that begins
to work says so on the partition's bulletin within a tenth of a second, and everyone looks closely from there on, until
a look at all pending lists finds them empty. Invariant: a process is calm only while no stir came since the look began
that found nothing; whatever may hide work (a new connection, a new server, an alarm) is a stir, and so is what the
process itself begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from redurable.clock import boottime, monotonic

if TYPE_CHECKING:
    from redurable.worker.worker import Worker

__all__ = ["BUSY", "Pace", "beat", "tell_busy"]

BUSY = b"busy"  # what a process publishes that begins to work
_BEAT = 0.1


class Pace:
    """The pace of one process in each of its partitions (`parts`), and as a whole: calm when all of them are."""

    def __init__(self, partitions: int = 0, whole: Pace | None = None) -> None:
        self.parts = [Pace(whole=self) for _ in range(partitions)]
        self.stirs = 0
        self._whole = whole
        self._stirred = asyncio.Event()
        self._stirred.set()

    @property
    def calm(self) -> bool:
        """Whether nobody holds anything there, as far as this process knows."""
        return not self._stirred.is_set()

    def stir(self) -> None:
        """Look closely from now on: somebody works, or something changed that may hide it."""
        for one in (self, *self.parts, *([self._whole] if self._whole else [])):
            one.stirs += 1
            one._stirred.set()

    def found_empty(self, stirs: int) -> None:
        """The pending lists of this part were all empty at a look that began when there had been *stirs* stirs."""
        if stirs == self.stirs:
            self._stirred.clear()
            if self._whole and all(part.calm for part in self._whole.parts):
                self._whole._stirred.clear()

    async def wait(self, close: float, calm: float, also: Callable[[], Awaitable[None]] | None = None) -> bool:
        """
        Wait *close* seconds, or at a calm pace *calm* seconds or until the next stir; return whether all was calm.

        The end of *also* ends the wait early at a close pace.
        """
        calmly = self.calm
        try:
            async with asyncio.timeout(calm if calmly else close):
                await (self._stirred.wait() if calmly else asyncio.sleep(close) if also is None else also())
        except TimeoutError:
            return calmly and self.calm
        return False


def tell_busy(worker: Worker, partition: int) -> None:
    """Have everybody look closely after *partition*, where *worker* works."""
    worker.pace.parts[partition].stir()
    worker.store.mux.command("PUBLISH", worker.store.keys[partition].timers, BUSY)


async def beat(worker: Worker) -> None:
    """
    Show, until cancelled, that the loop turns, and tell the others where this process begins to work.

    Between two beats the loop reads every socket, so what it reads now came after the beat before the last (`heard`),
    however long the process has stood still in between.
    """
    told, last = set[int](), boottime()
    while True:
        worker.heartbeat = monotonic()
        worker.heard, last = last, boottime()
        busy = {attempt.lease.partition for attempt in worker.attempts.values()}
        for partition in busy - told:
            tell_busy(worker, partition)  # others may be calm although we are not
        told = busy
        await asyncio.sleep(_BEAT)
