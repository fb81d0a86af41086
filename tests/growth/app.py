"""The handlers of the growth run's workers; GROWTH_QUEUES (default 1) tells on how many queues the no-op is served."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from redurable import handler, promise, step


@step
async def work(i: int) -> int:
    """Do nothing, with a result."""
    return i


@handler(queue="growth.long")
async def long(count: int) -> int:
    """Make *count* steps, wait for a promise, and end: the second attempt replays all of them."""
    for i in range(count):
        await work(i)
    await promise("go", int)
    return count


@handler(queue="growth.waits")
async def waits(payload: str) -> int:
    """Wait for a promise."""
    return await promise("go", int)


@handler(queue="growth.holds")
async def holds(seconds: float) -> None:
    """Be held by a worker for *seconds*, and ask nothing of the server meanwhile."""
    await asyncio.sleep(seconds)


def _noop() -> Callable[..., Any]:
    async def noop(payload: str) -> int:
        """Do nothing; the result is kept."""
        return len(payload)

    return noop


for number in range(int(os.environ.get("GROWTH_QUEUES", "1"))):
    globals()[f"noop_{number}"] = handler(queue=f"growth.noop.{number}")(_noop())
