"""
How closely a process looks after the others: closely while anybody holds an intent, seldom while nobody does.

Nobody can lose what nobody holds, so looking then is only a safety net, and an idle worker costs its server next to
nothing. A process that begins to work says so on the partition's bulletin within a tenth of a second, and everyone
looks closely from there on, until a look at all pending lists finds them empty. Invariant: a process is calm only
while no stir came since the look began that found nothing; whatever may hide work (a new connection, a new server, an
alarm) is a stir.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["BUSY", "Pace"]

BUSY = b"busy"  # what a process publishes that begins to work


class Pace:
    """The pace of one process, which serves *partitions* partitions."""

    def __init__(self, partitions: int) -> None:
        self.stirs = 0
        self._empty: set[int] = set()
        self._partitions = partitions
        self._stirred = asyncio.Event()
        self._stirred.set()

    @property
    def calm(self) -> bool:
        """Whether nobody holds anything, as far as this process knows."""
        return not self._stirred.is_set()

    def stir(self) -> None:
        """Look closely from now on: somebody works, or something changed that may hide it."""
        self.stirs += 1
        self._empty.clear()
        self._stirred.set()

    def found_empty(self, partition: int, stirs: int) -> None:
        """The pending lists of *partition* were all empty at a look that began when there had been *stirs* stirs."""
        if stirs == self.stirs:
            self._empty.add(partition)
            if len(self._empty) == self._partitions:
                self._stirred.clear()

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
