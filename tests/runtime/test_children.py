"""Children: started once each, their outcomes delivered once each, cancelled with what called them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from redurable import (
    IntentFailed,
    Status,
    StepFailed,
    UsageError,
    WrongState,
    call,
    compensate,
    current,
    handler,
    promise,
    race,
    send,
    sleep,
    step,
    sync,
)
from redurable.events import subscribe
from redurable.model import Arrived, Called, Reason
from redurable.runtime import children, parking
from redurable.runtime.conductor import Conductor
from redurable.runtime.handlers import spec_of
from redurable.store import courier
from redurable.store.courier import relay
from redurable.store.store import Store
from redurable.tasks import background
from tests.runtime.world import AT_ONCE, World
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio
RAN: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@handler(queue="double", retry=AT_ONCE)
async def double(n: int) -> int:
    RAN.append(n)
    if n < 0:
        raise_for(n)
    return 2 * n


def raise_for(n: int) -> None:
    from redurable import TerminalError

    raise TerminalError(f"{n} is negative")


@handler(queue="waits", retry=AT_ONCE)
async def waits(name: str) -> str:
    compensate(undo, name)
    return await promise("go", str)


async def undo(name: str) -> None:
    RAN.append(f"undo {name}")


@pytest.fixture(params=[1, 4], ids=["one partition", "four partitions"])
async def w(request: pytest.FixtureRequest, redis_url: str, namespace: str, anyio_backend: Any) -> AsyncIterator[World]:
    """A namespace of the test's own, of one partition or of several."""
    async with World(redis_url, namespace, request.param) as world:
        yield world


async def quiet(w: World) -> None:
    """Return when nobody owes anybody anything."""
    async with asyncio.timeout(30):
        for keys in w.store.keys:
            while await w.store.mux.command("ZCARD", keys.timers):
                await asyncio.sleep(0.01)


async def serve(w: World, *functions: Any) -> Any:
    return await w.serve_specs(*(spec_of(f) for f in functions))


async def test_a_child_is_called_while_its_parent_costs_nothing(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        return [await call(waits, "a"), current().attempt]

    worker = await serve(w, parent, waits)
    intent = await w.client.send(parent)
    assert (await w.until(intent, Status.WAITING)).reason is Reason.INTENT
    (called,) = await w.entries(intent, Called)
    await w.until(called.child, Status.WAITING)
    while worker.running:
        await asyncio.sleep(0.002)
    await w.client.resolve(called.child, "go", "done")
    assert await w.result(intent) == ["done", 2]
    assert len(await w.entries(intent, Arrived)) == 1
    await quiet(w)
    await check_all(w.store)


async def test_many_at_once_each_once_and_typed(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(keyed: bool) -> list[int]:
        if keyed:  # their sessions lie in all partitions
            return await asyncio.gather(*(call(double, n, key=f"k{n}") for n in range(20)))
        return await asyncio.gather(*(call(double, n) for n in range(20)))

    await serve(w, parent, double)
    for keyed in (True, False):
        RAN.clear()
        assert await w.result(await w.client.send(parent, keyed)) == [2 * n for n in range(20)]
        assert sorted(RAN) == list(range(20))


async def test_a_child_that_fails_raises_what_it_ended_with_the_same_on_replay(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        found: list[Any] = []
        try:
            await call("double", -1)
        except IntentFailed as error:
            found += [error.status, error.error.message]
        await sleep(0.01)
        await promise("go")
        return found

    await serve(w, parent, double)
    intent = await w.client.send(parent)
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "go", None)
    assert (await w.result(intent))[0] == "FAILED"
    assert RAN == [-1]


async def test_an_operators_retry_calls_the_failed_child_anew(w: World) -> None:
    faults = {"a"}

    @handler(queue="fails", retry=AT_ONCE)
    async def fails(name: str) -> str:
        RAN.append(name)
        if name in faults:
            raise_for(-1)
        return name

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[str]:
        return [await call(fails, "b"), await call(fails, "a")]

    await serve(w, parent, fails)
    intent = await w.client.send(parent)
    assert (await w.failure(intent)).status == "FAILED"
    faults.clear()
    await w.client.retry(intent)
    assert await w.result(intent) == ["b", "a"]
    assert RAN == ["b", "a", "a"]


async def test_a_retried_parent_hears_at_once_of_children_that_ended_while_it_was_over(w: World) -> None:
    @handler(queue="plain", retry=AT_ONCE)
    async def plain(name: str) -> str:
        return await promise("go", str)

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[str]:
        return list(await asyncio.gather(call(waits, "a"), call(plain, "b")))

    await serve(w, parent, waits, plain)
    intent = await w.client.send(parent)
    await w.until(intent, Status.WAITING)
    first = [e.child for e in await w.entries(intent, Called)]
    for child in first:
        await w.until(child, Status.WAITING)
    await w.client.kill(intent)
    assert {(await w.failure(child)).status for child in first} == {"CANCELED"}
    await quiet(w)
    # its other end is told too: the parent waits for the one that was retried, and calls the other anew
    await w.client.retry(first[1])
    await w.until(first[1], Status.WAITING)
    await w.client.retry(intent)
    async with asyncio.timeout(30):
        while len(called := await w.entries(intent, Called)) < 3:
            await asyncio.sleep(0.02)
    again = called[2].child
    assert again not in first
    for child in (first[1], again):
        await w.until(child, Status.WAITING)
        await w.client.resolve(child, "go", child)
    assert await w.result(intent) == [again, first[1]]
    assert RAN == ["undo a"]
    with pytest.raises(WrongState, match="undo#1"):
        await w.client.retry(first[0])  # its parent called another in its place
    await quiet(w)
    await check_all(w.store)


async def test_a_cancel_reaches_the_leaves_and_undoes_each_once(w: World) -> None:
    @handler(queue="node", retry=AT_ONCE)
    async def node(name: str) -> None:
        compensate(undo, name)
        if len(name) < 3:
            await asyncio.gather(*(call(node, name + c) for c in "ab"))
        await promise("never")

    await serve(w, node)
    root = await w.client.send(node, "r")
    async with asyncio.timeout(30):
        while len(await w.client.list(status=Status.WAITING)) < 7:
            await asyncio.sleep(0.02)
    await w.client.cancel(root)
    assert (await w.failure(root)).status == "CANCELED"
    async with asyncio.timeout(30):
        while any(not i.status.final for i in await w.client.list(limit=100)):
            await asyncio.sleep(0.02)
    assert sorted(RAN) == sorted(f"undo {n}" for n in ("r", "ra", "rb", "raa", "rab", "rba", "rbb"))
    await quiet(w)
    counts = await check_all(w.store)
    assert counts == {"CANCELED": 7}


async def test_a_call_that_loses_a_race_is_cancelled(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        won = await race(child=call(waits, "x"), other=call(double, 4))
        return [won.name, won.value]

    await serve(w, parent, waits, double)
    intent = await w.client.send(parent)
    assert await w.result(intent) == ["other", 8]
    child = next(e.child for e in await w.entries(intent, Called) if "waits" in e.name)
    assert (await w.failure(child)).status == "CANCELED"


async def test_a_parent_that_fails_leaves_no_child_open(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> None:
        await asyncio.gather(call(waits, "x"), call(double, -1))

    await serve(w, parent, waits, double)
    intent = await w.client.send(parent)
    assert (await w.failure(intent)).status == "FAILED"
    child = next(e.child for e in await w.entries(intent, Called) if "waits" in e.name)
    assert (await w.failure(child)).status == "CANCELED"


async def test_what_is_sent_is_sent_once_and_goes_its_own_way(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        ids = [await send(double, n) for n in range(3)]
        await promise("go")
        return ids

    await serve(w, parent, double)
    intent = await w.client.send(parent)
    await w.until(intent, Status.WAITING)
    await w.client.resolve(intent, "go", None)
    ids = await w.result(intent)
    assert [await w.result(i) for i in ids] == [0, 2, 4]
    assert sorted(RAN) == [0, 1, 2]
    assert len({intent, *ids}) == 4


async def test_a_child_whose_session_is_busy_has_failed(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        found: list[Any] = []
        try:
            await call(waits, "x", key="k", on_busy="reject")
        except IntentFailed as error:
            found.append(error.code)
        try:
            await send(waits, "x", key="k", on_busy="reject")
        except StepFailed as failed:
            found.append(failed.code)
        return found

    await serve(w, parent, waits)
    first = await w.client.send(waits, "w", key="k")
    await w.until(first, Status.WAITING)
    assert await w.result(await w.client.send(parent)) == ["SESSION_BUSY", "SESSION_BUSY"]


async def test_nobody_waits_for_his_own_session(w: World) -> None:
    @handler(queue="line", retry=AT_ONCE)
    async def line(depth: int) -> str:
        try:
            return await (call(line, depth - 1) if depth else call(line, 0, key="k"))
        except IntentFailed as error:
            return error.code

    await serve(w, line)
    assert await w.result(await w.client.send(line, 1, key="k")) == "SESSION_DEADLOCK"


async def test_of_two_sessions_that_would_wait_for_each_other_one_is_told(w: World) -> None:
    met = asyncio.Barrier(2)

    @handler(queue="line", retry=AT_ONCE)
    async def line(payload: list[str]) -> Any:
        if not payload:
            return "free"
        await step(met.wait)()
        try:
            return await call(line, payload[1:], key=payload[0])
        except IntentFailed as error:
            return error.code

    await serve(w, line)
    first = await w.client.send(line, ["b"], key="a")
    second = await w.client.send(line, ["a"], key="b")
    results = {await w.result(first), await w.result(second)}
    assert results in ({"free", "SESSION_DEADLOCK"}, {"SESSION_DEADLOCK"}), "both if they called in the same instant"
    await quiet(w)
    await check_all(w.store)


async def test_of_three_too_and_through_children_that_have_no_session(w: World) -> None:
    @handler(queue="between", retry=AT_ONCE)
    async def between(payload: list[str]) -> Any:
        return await call(line, payload[1:], key=payload[0])

    @handler(queue="line", retry=AT_ONCE)
    async def line(payload: list[str]) -> Any:
        if not payload:
            return "free"
        go = await promise("go", str)
        try:
            return await call(line, [], key=go) if payload[0] == "line" else await call(between, [go])
        except IntentFailed as error:
            return error.code

    await serve(w, line, between)
    ids = [await w.client.send(line, [how], key=key) for how, key in (("line", "a"), ("between", "b"), ("line", "c"))]
    for intent, to in zip(ids[:2], "bc", strict=True):
        await w.client.resolve(intent, "go", to)
        async with asyncio.timeout(30):
            while not (await w.client.sessions.get("line", to)).waiting:
                await asyncio.sleep(0.01)
    await w.client.resolve(ids[2], "go", "a")
    assert [await w.result(intent) for intent in ids] == ["free", "free", "SESSION_DEADLOCK"]
    await quiet(w)
    await check_all(w.store)


async def test_a_child_that_its_dead_parent_never_said_it_called_is_cancelled(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent's process dies after the child was stored and before that was written, for the last time allowed."""
    stored = asyncio.Event()
    tell = Conductor.write

    def dies(self: Conductor, held: Any, entry: Any) -> None:
        if isinstance(entry, Called):
            stored.set()
        else:
            tell(self, held, entry)

    @handler(queue="parent", retry=AT_ONCE, max_delivery_attempts=1)
    async def parent(payload: None) -> Any:
        return await call(waits, "a")

    await serve(w, parent, waits)
    monkeypatch.setattr(Conductor, "write", dies)
    intent = await w.client.send(parent)
    await stored.wait()
    monkeypatch.undo()
    assert await w.entries(intent, Called) == []
    (child,) = await w.client.list(queue="waits")
    await w.until(child.id, Status.WAITING)
    assert await w.lose(intent, counted=True) == "FAILED"
    assert (await w.failure(intent)).error.code == "DELIVERY_ATTEMPTS_EXHAUSTED"
    assert (await w.failure(child.id)).status == "CANCELED"
    await quiet(w)
    await check_all(w.store)


async def test_what_a_dead_process_owed_is_seen_to_by_another(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: Any) -> None:
        """The process dies right after the settle."""

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> int:
        return await call(double, 2)

    monkeypatch.setattr("redurable.runtime.attempt.relay", nothing)
    await serve(w, parent, double)
    assert await w.result(await w.client.send(parent)) == 4
    await quiet(w)
    await check_all(w.store)


async def test_a_parent_looks_at_children_whose_outcome_was_lost(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_CHILDREN", (300, 300))
    monkeypatch.setattr(children, "RECHECK", 100)

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> str:
        return await call(waits, "a")

    await serve(w, parent, waits)
    intent = await w.client.send(parent)
    await w.until(intent, Status.WAITING)
    (called,) = await w.entries(intent, Called)
    await w.until(called.child, Status.WAITING)
    keys = w.store.keys_of(called.child)
    await w.store.mux.command("HDEL", keys.head(called.child), "reply")  # nobody will tell the parent
    await w.client.resolve(called.child, "go", "at last")
    assert await w.result(intent) == "at last"


@pytest.mark.parametrize("meanwhile", ["retry", "delete"])
async def test_an_outcome_that_an_operator_takes_away_is_told_before_or_not_at_all(
    w: World, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    read = courier.outcome

    async def late(store: Store, intent: str) -> Any:
        if RAN == ["child"]:
            RAN.append(meanwhile)
            await background(getattr(w.client, meanwhile)(intent))  # not of the handler's making
        return await read(store, intent)

    @handler(queue="fails-once", retry=AT_ONCE)
    async def fails_once(payload: None) -> str:
        RAN.append("child")
        if RAN == ["child"]:
            raise_for(-1)
        return "at last"

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> str:
        return await call(fails_once)

    monkeypatch.setattr(courier, "outcome", late)
    troubles: list[Any] = []
    end = subscribe(lambda name, fields: troubles.append(fields) if name == "task.failed" else None)
    try:
        await serve(w, parent, fails_once)
        intent = await w.client.send(parent)
        if meanwhile == "retry":
            assert await w.result(intent) == "at last"
        else:
            assert (await w.failure(intent)).status == "FAILED"
        await quiet(w)
    finally:
        end()
    assert not troubles


async def test_told_twice_it_is_heard_once(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    async def parent(payload: None) -> list[Any]:
        return [await call(double, 2), await promise("go")]

    await serve(w, parent, double)
    intent = await w.client.send(parent)
    while not await w.entries(intent, Arrived):
        await asyncio.sleep(0.01)
    (called,) = await w.entries(intent, Called)
    await w.store.mux.command("HSET", w.store.keys_of(called.child).head(called.child), "reply", f"^{intent}")
    await relay(w.store, called.child)
    await w.client.resolve(intent, "go", 1)
    assert await w.result(intent) == [4, 1]
    assert len(await w.entries(intent, Arrived)) == 2


async def test_a_plain_handler_has_children_too(w: World) -> None:
    @handler(queue="parent", retry=AT_ONCE)
    def parent(payload: None) -> list[Any]:
        return [sync.call(double, 3), len(sync.send(double, 4))]

    await serve(w, parent, double)
    assert await w.result(await w.client.send(parent)) == [6, 36]


async def test_slips(w: World) -> None:
    @step
    async def inside() -> None:
        await call(double, 1)

    @handler(queue="parent", retry=AT_ONCE)
    async def parent(which: str) -> None:
        if which == "inside":
            await inside()
        if which == "key":
            await call(double, 1, idempotency_key="k")
        if which == "queue":
            await call("no such queue")
        await call(double, 1, priority="urgent")

    await serve(w, parent, double)
    for which, code in (
        ("inside", "INSIDE_STEP"),
        ("key", "BAD_ARGUMENT"),
        ("queue", "BAD_ARGUMENT"),
        ("", "BAD_ARGUMENT"),
    ):
        failure = await w.failure(await w.client.send(parent, which))
        assert failure.error.code == code, which
    with pytest.raises(UsageError):
        await call(double, 1)
