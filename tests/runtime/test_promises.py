"""Promises: resolved before, while and after they are awaited, by whoever may; typed, indexed, limited in time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from redurable import (
    ConfigurationError,
    NotFound,
    PromiseRejected,
    SerialisationError,
    Status,
    TokenRefused,
    UsageError,
    WrongState,
    current,
    promise,
    race,
    sleep,
    step,
    sync,
)
from redurable.model import Arrived, Reason, TimerFired, TimerSet
from redurable.runtime.promises import Promise
from redurable.store import tokens
from redurable.store.arrivals import waited_for
from redurable.store.lease import Lease
from tests.runtime.world import World

pytestmark = pytest.mark.anyio


async def test_an_intent_is_put_down_until_its_promise_is_resolved(w: World) -> None:
    async def main(payload: None) -> str:
        return await promise("answer", str)

    worker = await w.serve(main)
    intent = await w.send()
    info = await w.until(intent, Status.WAITING)
    assert (info.reason, info.entries) == (Reason.PROMISE, 0)
    while worker.running:
        await asyncio.sleep(0.002)
    await w.client.resolve(intent, "answer", "yes", by="ann")
    assert await w.result(intent) == "yes"
    (entry,) = await w.entries(intent, Arrived)
    assert (entry.key, entry.by) == ("answer#0", "ann")


async def test_what_comes_while_the_wait_for_it_is_written_stands(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, written, go_on = Promise._open, asyncio.Event(), asyncio.Event()

    async def late(self: Promise[Any], *args: Any) -> None:
        while self._key not in self._attempt.conductor.cursor.brought:
            await w.client.resolve(self._attempt.lease.id, "answer", "yes")
            await asyncio.sleep(0.001)
        await opened(self, *args)
        written.set()

    async def main(payload: None) -> str:
        answer = await promise("answer", str)
        await step(go_on.wait)()
        return answer

    monkeypatch.setattr(Promise, "_open", late)
    await w.serve(main)
    intent = await w.send()
    await written.wait()
    with pytest.raises(WrongState, match="ALREADY_RESOLVED"):
        await w.client.resolve(intent, "answer", "no")
    go_on.set()
    assert await w.result(intent) == "yes"


async def test_what_comes_while_the_journal_is_read_is_read_too(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read, slow = Lease.read, asyncio.Event()

    async def late(self: Lease, *args: Any) -> list[bytes]:
        found = await read(self, *args)
        if not slow.is_set():
            slow.set()
            await w.client.resolve(self.id, "second", 2)
            await asyncio.sleep(0.1)  # the hint of it arrives before what was read
        return found

    async def main(payload: None) -> list[int]:
        async with asyncio.timeout(100):  # a timer of the process: it is not put down
            return list(await asyncio.gather(promise("first", int), promise("second", int)))

    await w.serve(main, lease=60)  # its renewal would see it too, in its time
    intent = await w.send()
    await w.until(intent, Status.IN_PROGRESS)
    while len(await waited_for(w.store, intent)) < 2:
        await asyncio.sleep(0.002)
    monkeypatch.setattr(Lease, "read", late)
    await w.client.resolve(intent, "first", 1)
    assert await w.result(intent) == [1, 2]


@pytest.mark.parametrize("when", ["before its start", "before it is asked", "in the process"])
async def test_it_makes_no_difference_when_it_is_resolved(w: World, when: str) -> None:
    gate = asyncio.Event()

    @step
    async def first() -> int:
        await gate.wait()
        return 1

    async def main(payload: None) -> list[Any]:
        found: list[Any] = []
        if when == "in the process":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(30):  # a timer of the process keeps it here
                    found.append(await promise("answer"))
        else:
            found.append(await first())
            found.append(await promise("answer"))
        return [*found, current().attempt]

    if when == "before its start":
        intent = await w.send()
        await w.client.resolve(intent, "answer", "yes")
        gate.set()
        await w.serve(main)
        assert await w.result(intent) == [1, "yes", 1]
        return
    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.IN_PROGRESS)
    await asyncio.sleep(0.02)
    await w.client.resolve(intent, "answer", "yes")
    gate.set()
    assert await w.result(intent) == ([1, "yes", 1] if when == "before it is asked" else ["yes", 1])


async def test_a_rejection_is_raised_and_an_operators_retry_asks_again(w: World) -> None:
    seen: list[Any] = []

    async def main(payload: None) -> str:
        try:
            return await promise("answer", str)
        except PromiseRejected as error:
            seen.append((error.name, error.reason, error.by, error.details))
            raise

    await w.serve(main)
    intent = await w.send()
    await w.client.reject(intent, "answer", "no way", by="ann", details={"n": 1})
    failure = await w.failure(intent)
    assert failure.error.code == "PROMISE_REJECTED"
    assert seen == [("answer", "no way", "ann", {"n": 1})]  # one attempt: it would only come again
    await w.client.retry(intent)
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "answer", "now")
    assert await w.result(intent) == "now"


async def test_the_first_value_stands(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        p = promise("answer")
        return [await p, await p, await sleep(1.1)]

    await w.serve(main)
    intent = await w.send()
    await w.client.resolve(intent, "answer", {"a": 1})
    await w.client.resolve(intent, "answer", {"a": 1})
    with pytest.raises(WrongState) as refused:
        await w.client.resolve(intent, "answer", {"a": 2})
    assert refused.value.code == "ALREADY_RESOLVED"
    with pytest.raises(WrongState):
        await w.client.reject(intent, "answer", "no")
    assert await w.result(intent) == [{"a": 1}, {"a": 1}, None]
    await w.client.resolve(intent, "answer", {"a": 1})
    with pytest.raises(WrongState) as refused:
        await w.client.resolve(intent, "other", 1)
    assert "ended COMPLETED" in refused.value.message


@dataclass
class Order:
    item: str
    count: int = 1


async def test_a_value_of_another_type_is_refused_when_it_is_given(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        order = await promise("order", Order)
        return [type(order).__name__, order.item]

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    for wrong in ({"count": 1}, {"item": 1}, "tea", {"item": "tea", "count": "two"}):
        with pytest.raises(SerialisationError) as refused:
            await w.client.resolve(intent, "order", wrong)
        assert refused.value.code == "TYPE_MISMATCH"
    await w.client.resolve(intent, "order", Order("tea"))
    assert await w.result(intent) == ["Order", "tea"]


async def test_a_wrong_value_that_came_before_it_was_asked_for_is_set_aside(w: World) -> None:
    async def main(payload: None) -> int:
        return await promise("count", int)

    intent = await w.send()
    await w.client.resolve(intent, "count", "many")
    await w.serve(main)
    assert (await w.until(intent, Status.WAITING)).reason is Reason.PROMISE
    assert w.seen("promise.refused")
    await w.client.resolve(intent, "count", 3)
    assert await w.result(intent) == 3
    assert [e.key for e in await w.entries(intent, Arrived)] == ["count#0", "count#0"]


async def test_promises_of_one_name_are_told_apart_by_their_index(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        return [await promise("turn", index=i) for i in range(4)]

    await w.serve(main)
    intent = await w.send()
    for i in (2, 0, 3, 1):
        await w.client.resolve(intent, "turn", f"t{i}", index=i)
    assert await w.result(intent) == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize("way", ["settled", "withdrawn"])
async def test_a_name_is_used_once(w: World, way: str) -> None:
    async def main(payload: None) -> None:
        if way == "settled":
            await promise("answer")
        else:
            await race(lost=promise("answer"), won=sleep(0.01))
        promise("answer")

    await w.serve(main)
    intent = await w.send()
    if way == "settled":
        await w.client.resolve(intent, "answer", 1)
    assert (await w.failure(intent)).error.code == "PROMISE_REUSED"


async def test_it_waits_in_a_handler_only(w: World) -> None:
    @step
    async def inside() -> None:
        await promise("answer")

    async def main(payload: None) -> None:
        await inside()

    await w.serve(main)
    assert (await w.failure(await w.send())).error.code == "INSIDE_STEP"
    token = None
    with pytest.raises(UsageError):
        token = promise("answer")
    assert token is None


async def test_a_time_limit_is_durable_and_leaves_it_open(w: World) -> None:
    async def main(payload: None) -> list[Any]:
        p = promise("answer")
        try:
            await p.wait(timeout=1.05)
        except TimeoutError as late:
            return [str(late), await p.wait(timeout=60)]
        return []

    worker = await w.serve(main)
    intent = await w.send()
    info = await w.until(intent, Status.WAITING)
    assert info.reason is Reason.PROMISE
    while worker.running:
        await asyncio.sleep(0.002)
    while len(await w.entries(intent, TimerSet)) < 2:
        await asyncio.sleep(0.01)
    (fired,) = await w.entries(intent, TimerFired)
    assert fired.at >= (await w.entries(intent, TimerSet))[0].due
    await w.client.resolve(intent, "answer", 1)
    assert await w.result(intent) == ["promise 'answer' was not resolved within 1.05 s", 1]


@pytest.mark.parametrize("way", ["gather", "wait", "group", "anyio"])
async def test_promises_compose_as_tasks_do(w: World, way: str) -> None:
    async def main(payload: None) -> list[Any]:
        a, b, found = promise("a"), promise("b"), []

        async def take(p: Any) -> None:
            found.append(await p)

        if way == "gather":
            return list(await asyncio.gather(a, b))
        if way == "wait":
            done, rest = await asyncio.wait([a.task(), b.task()], return_when=asyncio.FIRST_COMPLETED)
            return [d.result() for d in done] + [await r for r in rest]
        if way == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(take(a))
                group.create_task(take(b))
        else:
            async with anyio.create_task_group() as nursery:
                nursery.start_soon(take, a)
                nursery.start_soon(take, b)
        return found

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "b", 2)
    while (await w.get(intent)).attempt < 2:
        await asyncio.sleep(0.005)
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "a", 1)
    assert await w.result(intent) == ([1, 2] if way == "gather" else [2, 1])


@pytest.mark.parametrize("winner", ["answer", "late"])
async def test_a_race_with_a_clock_has_one_winner_and_the_loser_is_withdrawn(w: World, winner: str) -> None:
    async def main(payload: None) -> list[Any]:
        won = await race(answer=promise("answer"), late=sleep(1.05))
        await promise("go")
        return [won.name, won.value]

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    if winner == "answer":
        await w.client.resolve(intent, "answer", 5)
    while True:
        try:
            async with asyncio.timeout(30):
                while not (winner == "answer" or await w.entries(intent, TimerFired)):
                    await asyncio.sleep(0.01)
            break
        except TimeoutError:
            raise AssertionError(await w.journal(intent)) from None
    await w.until(intent, Status.WAITING)
    if winner == "late":
        with pytest.raises(WrongState) as refused:
            await w.client.resolve(intent, "answer", 5)
        assert refused.value.code == "PROMISE_WITHDRAWN"
    await w.client.resolve(intent, "go", None)
    assert await w.result(intent) == (["answer", 5] if winner == "answer" else ["late", None])


async def test_a_cancel_is_met_while_it_waits(w: World) -> None:
    async def main(payload: None) -> None:
        await promise("answer")

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    assert await w.client.cancel(intent) == "REQUESTED"
    assert (await w.failure(intent)).status == "CANCELED"


async def test_a_plain_handler_waits_too(w: World) -> None:
    def main(payload: None) -> list[Any]:
        p = sync.promise("answer", str)
        with contextlib.suppress(TimeoutError):
            p.wait(timeout=0.05)
        return [p.wait(), len(p.token) > 60]

    await w.serve(main)
    intent = await w.send()
    await w.until(intent, Status.WAITING)
    await asyncio.to_thread(sync.Client(w.url, namespace=w.namespace).resolve, intent, "answer", "yes")
    assert await w.result(intent) == ["yes", True]


async def test_a_handler_does_not_resolve_by_a_client_but_a_step_does(w: World) -> None:
    @step
    async def answer(intent: str) -> None:
        await w.client.resolve(intent, "answer", "from a step")

    async def main(other: str) -> str:
        if other == "":
            return await promise("answer", str)
        for write in (w.client.resolve(other, "answer", 1), w.client.reject(other, "answer", "no")):
            with pytest.raises(UsageError) as refused:
                await write
            assert refused.value.code == "USE_DURABLE_SEND"
        await answer(other)
        return "done"

    await w.serve(main)
    first = await w.send("")
    assert await w.call(first) == "done"
    assert await w.result(first) == "from a step"


class TestTokens:
    async def _token(self, w: World, **options: Any) -> tuple[str, str]:
        found: list[str] = []

        async def main(payload: None) -> str:
            p = promise("answer", str, **options)
            found.append(p.token)
            return await p

        await w.serve(main)
        intent = await w.send()
        await w.until(intent, Status.WAITING)
        return intent, found[0]

    async def test_it_resolves_by_itself_once(self, w: World) -> None:
        intent, token = await self._token(w)
        with pytest.raises(SerialisationError):
            await w.client.resolve(token, 1)
        await w.client.resolve(token, "yes")
        assert await w.result(intent) == "yes"
        await w.client.resolve(token, "yes")
        with pytest.raises(WrongState) as refused:
            await w.client.resolve(token, "no")
        assert refused.value.code == "ALREADY_RESOLVED"

    async def test_it_is_the_same_on_every_replay(self, w: World) -> None:
        seen: list[str] = []

        @step
        async def mail(token: str) -> None:
            seen.append(token)

        async def main(payload: None) -> str:
            p = promise("answer", str)
            seen.append(p.token)
            await mail(p.token)
            return await p

        await w.serve(main)
        intent = await w.send()
        await w.until(intent, Status.WAITING)
        await w.client.resolve(seen[0], "yes")
        assert await w.result(intent) == "yes"
        assert len(seen) == 3
        assert len(set(seen)) == 1

    async def test_nothing_else_does(self, w: World) -> None:
        intent, token = await self._token(w)
        other = tokens.sign("1:" + "ab" * 32, intent, "answer#0", 1 << 44)
        flipped = token[:20] + ("A" if token[20] != "A" else "B") + token[21:]
        for forged in (
            other,
            flipped,
            token[:-1],
            token + "A",
            "rdp_",
            "rdp_x y",
            token[:-1] + chr(ord(token[-1]) + 1),
        ):
            with pytest.raises(TokenRefused) as refused:
                await w.client.resolve(forged, "yes")
            assert refused.value.code == "BAD_TOKEN"
            assert forged not in str(refused.value)
        await w.client.reject(token, "no")
        assert (await w.failure(intent)).error.code == "PROMISE_REJECTED"

    async def test_it_expires(self, w: World) -> None:
        _, token = await self._token(w, token_expires=0)
        with pytest.raises(TokenRefused) as refused:
            await w.client.resolve(token, "yes")
        assert refused.value.code == "TOKEN_EXPIRED"

    async def test_an_older_secrets_token_holds_until_that_is_forgotten(self, w: World) -> None:
        intent, token = await self._token(w)
        await tokens.rotate(w.store)
        assert await tokens.read(w.store, token) == (intent, "answer#0")
        await tokens.rotate(w.store, forget=True)
        with pytest.raises(TokenRefused):
            await w.client.resolve(token, "yes")
        assert await tokens.read(w.store, tokens.sign(w.store.secret, intent, "answer#0", 1 << 44)) == (
            intent, "answer#0",
        )  # fmt: skip


@pytest.mark.parametrize(
    "wrong", [("", 0), ("a#b", 0), ("x" * 65, 0), ("a\n", 0), (7, 0), ("a", -1), ("a", "b"), ("a", True)]
)
async def test_what_cannot_be_a_promise_is_refused(w: World, wrong: Any) -> None:
    name, index = wrong

    async def main(payload: None) -> None:
        promise(name, index=index)

    await w.serve(main)
    intent = await w.send()
    assert (await w.failure(intent)).error.code == "BAD_ARGUMENT"
    with pytest.raises(ConfigurationError) as refused:
        await w.client.resolve(intent, name, 1, index=index)
    assert refused.value.code == "BAD_ARGUMENT"


async def test_an_unknown_intent_cannot_be_answered(w: World) -> None:
    with pytest.raises(NotFound):
        await w.client.resolve("0192f0c1-2345-7000-8abc-0123456789ab", "answer", 1)
    with pytest.raises(NotFound):
        await w.client.resolve("nobody", "answer", 1)
    for wrong in (("one",), ("not a token", 1), ("a", "b", "c", "d")):
        with pytest.raises(ConfigurationError) as refused:
            await w.client.resolve(*wrong)  # type: ignore[call-overload]  # that is the point
        assert refused.value.code == "BAD_ARGUMENT"
