"""The session of an intent in memory: nobody else is in its line, and its state is a dict of what is stored."""

from __future__ import annotations

import asyncio

from redurable.store.session import Writes

__all__ = ["MemorySession", "save"]


class MemorySession:
    """`redurable.store.session.Session` on a dict, as far as an attempt uses it."""

    def __init__(self, queue: str, key: str, state: dict[str, bytes]) -> None:
        self.queue = queue
        self.key = key
        self.holds = True
        self.writes = Writes()
        self._state = state

    async def read(self, name: str) -> bytes | None:
        """See `Session.read`."""
        await asyncio.sleep(0)
        return self._state.get(name)

    async def names(self) -> list[str]:
        """See `Session.names`."""
        await asyncio.sleep(0)
        return sorted(self._state)


def save(state: dict[str, bytes], writes: list[tuple[int, str, bytes]], kept: int) -> int:
    """Port of lua/_save.lua: make the *writes* after the first *kept* known; return how many are known then."""
    for number, name, value in writes:
        if number > kept:
            if value:
                state[name] = value
            else:
                state.pop(name, None)
    return max([kept, *(number for number, _, _ in writes)])
