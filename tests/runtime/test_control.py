"""What operators do over a handler's head, as the handler and those who wait for it see it."""

from __future__ import annotations

import asyncio

import pytest

from redurable import Status, approval, call, compensate, handler, sleep, step, unwinding
from redurable.model import Called, StepDone
from redurable.runtime.handlers import spec_of
from tests.runtime.world import QUEUE, World

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
    async with asyncio.timeout(30):
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
    async with asyncio.timeout(30):
        while not worker.idle():
            await asyncio.sleep(0.004)
    await w.client.resume(intent)
    assert await w.result(intent) == ["a", "b"]
    assert ran == ["a", "b"]


async def test_a_pause_whose_message_is_lost_is_heard_of_with_the_next_renewal(w: World) -> None:
    ran: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work(what: str) -> None:
        ran.append(what)
        in_step.set()
        await go_on.wait()

    async def main(payload: None) -> str:
        await work("a")
        await work("b")
        return "done"

    worker = await w.serve(main, lease=1)
    intent = await w.send()
    await in_step.wait()
    assert worker._subscriber is not None
    worker._subscriber.unsubscribe(w.store.keys[0].hints(worker.id))
    assert await w.client.pause(intent) == "REQUESTED"
    attempt = worker.attempts[intent]
    async with asyncio.timeout(5):
        while not attempt.conductor.draining:
            await asyncio.sleep(0.004)
    go_on.set()
    await w.until(intent, Status.PAUSED)
    assert ran == ["a"]
    await w.client.resume(intent)
    assert await w.result(intent) == "done"


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


async def _pausing(w: World, *, closed: bool) -> None:
    before = len(w.seen("queues.turned"))
    await (w.client.pause_queue(QUEUE) if closed else w.client.resume_queue(QUEUE))
    async with asyncio.timeout(30):
        while len(w.seen("queues.turned")) == before:
            await asyncio.sleep(0.004)


async def test_of_a_paused_queue_nothing_is_taken_and_what_runs_goes_on(w: World) -> None:
    go_on, began = asyncio.Event(), list[str]()

    async def main(payload: str) -> str:
        began.append(payload)
        await step(go_on.wait)()
        await sleep(0.01 if payload == "parks" else 0)
        return payload

    await w.serve(main)
    running = await w.send("runs")
    while not began:
        await asyncio.sleep(0.004)
    await _pausing(w, closed=True)
    fresh = [await w.send(f"fresh {n}") for n in range(30)]
    go_on.set()
    assert await w.result(running) == "runs"
    await asyncio.sleep(0.5)
    assert began == ["runs"]
    await _pausing(w, closed=False)
    assert [await w.result(intent) for intent in fresh] == [f"fresh {n}" for n in range(30)]


async def test_what_a_timer_continues_waits_in_a_paused_queue(w: World) -> None:
    began: list[int] = []

    async def main(payload: None) -> str:
        began.append(1)
        await sleep(1.2)
        return "woken"

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await _pausing(w, closed=True)
    await w.until(intent, Status.SUBMITTED)
    await asyncio.sleep(0.3)
    assert began == [1]
    await _pausing(w, closed=False)
    assert await w.result(intent) == "woken"


async def test_a_worker_that_starts_later_knows_of_it_and_serves_its_other_queues(w: World) -> None:
    @handler(queue="other")
    async def other(payload: int) -> int:
        return payload + 1

    @handler(queue=QUEUE)
    async def main(payload: int) -> int:
        return payload

    await w.client.pause_queue(QUEUE)
    await w.serve_specs(spec_of(main), spec_of(other))
    held = await w.send(1)
    assert await w.client.call("other", 1, timeout=30) == 2
    assert (await w.get(held)).status is Status.SUBMITTED
    await w.client.pause_queue("other")
    async with asyncio.timeout(30):
        while len(w.seen("queues.turned")) < 2:
            await asyncio.sleep(0.004)
    await _pausing(w, closed=False)
    assert await w.result(held) == 1


async def test_a_worker_that_heard_nothing_learns_of_it_when_it_is_connected_again(w: World) -> None:
    async def main(payload: int) -> int:
        return payload

    worker = await w.serve(main)
    await w.store.mux.command("SADD", w.store.keys[0].paused, QUEUE)  # as if its message was lost
    worker._on_subscribed(True)
    async with asyncio.timeout(30):
        while worker.gates.closed != {QUEUE}:
            await asyncio.sleep(0.004)


async def test_what_is_killed_and_deleted_at_once_leaves_no_child_and_no_approval(w: World) -> None:
    """With no worker left, it is not relayed before."""

    async def main(payload: bool) -> None:
        if payload:
            async with asyncio.TaskGroup() as group:
                group.create_task(call(QUEUE, False))
                group.create_task(approval("publish").wait())
        await sleep(600)

    worker = await w.serve(main)
    intent, keys = await w.send(True), w.store.keys[0]
    await w.until(intent, Status.WAITING)
    (called,) = await w.entries(intent, Called)
    await w.until(called.child, Status.WAITING)
    assert await w.store.mux.command("EXISTS", keys.asked)
    await w.stop(worker)
    assert await w.client.kill(intent) == "CANCELED"
    await w.client.delete(intent)
    assert (await w.get(called.child)).canceling
    assert not await w.store.mux.command("EXISTS", keys.asked)
