"""
How long an intent rests when its owner is killed in the middle of a step, by each way of noticing it.

Timed from the signal to the line in the next attempt that goes on at the failing step: detection, taking the intent
back, claim, replay and the step's start are all in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable

import msgspec

from redurable.bench.bed import Workers
from redurable.bench.report import Row, at_most, row
from redurable.bench.run import Run
from redurable.client import Client
from redurable.errors import RedurableError
from redurable.model import StepDone

__all__ = ["recovery"]

LEASE = 1.0
_ACQUAINTED = 2.7  # s after which processes know of each other
_YOUNG = 10.0  # s of the server's life in which nobody is taken for dead

_Blow = Callable[[Workers, int], None]


async def recovery(run: Run) -> list[Row]:
    """kill -9 of a child, kill -9 of a whole worker, and a process that only stands still."""
    kills = run.sizes.kills
    by_parent = [await _once(run, _kill_child, processes=(2,)) for _ in range(kills)]
    by_peers = [await _once(run, _kill_all, processes=(1, 1)) for _ in range(kills)]
    by_lease = [await _once(run, _freeze, processes=(1, 1), lease=LEASE) for _ in range(run.sizes.freezes)]
    rows = [
        row("recovery after kill -9, by its parent", "ms", by_parent, target=at_most(100.0)),
        row("recovery after kill -9, by its peers", "ms", by_peers, target=at_most(250.0)),
    ]
    if by_lease:
        rows.append(row(f"recovery after SIGSTOP, by a lease of {LEASE:g} s", "ms", by_lease))
    return rows


def _kill_child(_: Workers, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _kill_all(workers: Workers, _: int) -> None:
    workers.signal(signal.SIGKILL, parent=True)


def _freeze(workers: Workers, _: int) -> None:
    workers.signal(signal.SIGSTOP, parent=True)


async def _once(run: Run, strike: _Blow, *, processes: tuple[int, ...], lease: float = 10.0) -> float:
    """Return ms from the blow to the next attempt at the step."""
    async with contextlib.AsyncExitStack() as stack:
        namespace = await stack.enter_async_context(run.bed.namespace())
        # before the workers end: a killed one may be replaced meanwhile
        client = await stack.enter_async_context(Client(run.bed.url, namespace=namespace))
        groups = [
            await stack.enter_async_context(run.bed.workers(namespace, "killed", processes=count, lease=lease))
            for count in processes
        ]
        if len(groups) > 1:
            age = float((await run.bed.info("server"))["uptime_in_seconds"])
            await asyncio.sleep(max(_ACQUAINTED, min(_YOUNG - age, 5.5)))
        async with asyncio.timeout(60):
            intent = await client.send("bench.killed")
            pid = await _holder(client, intent)
            owner = next(group for group in groups if pid in group.pids)
            struck = time.time()
            strike(owner, pid)
            return float((await client.wait_for(intent) - struck) * 1000)


async def _holder(client: Client, intent: str) -> int:
    """Return the process that hangs in the second step of *intent*."""
    async for _, entry in client.observe(intent):
        if isinstance(entry, StepDone):
            await asyncio.sleep(0.05)  # now it is in the step's body
            return int(msgspec.msgpack.decode(entry.value))
    raise RedurableError("the intent ended before its worker was killed", code="BENCH_FAILED")
