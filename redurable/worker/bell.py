"""
A bell that any number of loops of a process listen to.

A listener remembers how often it had rung when he last looked at what it stands for. Invariant: a ring between that
look and the wait for the next one ends the wait at once, whatever the other listeners do meanwhile (an event that one
of them clears would be lost to those that were not waiting just then).
"""

from __future__ import annotations

import asyncio

__all__ = ["Bell"]


class Bell:
    """Rings for everybody; `rings` is how often it did."""

    def __init__(self) -> None:
        self.rings = 0
        self._next = asyncio.Event()

    def ring(self) -> None:
        """End the waits of all listeners."""
        self.rings += 1
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self, heard: int) -> None:
        """Return once it has rung more than *heard* times."""
        if self.rings == heard:
            await self._next.wait()
