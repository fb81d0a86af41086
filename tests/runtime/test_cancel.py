"""Cancel and deadline: met at their place, after the steps in flight, and never overruled by the handler."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from redurable import Retry, RetryLater, Status, TerminalError, compensate, sleep, step
from redurable.model import CancelRequested, Compensating, StepDone
from redurable.runtime.scope import scope_var
from tests.runtime.world import AT_ONCE, World, again

pytestmark = pytest.mark.anyio


def asked_to_end() -> bool:
    """Whether this attempt has heard of its cancel, and not met it yet."""
    scope = scope_var.get()
    assert scope is not None
    return scope.attempt.conductor.cancellation.pending


async def test_an_intent_that_never_ran_is_canceled_at_once(w: World) -> None:
    intent = await w.send()
    assert await w.client.cancel(intent) == "CANCELED"
    failure = await w.failure(intent)
    assert failure.status == "CANCELED"


async def test_a_cancel_is_met_after_the_steps_in_flight_have_been_recorded(w: World) -> None:
    met: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work(what: str) -> str:
        in_step.set()
        await go_on.wait()
        met.append(f"{what} finished")
        return what

    async def main(payload: None) -> None:
        try:
            await asyncio.gather(work("a"), work("b"))
            await work("c")
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    assert await w.client.cancel(intent) == "REQUESTED"
    await asyncio.sleep(0.1)
    assert met == []
    assert (await w.get(intent)).canceling
    go_on.set()
    assert (await w.failure(intent)).status == "CANCELED"
    assert met == ["a finished", "b finished", "cancelled"]
    assert len(await w.entries(intent, StepDone)) == 2


async def test_a_step_that_may_be_interrupted_is(w: World) -> None:
    met: list[str] = []
    in_step = asyncio.Event()

    @step(on_cancel="interrupt")
    async def think() -> None:
        in_step.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            met.append("interrupted")
            raise

    async def main(payload: None) -> None:
        await think()

    await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert met == ["interrupted"]


@pytest.mark.parametrize("how", ["in turn", "gathered", "inner"])
async def test_in_a_step_that_is_to_finish_no_other_step_starts(w: World, how: str) -> None:
    ran: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def ask(what: str) -> str:
        ran.append(what)
        if what == "a":
            in_step.set()
            while not asked_to_end():
                await asyncio.sleep(0.005)
            go_on.set()
        return what

    @step
    async def inner() -> str:
        return await ask("a") + await ask("b")

    @step(retry=AT_ONCE)
    async def tool() -> str:
        try:
            if how == "inner":
                return await inner()
            if how == "in turn":
                return await ask("a") + await ask("b")
            return "".join(await asyncio.gather(after_a("b"), ask("a"), after_a("c")))
        finally:
            ran.append("tool ends")

    async def after_a(what: str) -> str:
        await go_on.wait()
        return await ask(what)

    @step
    async def undo() -> None:
        ran.append(await ask("undone"))

    async def main(undone: bool) -> None:
        if undone:
            compensate(undo)
        try:
            await tool()
        finally:
            await ask("tidy")

    await w.serve(main)
    intent = ""
    for undone, asked, recorded in ((True, ["undone", "undone"], ["ask", "ask", "undo"]), (False, [], ["ask"])):
        ran.clear()
        in_step.clear()
        go_on.clear()
        intent = await w.send(undone)
        await in_step.wait()
        await w.client.cancel(intent)
        assert (await w.failure(intent)).status == "CANCELED"
        assert ran == ["a", "tool ends", *asked]
        done = [entry.name for entry in await w.entries(intent, StepDone)]
        assert done == recorded, "what had begun is recorded"
    await w.client.retry(intent)
    await w.result(intent)
    assert ran[2:] in (["b", "tool ends", "tidy"], ["b", "c", "tool ends", "tidy"])


async def test_in_a_plain_step_too(w: World) -> None:
    ran: list[str] = []
    in_step = threading.Event()

    @step
    def ask(what: str) -> str:
        ran.append(what)
        if what == "a":
            in_step.set()
            while not asked_to_end():
                time.sleep(0.005)
        return what

    @step
    def tool() -> str:
        return ask("a") + ask("b")

    def main(payload: None) -> None:
        compensate(ask, "undone")
        tool()

    await w.serve(main)
    intent = await w.send()
    await asyncio.to_thread(in_step.wait, 10)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert ran == ["a", "undone"]


async def test_a_waiting_intent_is_woken_by_a_cancel(w: World) -> None:
    met: list[str] = []

    async def main(payload: None) -> None:
        try:
            await sleep(3600)
        except asyncio.CancelledError:
            met.append("cancelled")
            raise

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    assert await w.client.cancel(intent) == "REQUESTED"
    assert (await w.failure(intent)).status == "CANCELED"
    assert met == ["cancelled"] or met[-1:] == ["cancelled"]


async def test_cleaning_up_after_a_cancel_may_use_steps_and_replays(w: World) -> None:
    ran: list[str] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work() -> None:
        in_step.set()
        await go_on.wait()

    @step
    async def tidy(what: str) -> None:
        ran.append(what)
        if what == "second" and ran.count("second") == 1:
            await w.lose(intent)

    async def main(payload: None) -> None:
        try:
            await work()
            await sleep(100)
        finally:
            await tidy("first")
            await tidy("second")

    intent = await w.send()
    await w.serve(main)
    await in_step.wait()
    await w.client.cancel(intent)
    go_on.set()
    assert (await w.failure(intent)).status == "CANCELED"
    assert ran == ["first", "second", "second"]


async def test_a_cancel_is_replayed_at_its_place(w: World) -> None:
    met: list[list[str]] = []
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work(what: str) -> str:
        if what == "b":
            in_step.set()
            await go_on.wait()
        return what

    async def main(payload: None) -> None:
        seen: list[str] = []
        met.append(seen)
        try:
            for what in "abcd":
                seen.append(await work(what))
        except asyncio.CancelledError:
            seen.append("cancelled")
            await work("x")
            again(2)
            raise

    await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    await w.client.cancel(intent)
    go_on.set()
    assert (await w.failure(intent)).status == "CANCELED"
    assert all(seen == met[0] for seen in met), met
    assert met[0][-1] == "cancelled"


async def test_settled_first_wins_over_a_cancel(w: World) -> None:
    async def main(payload: None) -> int:
        return 1

    await w.serve(main)
    intent = await w.send()
    assert await w.result(intent) == 1
    assert await w.client.cancel(intent) == "COMPLETED"


async def test_a_cancel_goes_down_into_branches(w: World) -> None:
    met: list[str] = []

    @step
    async def begin() -> None: ...

    async def branch(name: str) -> None:
        try:
            await begin()
            await sleep(100)
        except asyncio.CancelledError:
            met.append(name)
            raise

    async def main(payload: None) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a"))
            group.create_task(branch("b"))

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    met.clear()
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert sorted(met) == ["a", "b"]


async def test_a_deadline_ends_what_is_queued(w: World) -> None:
    async def main(payload: None) -> None: ...

    async def other(payload: None) -> None: ...

    await w.serve(other, type="other")  # somebody has to keep the timers
    intent = await w.client.send("elsewhere", None, deadline=0.2)
    failure = await w.failure(intent)
    assert (failure.status, failure.code) == ("TIMED_OUT", "DEADLINE")


async def test_a_deadline_ends_what_runs_and_its_work_is_undone(w: World) -> None:
    ran: list[str] = []

    @step
    async def book() -> None:
        ran.append("book")

    async def cancel_booking() -> None:
        ran.append("cancel booking")

    async def main(payload: None) -> None:
        await book()
        compensate(cancel_booking)
        await sleep(50)

    await w.serve(main)
    intent = await w.send(deadline=0.5)
    failure = await w.failure(intent)
    assert (failure.status, failure.code) == ("TIMED_OUT", "DEADLINE")
    assert ran == ["book", "cancel booking"]
    # asked from outside, and met by the handler
    assert [e.status for e in await w.entries(intent, CancelRequested)] == [Status.TIMED_OUT] * 2
    assert [e.status for e in await w.entries(intent, Compensating)] == [Status.TIMED_OUT]


async def test_an_error_raised_while_being_cancelled_does_not_turn_it_into_a_failure(w: World) -> None:
    in_step, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def work() -> None:
        in_step.set()
        await go_on.wait()

    async def main(payload: None) -> None:
        try:
            await work()
            await work()
        except asyncio.CancelledError:
            raise TerminalError("confused") from None

    await w.serve(main)
    intent = await w.send()
    await in_step.wait()
    await w.client.cancel(intent)
    go_on.set()
    assert (await w.failure(intent)).status == "CANCELED"


@pytest.mark.parametrize("of", ["step", "handler"])
async def test_a_cancel_ends_what_waits_for_its_next_try(w: World, of: str) -> None:
    @step(retry=Retry(attempts=5, first=30, jitter=False))
    async def flaky() -> None:
        raise ConnectionError

    async def main(payload: None) -> None:
        if of == "handler":
            raise RetryLater(60)
        await flaky()

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"


async def test_a_thread_whose_step_may_be_interrupted_is_not_waited_for(w: World) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @step(on_cancel="interrupt")
    def stuck() -> None:
        begun.set()
        go_on.wait(20)

    async def main(payload: None) -> None:
        await stuck.aio()

    await w.serve(main)
    intent = await w.send()
    await asyncio.to_thread(begun.wait)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert not go_on.is_set()
    go_on.set()
