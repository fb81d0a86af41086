"""A worker that is not ready for work before the file `ready` is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from redurable import handler, lifespan, sleep
from tests.telemetry.bakery import ROOM


@lifespan
async def warm() -> AsyncIterator[None]:
    while not (ROOM / "ready").exists():
        await asyncio.sleep(0.02)
    yield


@handler(queue="late")
async def late(n: int) -> int:
    await sleep(n)
    return n
