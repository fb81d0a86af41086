"""An attempt that ends while its intent goes on: user code may catch what it likes, nothing of it is settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import tenacity

from redurable import Retry, Status, sleep, step, unwinding
from redurable.model import StepDone
from tests.runtime.world import World

pytestmark = pytest.mark.anyio

Body = Callable[[], Awaitable[str]]


async def _plain(body: Body) -> str:
    return await body()


async def _finally(body: Body) -> str:
    try:
        return await body()
    finally:
        await asyncio.sleep(0)


async def _except_exception(body: Body) -> str:
    try:
        return await body()
    except Exception:
        return "swallowed"


async def _except_everything(body: Body) -> str:
    try:
        return await body()
    except BaseException:
        return "swallowed"


async def _pass_and_go_on(body: Body) -> str:
    for _ in range(2):
        with contextlib.suppress(BaseException):
            return await body()
    return "swallowed"


async def _exit_stack(body: Body) -> str:
    left: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(left.append, "sync")
        stack.push_async_callback(asyncio.sleep, 0)
        return await body()


async def _swallowing_stack(body: Body) -> str:
    async with contextlib.AsyncExitStack() as stack:
        stack.push(lambda *_: True)
        return await body()
    return "swallowed"


async def _tenacity(body: Body) -> str:
    async for attempt in tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none(), reraise=True
    ):
        with attempt:
            return await body()
    return "swallowed"


async def _tenacity_of_everything(body: Body) -> str:
    async for attempt in tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(3),
        retry=tenacity.retry_if_exception_type(BaseException),
        retry_error_callback=lambda _: "swallowed",
    ):
        with attempt:
            return await body()
    return "swallowed"


async def _gather_of_exceptions(body: Body) -> str:
    found = await asyncio.gather(body(), return_exceptions=True)
    return found[0] if isinstance(found[0], str) else "swallowed"


async def _task_group(body: Body) -> str:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(body())  # type: ignore[arg-type]  # a coroutine
    return task.result()


async def _shield(body: Body) -> str:
    return await asyncio.shield(asyncio.ensure_future(body()))


WAYS = [
    _plain, _finally, _except_exception, _except_everything, _pass_and_go_on, _exit_stack, _swallowing_stack,
    _tenacity, _tenacity_of_everything, _gather_of_exceptions, _task_group, _shield,
]  # fmt: skip
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.strip("_").replace("_", " "))


@ways
async def test_a_drain_does_no_harm(w: World, way: Any) -> None:
    ran: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def first() -> str:
        ran.append("first")
        in_step.set()
        await go_on.wait()
        return "first"

    @step
    async def second() -> str:
        ran.append("second")
        return "second"

    async def body() -> str:
        return await first() + await second()

    async def main(payload: None) -> str:
        return await way(body)

    worker = await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    leaving = asyncio.ensure_future(w.stop(worker))
    await asyncio.sleep(0.02)
    go_on.set()
    await leaving
    assert (await w.get(intent)).status is Status.SUBMITTED
    assert [e.name for e in await w.entries(intent, StepDone)] == ["first"]  # what was in flight is recorded
    await w.serve(main)
    assert await w.result(intent) == "firstsecond"
    assert ran == ["first", "second"]
    assert (await w.get(intent)).losses == 0


@ways
async def test_a_park_does_no_harm(w: World, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redurable.runtime.parking.SHORT", 0.1)
    ran: list[str] = []

    @step
    async def work(what: str) -> str:
        ran.append(what)
        return what

    async def body() -> str:
        found = await work("a")
        await sleep(0.4)
        return found + await work("b")

    async def main(payload: None) -> str:
        return await way(body)

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == "ab"
    assert ran == ["a", "b"]
    assert (await w.get(intent)).attempt == 2


@ways
async def test_a_lost_lease_does_no_harm(w: World, way: Any) -> None:
    ran: list[str] = []

    @step
    async def work(what: str) -> str:
        ran.append(what)
        if what == "b" and ran.count("b") == 1:
            await w.lose(intent)
        return what

    async def body() -> str:
        return await work("a") + await work("b") + await work("c")

    async def main(payload: None) -> str:
        return await way(body)

    intent = await w.send()
    await w.serve(main)
    assert await w.result(intent) == "abc"
    assert [ran.count(x) for x in "abc"] == [1, 2, 1]
    assert len(await w.entries(intent, StepDone)) == 3


@ways
async def test_a_swallowed_cancel_still_ends_canceled(w: World, way: Any) -> None:
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step(retry=Retry(attempts=1))
    async def first() -> str:
        in_step.set()
        await go_on.wait()
        return "first"

    @step
    async def second() -> str:
        return "second"

    async def body() -> str:
        return await first() + await second()

    async def main(payload: None) -> str:
        return await way(body)

    await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    assert await w.client.cancel(intent, "enough") == "REQUESTED"
    go_on.set()
    failure = await w.failure(intent)
    assert failure.status == "CANCELED"
    assert failure.code == "CANCELED"
    assert "first" in [e.name for e in await w.entries(intent, StepDone)]


async def test_everything_durable_raises_again_while_unwinding_and_no_body_starts(w: World) -> None:
    in_step = asyncio.Event()
    said: list[Any] = []
    ran: list[str] = []

    @step
    async def slow() -> None:
        in_step.set()
        await asyncio.sleep(0.05)

    @step
    async def undo() -> None:
        ran.append("undo")

    async def main(payload: None) -> None:
        said.append(unwinding())
        try:
            await slow()
            await slow()
        finally:
            said.append(unwinding())
            for call in (undo, lambda: sleep(0)):
                try:
                    await call()
                except BaseException as error:
                    said.append(type(error).__name__)

    worker = await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    await w.stop(worker)
    assert said == [False, True, "Suspended", "Suspended"]
    assert ran == []
    assert (await w.get(intent)).status is Status.SUBMITTED


async def test_a_handler_that_does_not_end_at_a_drain_is_abandoned_and_done_by_another(w: World) -> None:
    stuck = asyncio.Event()
    begun: list[int] = []

    async def main(payload: None) -> str:
        begun.append(1)
        if len(begun) == 1:
            while not stuck.is_set():
                with contextlib.suppress(BaseException):
                    await asyncio.wait_for(stuck.wait(), 5)
        return f"by {len(begun)}"

    worker = await w.serve(main, grace=0.1)
    intent = await w.send()
    while not begun:
        await asyncio.sleep(0.01)
    await w.stop(worker)
    assert w.seen("handler.abandoned")
    await w.serve(main)
    assert await w.result(intent) == "by 2"
    stuck.set()
