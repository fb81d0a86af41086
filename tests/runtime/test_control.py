"""What operators do over a handler's head, as the handler and those who wait for it see it."""

from __future__ import annotations

import asyncio

import pytest

from redurable import Status, compensate, sleep, step, unwinding
from redurable.model import StepDone
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


async def test_a_killed_handler_is_unwound_at_once_and_undoes_nothing(w: World) -> None:
    met: list[str] = []
    in_step, out = asyncio.Event(), asyncio.Event()

    @step
    async def undo() -> None:
        met.append("undone")

    @step
    async def work() -> None:
        in_step.set()
        await asyncio.sleep(60)

    async def main(payload: None) -> None:
        compensate(undo)
        try:
            await work()
        finally:
            met.append("unwinding" if unwinding() else "asked")
            out.set()

    worker = await w.serve(main, lease=60)  # the next renewal is a quarter of a minute away
    intent = await w.send()
    await in_step.wait()
    assert await w.client.kill(intent) == "CANCELED"
    failure = await w.failure(intent)
    assert (failure.status, failure.error.code if failure.error else "") == ("CANCELED", "KILLED")
    async with asyncio.timeout(5):
        await out.wait()
        while not worker.idle():
            await asyncio.sleep(0.004)
    assert met == ["unwinding"]
    assert await w.entries(intent, StepDone) == []
    assert await w.client.kill(intent) == "CANCELED"


async def test_a_waiting_one_ends_and_its_session_goes_on(w: World) -> None:
    async def main(payload: float) -> str:
        await sleep(payload)
        return "done"

    await w.serve(main)
    first = await w.send(600, key="k")
    second = await w.send(0, key="k")
    await w.until(first, Status.WAITING)
    assert await w.client.kill(first) == "CANCELED"
    assert await w.result(second) == "done"


async def test_a_paused_one_is_handed_back_after_its_step_and_goes_on_at_the_next(w: World) -> None:
    ran: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work(what: str) -> str:
        ran.append(what)
        in_step.set()
        await go_on.wait()
        return what

    async def main(payload: None) -> list[str]:
        return [await work("a"), await work("b")]

    worker = await w.serve(main, lease=60)
    intent = await w.send()
    await in_step.wait()
    assert await w.client.pause(intent) == "REQUESTED"
    assert (await w.get(intent)).paused
    go_on.set()
    info = await w.until(intent, Status.PAUSED)
    assert (info.losses, ran, len(await w.entries(intent, StepDone))) == (0, ["a"], 1)
    async with asyncio.timeout(5):
        while not worker.idle():
            await asyncio.sleep(0.004)
    await w.client.resume(intent)
    assert await w.result(intent) == ["a", "b"]
    assert ran == ["a", "b"]


async def test_a_timer_of_a_paused_one_waits_for_its_resume(w: World) -> None:
    async def main(payload: None) -> str:
        await sleep(1.5)
        return "woken"

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    assert await w.client.pause(intent) == "PAUSED"
    await asyncio.sleep(2.0)
    assert (await w.get(intent)).status is Status.PAUSED
    await w.client.resume(intent)
    assert await w.result(intent) == "woken"


async def test_a_cancel_of_a_paused_one_is_met_at_its_resume(w: World) -> None:
    undone: list[int] = []

    @step
    async def undo() -> None:
        undone.append(1)

    async def main(payload: None) -> None:
        compensate(undo)
        await sleep(600)

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.pause(intent)
    assert await w.client.cancel(intent) == "REQUESTED"
    assert (await w.get(intent)).status is Status.PAUSED
    await w.client.resume(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert undone == [1]
