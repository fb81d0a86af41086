"""Undo work: in reverse, on failure, cancel and deadline; continued after a crash; not when an attempt merely ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from redurable import Retry, Status, TerminalError, WrongState, compensate, current, idempotency_key, sleep, step
from redurable.model import Compensating, StepDone, StepFailedEntry
from tests.runtime.world import QUEUE, World

pytestmark = pytest.mark.anyio


async def test_undo_work_runs_in_reverse_as_steps_when_the_handler_fails(w: World) -> None:
    ran: list[str] = []

    async def undo(what: str) -> str:
        ran.append(f"undo {what}")
        return what

    @step
    async def do(what: str) -> None:
        ran.append(what)

    async def main(payload: None) -> None:
        for what in ("flight", "hotel", "car"):
            await do(what)
            compensate(undo, what)
        raise TerminalError("no money", code="BROKE")

    await w.serve(main)
    intent = await w.send()
    failure = await w.failure(intent)
    assert (failure.status, failure.code) == ("FAILED", "BROKE")
    assert ran == ["flight", "hotel", "car", "undo car", "undo hotel", "undo flight"]
    undone = [e for e in await w.entries(intent, StepDone) if e.name == "undo"]
    assert len(undone) == 3
    assert (await w.entries(intent, Compensating))[0].error.code == "BROKE"


async def test_a_step_may_be_undo_work(w: World) -> None:
    ran: list[str] = []

    @step
    async def undo(what: str) -> None:
        ran.append(what)

    @step
    def undo_sync(what: str) -> None:
        ran.append(what)

    async def main(payload: None) -> None:
        compensate(undo, "a")
        compensate(undo_sync, "b")
        raise TerminalError("no")

    await w.serve(main)
    assert (await w.failure(await w.send())).status == "FAILED"
    assert ran == ["b", "a"]


async def test_nothing_is_undone_when_the_handler_completes_or_is_tried_again(w: World) -> None:
    ran: list[str] = []

    async def undo() -> None:
        ran.append("undo")

    async def main(payload: None) -> int:
        from redurable import current

        compensate(undo)
        if current().attempt < 3:
            raise ConnectionError
        return 1

    await w.serve(main)
    assert await w.call() == 1
    assert ran == []


async def test_undo_work_is_not_run_by_a_drain_a_park_or_a_lost_lease(w: World) -> None:
    ran: list[str] = []
    in_step = asyncio.Event()

    async def undo() -> None:
        ran.append("undo")

    @step
    async def lose() -> None:
        if not ran:
            ran.append("lost")
            await w.lose(intent)

    @step
    async def linger() -> None:
        in_step.set()
        await asyncio.sleep(0.05)

    async def main(payload: None) -> str:
        compensate(undo)
        await lose()
        await sleep(1.1)
        await linger()
        await lose()
        return "done"

    intent = await w.send()
    worker = await w.serve(main)
    await in_step.wait()
    await w.stop(worker)
    assert (await w.get(intent)).status is Status.SUBMITTED
    await w.serve(main)
    assert await w.result(intent) == "done"
    assert ran == ["lost"]


async def test_a_crash_in_the_middle_of_undoing_is_continued_there(w: World) -> None:
    ran: list[str] = []

    async def undo(what: str) -> None:
        ran.append(what)
        if what == "b" and ran.count("b") == 1:
            await w.lose(intent)

    @step
    async def do(what: str) -> None:
        ran.append(f"do {what}")

    async def main(payload: None) -> None:
        for what in "abc":
            await do(what)
            compensate(undo, what)
        raise TerminalError("no")

    intent = await w.send()
    await w.serve(main)
    failure = await w.failure(intent)
    assert failure.status == "FAILED"
    assert failure.error.type == "redurable.errors.TerminalError"
    assert ran == ["do a", "do b", "do c", "c", "b", "b", "a"]
    assert len(await w.entries(intent, Compensating)) == 1


async def test_a_cancel_undoes_what_branches_registered(w: World) -> None:
    ran: list[str] = []

    async def undo(what: str) -> None:
        ran.append(what)

    @step
    async def book(what: str) -> None: ...

    async def branch(what: str) -> None:
        await book(what)
        compensate(undo, what)
        await sleep(60)

    async def main(payload: None) -> None:
        await asyncio.gather(branch("a"), branch("b"))

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.cancel(intent)
    assert (await w.failure(intent)).status == "CANCELED"
    assert sorted(ran) == ["a", "b"]


async def test_undo_work_that_fails_for_good_does_not_stop_the_rest(w: World) -> None:
    ran: list[str] = []

    async def undo(what: str) -> None:
        ran.append(what)
        if what == "b":
            raise TerminalError("cannot")

    async def main(payload: None) -> None:
        for what in "abc":
            compensate(undo, what)
        raise TerminalError("first", code="FIRST")

    await w.serve(main)
    intent = await w.send()
    failure = await w.failure(intent)
    assert failure.code == "FIRST"
    assert ran == ["c", "b", "a"]
    assert len(await w.entries(intent, StepFailedEntry)) == 1
    assert w.seen("compensation.failed")


class Shop:
    """A bank that answers a key it has seen as it did before, what it was paid, and what was shipped."""

    def __init__(self) -> None:
        self.charged: dict[str, str] = {}
        self.refunded: list[str] = []
        self.shipped: list[str] = []
        self.away = True

    def handler(self) -> Callable[..., Any]:
        """Return one that charges, and refunds if it cannot ship."""

        @step
        async def charge() -> str:
            return self.charged.setdefault(idempotency_key(), f"charge {len(self.charged) + 1}")

        @step
        async def refund(what: str) -> None:
            self.refunded.append(what)

        @step(retry=Retry(attempts=1))
        async def ship(what: str) -> str:
            if self.away:
                raise ConnectionError
            self.shipped.append(what)
            return what

        async def order(payload: None) -> str:
            paid = await charge()
            compensate(refund, paid)
            return await ship(paid)

        return order


async def test_an_operators_retry_does_not_rest_on_what_was_undone_and_a_fork_does_it_anew(w: World) -> None:
    shop = Shop()
    await w.serve(shop.handler())
    intent = await w.send()
    await w.failure(intent)
    assert shop.refunded == ["charge 1"]
    shop.away = False
    before = await w.journal(intent)
    with pytest.raises(WrongState, match=r"FAILED and its undo work has run \(refund#1\)") as refused:
        await w.client.retry(intent)
    assert refused.value.code == "ALREADY_UNDONE"
    assert f"redurable intents fork {intent} --from-step" in refused.value.hint
    done = await w.client.each("retry", queue=QUEUE, status="FAILED")
    assert (done.chosen, done.answers) == (1, {"ALREADY_UNDONE": 1})
    assert (await w.get(intent)).status is Status.FAILED
    assert await w.journal(intent) == before

    assert await w.result(await w.client.fork(intent, "charge")) == "charge 2"
    assert shop.shipped == ["charge 2"]  # nothing that was refunded
    assert len(shop.charged) == 2


async def test_undo_work_that_failed_or_died_keeps_a_retry_away_as_well(w: World) -> None:
    undoing = asyncio.Event()

    async def fails() -> None:
        raise TerminalError("cannot")

    async def dies() -> None:
        undoing.set()
        await asyncio.sleep(60)

    async def main(undo: str) -> None:
        compensate(fails if undo == "fails" else dies)
        raise TerminalError("no")

    await w.serve(main, grace=0.1)
    failed = await w.send("fails")
    assert (await w.failure(failed)).status == "FAILED"
    with pytest.raises(WrongState, match=r"fails#1 \(failed\)"):
        await w.client.retry(failed)
    died = await w.send("dies")
    await undoing.wait()
    with pytest.raises(WrongState, match="IN_PROGRESS") as refused:
        await w.client.retry(died)
    assert refused.value.code == "WRONG_STATE"
    assert await w.client.kill(died) == "CANCELED"
    with pytest.raises(WrongState, match="nothing of it is recorded") as refused:
        await w.client.retry(died)
    assert refused.value.code == "ALREADY_UNDONE"


async def test_a_cancel_that_was_undone_is_not_retried_and_one_with_nothing_to_undo_is(w: World) -> None:
    async def undo() -> None: ...

    async def main(undone: bool) -> str:
        if undone:
            compensate(undo)
        await sleep(60 if current().attempt == 1 else 0)
        return "done"

    await w.serve(main)
    undone, plain = [await w.send(flag) for flag in (True, False)]
    for intent in (undone, plain):
        await w.until(intent, Status.WAITING)
        await w.client.cancel(intent)
        assert (await w.failure(intent)).status == "CANCELED"
    with pytest.raises(WrongState, match="undo#1"):
        await w.client.retry(undone)
    await w.client.retry(plain)
    assert (await w.until(plain, Status.WAITING)).error is None


async def test_a_session_whose_head_was_undone_is_not_retried_either(w: World) -> None:
    async def undo() -> None: ...

    async def main(payload: None) -> None:
        compensate(undo)
        raise TerminalError("no")

    await w.serve(main)
    assert (await w.failure(await w.send(key="k"))).status == "FAILED"
    with pytest.raises(WrongState, match="undo#1") as refused:
        await w.client.sessions.retry(QUEUE, "k")
    assert refused.value.code == "ALREADY_UNDONE"


async def test_undo_work_with_an_id_of_its_own_is_told_by_it(w: World) -> None:
    ran: list[str] = []

    @step(id=lambda what: what)
    async def undo(what: str) -> None:
        ran.append(f"undo {what}")

    @step(id=lambda what: what)
    async def do(what: str) -> None:
        ran.append(what)
        raise TerminalError("not yet")

    async def main(payload: None) -> str:
        compensate(undo, "a")
        await do("a")
        return "done"

    await w.serve(main)
    intent = await w.send()
    assert (await w.failure(intent)).status == "FAILED"
    assert ran == ["a", "undo a"]
    with pytest.raises(WrongState, match="undo#a"):
        await w.client.retry(intent)


async def test_a_cancel_during_undoing_does_not_stop_it(w: World) -> None:
    ran: list[str] = []
    undoing, go_on = asyncio.Event(), asyncio.Event()

    async def undo(what: str) -> None:
        ran.append(what)
        undoing.set()
        await go_on.wait()

    async def main(payload: None) -> None:
        for what in "ab":
            compensate(undo, what)
        raise TerminalError("no")

    await w.serve(main)
    intent = await w.send()
    await undoing.wait()
    await w.client.cancel(intent)
    await asyncio.sleep(0.05)
    go_on.set()
    assert (await w.failure(intent)).status == "FAILED"
    assert ran == ["b", "a"]


async def test_undo_steps_keep_their_own_policy_and_are_tried_again(w: World) -> None:
    ran: list[str] = []

    @step(name="give back", retry=Retry(attempts=3, first=1.1, jitter=False))
    async def undo(what: str) -> None:
        ran.append(what)
        if len(ran) == 1:
            raise ConnectionError

    async def main(payload: None) -> None:
        compensate(undo, "a")
        raise TerminalError("no")

    await w.serve(main)
    intent = await w.send()
    info = await w.until(intent, Status.WAITING)  # a long backoff of undo work costs no worker either
    assert info.step == "give back#1"
    assert (await w.failure(intent)).status == "FAILED"
    assert ran == ["a", "a"]
    assert len(await w.entries(intent, Compensating)) == 1
