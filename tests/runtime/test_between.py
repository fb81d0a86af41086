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
    StepFailed,
    TerminalError,
    call,
    compensate,
    promise,
    run,
    step,
    sync,
)
from redurable.model import StepDone
from redurable.runtime.handlers import handler, spec_of
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


@pytest.mark.parametrize("kind", ["waits", "asks", "works", "goes on"])
async def test_a_branch_that_its_handler_left_does_nothing_more_while_it_is_undone(w: World, kind: str) -> None:
    ran: list[str] = []
    begun, undoing, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    @step
    async def late() -> None:
        ran.append("late")

    @step
    async def slow() -> None:
        ran.append("slow")
        await undoing.wait()

    async def branch() -> None:
        if kind == "waits":
            begun.set()
            await promise("never")
        elif kind == "works":
            begun.set()
            await slow()
        elif kind == "asks":
            begun.set()
        else:
            await run("first", lambda: None)
            begun.set()
            await undoing.wait()
        await late()

    @step
    async def undo() -> None:
        undoing.set()
        await end.wait()
        ran.append("undo")

    async def main(payload: None) -> None:
        compensate(undo)
        tasks.append(asyncio.create_task(branch()))
        await begun.wait()
        raise TerminalError("no")

    await w.serve(main)
    intent = await w.send()
    await undoing.wait()
    await asyncio.sleep(0.1)
    end.set()
    await w.failure(intent)
    await asyncio.sleep(0.05)
    assert "late" not in ran
    assert ran[-1] == "undo"
    assert tasks[0].done()


async def test_a_thread_whose_time_is_up_does_nothing_more_while_it_is_undone(w: World) -> None:
    ran: list[str] = []
    undoing, end = threading.Event(), asyncio.Event()
    raised: list[BaseException] = []

    @step
    def late() -> None:
        ran.append("late")

    @step
    async def undo() -> None:
        undoing.set()
        await end.wait()

    def main(payload: None) -> None:
        compensate(undo)
        undoing.wait(10)
        try:
            late()
        except BaseException as error:
            raised.append(error)
            raise

    await w.serve(main, attempt_timeout=0.2, retry=Retry(attempts=1))
    intent = await w.send()
    async with asyncio.timeout(10):
        while not ran and not raised:
            await asyncio.sleep(0.01)
    end.set()
    await w.failure(intent)
    assert ran == []
    assert isinstance(raised[0], asyncio.CancelledError)


async def test_a_thread_whose_try_is_over_is_no_branch_any_more(w: World) -> None:
    tries: list[str] = []
    second = threading.Event()
    first_over = threading.Event()

    @step
    def inner(n: int) -> int:
        return n

    @step(timeout=0.2, retry=Retry(first=0, jitter=False))
    def outer() -> int:
        tries.append("outer")
        if len(tries) == 1:
            second.wait(10)
            try:
                inner(1)
                tries.append("inner")
            except Exception as error:
                tries.append(type(error).__name__)
            finally:
                first_over.set()
            return 0
        second.set()
        first_over.wait(10)
        time.sleep(0.02)
        return inner(2)

    async def main(payload: None) -> int:
        return await outer.aio()

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 2
    assert tries == ["outer", "outer", "UsageError"]
    assert [e.scope for e in await w.entries(intent, StepDone) if e.name == "inner"] == ["outer#1>>"]


async def test_a_thread_whose_step_has_failed_asks_for_nothing_in_the_handler(w: World) -> None:
    told: list[str] = []
    go_on, over = threading.Event(), threading.Event()

    @step
    def inner() -> int:
        told.append("inner")
        return 1

    @step(timeout=0.1, retry=Retry(attempts=1))
    def outer() -> int:
        go_on.wait(10)
        try:
            return inner()
        except Exception as error:
            told.append(type(error).__name__)
            raise
        finally:
            over.set()

    async def main(payload: None) -> str:
        with pytest.raises(StepFailed):
            await outer.aio()
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        return "done"

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "done"
    assert told == ["UsageError"]
    assert [e.name for e in await w.entries(intent, StepDone)] == []


@pytest.mark.parametrize("undone", [False, True])
async def test_a_thread_that_waits_when_its_attempt_is_out_of_time_is_let_go(w: World, undone: bool) -> None:
    over = threading.Event()
    raised: list[BaseException] = []

    async def undo() -> None: ...

    def main(payload: None) -> None:
        if undone:
            compensate(undo)
        try:
            sync.sleep(0.9)
        except BaseException as error:
            raised.append(error)
            raise
        finally:
            over.set()

    await w.serve(main, attempt_timeout=0.2, retry=Retry(attempts=1))
    await w.failure(await w.send())
    assert await asyncio.to_thread(over.wait, 5)
    assert isinstance(raised[0], asyncio.CancelledError)


async def test_a_thread_that_ends_late_leaves_the_place_of_its_handler_alone(w: World) -> None:
    inside, go_on, over = threading.Event(), threading.Event(), threading.Event()

    @step
    def inner() -> int:
        inside.set()
        go_on.wait(10)
        return 1

    @step(timeout=0.2, retry=Retry(attempts=1))
    def outer() -> int:
        try:
            return inner()
        finally:
            over.set()

    async def main(payload: None) -> list[Any]:
        with pytest.raises(StepFailed):
            await outer.aio()
        go_on.set()
        await asyncio.to_thread(over.wait, 10)
        return [await run("next", lambda: 1), await call("child")]

    async def child(payload: None) -> int:
        return 2

    handler(queue="child")(child)
    handler(queue="q")(main)
    await w.serve_specs(spec_of(main), spec_of(child))
    intent = await w.send()
    assert await w.result(intent) == [1, 2]
    assert "next" in [e.name for e in await w.entries(intent, StepDone) if e.scope == ""]
