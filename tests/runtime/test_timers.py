"""The loop of timers: whatever the machine's clock does, and whatever one of them is, the others fire in time."""

from __future__ import annotations

import asyncio
import time

import pytest

from redurable import clock
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


async def test_a_clock_that_is_set_back_holds_no_timer_back(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(payload: int) -> int:
        return payload

    await w.serve(main)
    assert await w.call(1, delay=0.1) == 1
    monkeypatch.setattr(clock, "_reader", lambda: time.time_ns() // 1_000_000 - 3_600_000)
    assert await w.call(2, delay=0.1) == 2


async def test_one_that_cannot_be_fired_keeps_no_other_waiting(w: World) -> None:
    """Its journal is a later release's: what it owes its children cannot be told."""

    async def main(payload: int) -> int:
        return payload

    worker = await w.serve(main)
    intent, keys, mux = await w.send(1), w.store.keys[0], w.store.mux
    assert await w.result(intent) == 1
    await mux.command("RPUSH", keys.journal(intent), b"\x92\x7f\x01")
    await mux.command("HSET", keys.head(intent), "owes", 1)
    await mux.command("ZADD", keys.timers, 1, intent)
    worker.bulletins[keys.timers].ring()
    assert await w.call(2, delay=0.5) == 2
    told = await w.event("timer.failed")
    assert told["intent"] == intent
    await mux.command("HDEL", keys.head(intent), "owes")
    await mux.command("ZADD", keys.timers, 1, intent)
    async with asyncio.timeout(5):
        while await mux.command("ZSCORE", keys.timers, intent):
            worker.bulletins[keys.timers].ring()
            await asyncio.sleep(0.05)
