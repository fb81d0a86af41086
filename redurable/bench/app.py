"""The handlers that the suite's workers run: a no-op, one step, many steps, timed steps, and one to be killed."""

from __future__ import annotations

import asyncio
import os
import time

from redurable.bench.floor import Floor
from redurable.runtime.calls import current
from redurable.runtime.handlers import handler
from redurable.runtime.promises import promise
from redurable.runtime.scope import current_scope
from redurable.runtime.steps import step

__all__ = ["PAYLOAD", "RESULT", "floor", "killed", "noop", "one_step", "steps", "timed", "waits"]

# 200 bytes as MessagePack, two of them the header
PAYLOAD = "p" * 198
RESULT = "r" * 198


@step
async def work() -> str:
    """Do nothing, with a result."""
    return RESULT


@handler(queue="bench.noop")
async def noop(payload: str) -> int:
    """Do nothing; the result is kept."""
    return len(payload)


@handler(queue="bench.one")
async def one_step(payload: str) -> str:
    """Make one step."""
    return await work()


@handler(queue="bench.steps")
async def steps(count: int) -> int:
    """Make *count* steps, one after another."""
    for _ in range(count):
        await work()
    return count


@handler(queue="bench.timed")
async def timed(count: int) -> tuple[list[float], list[float]]:
    """Make *count* steps, a bare call of this worker's connection before each; return ms of the calls and the steps."""
    return await floor().beside(count, work)


@handler(queue="bench.waits")
async def waits(payload: str) -> float:
    """Wait for a promise; return when it went on."""
    await promise("go", int)
    return time.time()


def floor() -> Floor:
    """Return the floor of the worker that runs the handler, on its own connection."""
    scope = current_scope("the floor")
    assert scope is not None
    store = scope.attempt.lease.store
    return Floor(store.mux, f"{store.namespace}:floor")


@step
async def begin() -> int:
    """Tell which process is at work."""
    return os.getpid()


@step
async def go_on() -> float:
    """Hang in the first attempt; in a later one tell when it began."""
    if current().attempt == 1:
        await asyncio.sleep(600)
    return time.time()


@handler(queue="bench.killed")
async def killed(_: None) -> float:
    """Hang in the second step until the process is killed; return when the next attempt reached that step."""
    await begin()
    return await go_on()
