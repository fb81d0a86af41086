"""
The server and the workers stop, in order and by force, in the middle of everything; then all goes on where it was.

Thirty lives with every kind of wait are under way when it happens. Held every time: all complete with the same result,
no step that was recorded runs again, every child is one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from redurable.model import StepDone
from tests.conformance.conftest import APP, Site
from tests.support.fleet import until

pytestmark = [pytest.mark.anyio, pytest.mark.crash, pytest.mark.timeout(300)]
LIVES, LATE = 30, 4
WHOLE = ["first", "left", "right", 8, "go", *(f"late{n}" for n in range(LATE)), 10]


async def server_killed(s: Site) -> None:
    s.fleet.server.kill()
    await asyncio.sleep(0.3)
    s.fleet.server.start()


async def server_stopped(s: Site) -> None:
    s.fleet.server.stop()
    await asyncio.sleep(0.3)
    s.fleet.server.start()


async def server_frozen(s: Site) -> None:
    s.fleet.server.freeze()
    await asyncio.sleep(2.0)
    s.fleet.server.thaw()


async def one_worker_killed(s: Site) -> None:
    next(process for process in s.fleet.processes if process.alive).kill()


async def all_workers_stopped(s: Site) -> None:
    await s.fleet.reap(30)
    await s.fleet.start(2, target=APP)


async def all_killed(s: Site) -> None:
    for process in s.fleet.processes:
        process.kill()
    await server_killed(s)
    await s.fleet.start(2, target=APP)


STOPS = [all_killed, one_worker_killed, all_workers_stopped, server_killed, server_stopped, server_frozen]


@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.__name__)
async def test_everything_goes_on_where_it_was(lone: Site, stop: Callable[[Site], Awaitable[None]]) -> None:
    ids = [await lone.send("life", {"n": LATE}) for _ in range(LIVES)]
    waits = [asyncio.create_task(lone.result(intent)) for intent in ids]  # these outlast it too
    await until(lambda: lone.lines().count("left") >= LIVES // 2, 60)
    await stop(lone)  # in steps, in calls, in short and long sleeps
    await lone.client.resolve(ids[0], "go", "go")
    for intent in ids[1:]:
        await lone.asked(intent, "go#0")
        await lone.client.resolve(intent, "go", "go")
    await until(lambda: lone.lines().count("late1") >= LIVES // 2, 60)
    if stop is server_killed:
        await stop(lone)  # once more, in the last steps
    assert await asyncio.gather(*waits) == [WHOLE] * LIVES
    for intent in ids:
        recorded = Counter(entry.n for entry in await lone.journal(intent, StepDone))
        assert set(recorded.values()) == {1}
    assert len({line.intent for line in lone.fleet.ledger() if line.step == "echo"}) == 2 * LIVES
