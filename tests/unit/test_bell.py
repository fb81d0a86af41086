"""The bell: what rings between a listener's look and his wait is heard, whatever others do with it."""

from __future__ import annotations

import asyncio

import pytest

from redurable.worker.bell import Bell

pytestmark = pytest.mark.anyio


async def test_everybody_who_waits_hears_it() -> None:
    bell = Bell()
    waits = [asyncio.create_task(bell.wait(0)) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(wait.done() for wait in waits)
    bell.ring()
    async with asyncio.timeout(5):
        await asyncio.gather(*waits)


async def test_a_ring_before_the_wait_is_heard_also_by_who_was_not_waiting_when_another_was() -> None:
    bell = Bell()
    slow, quick = bell.rings, asyncio.create_task(bell.wait(bell.rings))
    await asyncio.sleep(0)
    bell.ring()
    await quick
    async with asyncio.timeout(5):
        await bell.wait(slow)


async def test_what_was_heard_is_not_heard_again() -> None:
    bell = Bell()
    bell.ring()
    heard = bell.rings
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await bell.wait(heard)
    assert bell.rings == heard
