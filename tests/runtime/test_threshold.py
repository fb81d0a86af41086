"""Where a lease may have run out, the store is asked before anything begins: once, and only then."""

from __future__ import annotations

import asyncio

import pytest

from redurable import current, step
from redurable.runtime import threshold
from redurable.store.lease import Lease
from redurable.worker.worker import Worker
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The intents that were asked for, in order."""
    intents: list[str] = []
    renew = threshold.renew

    def seen(lease: Lease, worker: str) -> asyncio.Future[bytes]:
        intents.append(lease.id)
        return renew(lease, worker)

    monkeypatch.setattr(threshold, "renew", seen)
    return intents


begun: list[tuple[str, int]] = []


@step
async def one() -> None:
    begun.append(("one", current().attempt))


@step
async def two() -> None:
    begun.append(("two", current().attempt))


@pytest.mark.parametrize("taken", [False, True])
async def test_a_body_behind_the_lease_begins_if_the_store_renews_it(w: World, asked: list[str], taken: bool) -> None:
    workers: list[Worker] = []
    begun.clear()

    async def main(payload: None) -> int:
        await one()
        if current().attempt == 1:
            workers[0].attempts[current().id].lease.until = 0.0
            if taken:
                assert await w.lose(current().id) == "OK"
        await two()
        await one()
        return current().attempt

    workers.append(await w.serve(main, lease=60))
    intent = await w.send()
    assert await w.result(intent) == 1 + taken
    assert asked == [intent]
    last = 1 + taken
    assert begun == [("one", 1), ("two", last), ("one", last)]
    if taken:
        while not w.seen("attempt.fenced"):
            await asyncio.sleep(0.004)
    assert not w.seen("handler.failed")


async def test_a_lease_that_is_renewed_is_not_asked_for(w: World, asked: list[str]) -> None:
    async def main(payload: None) -> str:
        await one()
        await asyncio.sleep(4)  # the renewal thread keeps it
        await two()
        return "done"

    await w.serve(main, lease=2.0)
    assert await w.call() == "done"
    assert asked == []
