"""What comes between two awaits of the engine: each was once lost, taken for something else, or never ended."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from redurable import (
    Retry,
    Status,
    call,
    promise,
    step,
    sync,
)
from redurable.store.lease import Lease
from tests.runtime.world import World, again

pytestmark = pytest.mark.anyio


async def test_a_plain_handler_is_not_taken_to_rest_while_its_branches_are_joined(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            super().join(timeout)
            if self.name == "slow":
                time.sleep(0.1)

    @step
    def work(n: int) -> int:
        return n

    def main(payload: None) -> list[int]:
        with monkeypatch.context() as patched:
            patched.setattr(sync.threading, "Thread", lambda **options: Slow(**options, name="slow"))
            found = sync.gather(lambda: work(1), lambda: work(2))
        found.append(work(3))
        again(1)
        return found

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == [1, 2, 3]
    assert w.seen("intent.held") == []


async def test_a_drain_ends_at_once_that_comes_while_a_promise_is_told_to_the_store(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    declare = Lease.declare

    def slow(self: Lease, *args: Any) -> Any:
        async def told() -> Any:
            asked.set()
            await go_on.wait()
            return await declare(self, *args)

        return asyncio.ensure_future(told())

    monkeypatch.setattr(Lease, "declare", slow)

    async def main(payload: None) -> Any:
        return await promise("answer")

    worker = await w.serve(main, grace=60)
    intent = await w.send()
    await asked.wait()
    leaving = asyncio.ensure_future(w.stop(worker))
    await w.event("worker.draining")
    await asyncio.sleep(0.02)
    go_on.set()
    await asyncio.wait_for(leaving, 10)
    assert (await w.get(intent)).status is Status.SUBMITTED


async def test_a_drain_starts_no_next_try_while_another_branch_works(w: World) -> None:
    tried: list[int] = []
    at_work, end = asyncio.Event(), asyncio.Event()

    @step(retry=Retry(first=0.3, jitter=False))
    async def fails() -> None:
        tried.append(1)
        raise ConnectionError

    @step
    async def works() -> None:
        at_work.set()
        await end.wait()

    async def main(payload: None) -> None:
        await asyncio.gather(fails(), works())

    worker = await w.serve(main, grace=60)
    await w.send()
    await at_work.wait()
    while not w.seen("step.failed"):
        await asyncio.sleep(0.01)
    leaving = asyncio.ensure_future(w.stop(worker))
    await asyncio.sleep(0.6)
    assert len(tried) == 1
    end.set()
    await leaving
    assert len(tried) == 1


async def test_a_call_with_an_option_that_is_none_fails_the_handler(w: World) -> None:
    async def main(payload: None) -> Any:
        return await call("elsewhere", 1, dealy=5)  # type: ignore[arg-type]

    await w.serve(main)
    failure = await w.failure(await w.send())
    assert "dealy" in str(failure)
