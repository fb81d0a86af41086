"""
The raw floor: the bare multiplexer running a script with record's commands and bytes, one item a call.

Whatever the engine does, a step costs this. The fast record of the engine may beat it, since the multiplexer gathers
records of many intents into one call; `gathered` is the floor of that. A single call takes half as long where the
system happens to run server and caller on one core, so `beside` lets the floor and what stands on it take turns.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redurable.store.multiplexer import CHUNK, Multiplexer

__all__ = ["Floor"]

# HMGET of four fields, LLEN, RPUSH, the fence and the count compared: what record does, for one intent
_SCRIPT = b"""
local answers = {}
for i = 0, #KEYS / 2 - 1 do
  local head, journal = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local h = redis.call('HMGET', head, 'status', 'fence', 'base', 'watch')
  if h[2] ~= ARGV[4 * i + 2] or h[1] ~= 'IN_PROGRESS' then return redis.error_reply('ERR fence') end
  if redis.call('LLEN', journal) - h[3] ~= tonumber(ARGV[4 * i + 3]) then return redis.error_reply('ERR count') end
  answers[i + 1] = redis.call('RPUSH', journal, ARGV[4 * i + 4])
end
return answers
"""
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()
_ENTRY = b"e" * 230
_ID = "01234567-89ab-7000-8def-0123456789ab"
_FENCE = "1790000000000000:worker.12345.0123456:1000"


class Floor:
    """The floor of the server that *mux* is connected to, in keys under *prefix*."""

    def __init__(self, mux: Multiplexer, prefix: str) -> None:
        self._mux = mux
        self._prefix = prefix

    async def rate(self, calls: int, tasks: int = 100) -> float:
        """Return calls/s of *tasks* that each await one call after another."""
        return await self._timed(calls, tasks, 1)

    async def gathered(self, calls: int, tasks: int = 100) -> float:
        """Return items/s of the same with as many items a call as the multiplexer would gather."""
        return await self._timed(calls, tasks, CHUNK)

    async def latencies(self, calls: int, rest: Callable[[], float] | None = None) -> list[float]:
        """Return ms of *calls* awaited one after another, each after *rest()* seconds if given: cold, then."""
        ((head, journal),) = await self._places(1)
        took = []
        for k in range(calls):
            if rest is not None:
                await asyncio.sleep(rest())
            begun = time.perf_counter()
            await self._call(head, journal, k)
            took.append((time.perf_counter() - begun) * 1e3)
        await self._mux.command("UNLINK", head, journal)
        return took

    async def beside(self, calls: int, work: Callable[[], Awaitable[Any]]) -> tuple[list[float], list[float]]:
        """Return ms of *calls* awaited calls, and of as many times *work*, by turns in one process."""
        ((head, journal),) = await self._places(1)
        bare, worked = [], []
        for k in range(calls):
            begun = time.perf_counter()
            await self._call(head, journal, k)
            between = time.perf_counter()
            await work()
            worked.append((time.perf_counter() - between) * 1e3)
            bare.append((between - begun) * 1e3)
        await self._mux.command("UNLINK", head, journal)
        return bare, worked

    def _call(self, head: str, journal: str, k: int) -> asyncio.Future[Any]:
        return self._mux.command("EVALSHA", _SHA, 2, head, journal, _ID, _FENCE, k, _ENTRY)

    async def _timed(self, calls: int, tasks: int, items: int) -> float:
        places = await self._places(tasks)
        each = calls // tasks

        async def one(head: str, journal: str) -> None:
            for k in range(each):
                await self._call(head, journal, k)

        async def many(some: list[tuple[str, str]]) -> None:
            keys = [key for place in some for key in place]
            for k in range(each):
                args = (_ID, _FENCE, k, _ENTRY) * len(some)
                await self._mux.command("EVALSHA", _SHA, len(keys), *keys, *args)

        if items == 1:
            work = [one(head, journal) for head, journal in places]
        else:
            work = [many(places[i : i + items]) for i in range(0, tasks, items)]
        begun = time.perf_counter()
        await asyncio.gather(*work)
        took = time.perf_counter() - begun
        await self._mux.command("UNLINK", *[key for place in places for key in place])
        return each * tasks / took

    async def _places(self, count: int) -> list[tuple[str, str]]:
        await self._mux.command("SCRIPT", "LOAD", _SCRIPT)
        mark = secrets.token_hex(4)
        names = [f"{mark}{i:04}" for i in range(count)]
        places = [(f"{self._prefix}:{{0}}:i:{name}", f"{self._prefix}:{{0}}:j:{name}") for name in names]
        heads = [
            self._mux.command(
                "HSET", head, "status", "IN_PROGRESS", "queue", "bench.steps", "created", 1790000000000,
                "at", "c:-/1790000000000-0", "reply", "0123456789ab", "fence", _FENCE, "attempt", 1, "base", 0,
            )
            for head, _ in places
        ]  # fmt: skip
        await asyncio.gather(*heads)
        return places
