"""Forks: a new intent with another's journal up to a step, that goes on by itself from there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from redurable import (
    IdempotencyConflict,
    NotFound,
    Retry,
    Status,
    TerminalError,
    WrongState,
    approval,
    call,
    compensate,
    continue_as_new,
    handler,
    idempotency_key,
    now,
    promise,
    race,
    random,
    run,
    sleep,
    state,
    step,
    uuid4,
)
from redurable.client import Client
from redurable.codecs import AesGcm, Vault
from redurable.model import Arrived, Called, Claimed, Forked, StepDone, TimerSet
from redurable.runtime.handlers import spec_of
from tests.runtime.world import World, again
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


class Book:
    """What bodies did: (name, idempotency key) in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.lines]

    def write(self, name: str) -> str:
        self.lines.append((name, idempotency_key()))
        return f"{name} {len(self.lines)}"


def nothing() -> None:
    """The body of steps of which only the place counts."""


@pytest.fixture
def book() -> Book:
    return Book()


async def test_it_keeps_what_was_recorded_and_runs_the_step_and_the_rest_anew(w: World, book: Book) -> None:
    async def main(payload: dict[str, int]) -> list[str]:
        return [await run(name, book.write, name) for name in ("a", "b", "c")]

    await w.serve(main)
    source = await w.send({"n": 1}, labels={"team": "shop"})
    assert await w.result(source) == ["a 1", "b 2", "c 3"]
    journal = await w.journal(source)
    forked = await w.client.fork(source, "b")
    assert await w.result(forked) == ["a 1", "b 4", "c 5"]
    assert await w.journal(source) == journal, "the other is left as it is"
    assert [type(e) for e in await w.journal(forked)] == [StepDone, Forked, Claimed, StepDone, StepDone]
    keys = [key for name, key in book.lines if name == "b"]
    assert keys[0] != keys[1], "whoever takes the key sees two calls"
    info = await w.get(forked)
    assert (info.forked, info.attempt, info.labels) == (source, 1, {"team": "shop"})
    assert (await w.get(source)).forked is None
    await check_all(w.store)


async def test_a_failed_one_is_forked_from_the_step_that_failed(w: World, book: Book) -> None:
    broken = True

    @step(retry=Retry(attempts=2, first=0))
    async def charge() -> str:
        book.write("charge")
        if broken:
            raise ConnectionError
        return "paid"

    async def main(payload: dict[str, Any]) -> list[Any]:
        compensate(book.write, "refund")
        return [payload["card"], await run("order", book.write, "order"), await charge()]

    await w.serve(main)
    source = await w.send({"card": 1})
    await w.failure(source)
    broken = False
    assert await w.result(await w.client.fork(source, "charge")) == [1, "order 1", "paid"]
    assert await w.result(await w.client.fork(source, "charge", payload={"card": 2})) == [2, "order 1", "paid"]
    assert await w.result(await w.client.fork(source, "charge", payload={"card": None})) == [None, "order 1", "paid"]
    assert book.names == ["order", "charge", "charge", "refund", "charge", "charge", "charge"]
    assert (await w.get(source)).status is Status.FAILED


async def test_one_that_runs_and_one_that_waits_are_forked_too(w: World, book: Book) -> None:
    in_step, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> str:
        in_step.set()
        await go_on.wait()
        return book.write("slow")

    async def main(payload: None) -> list[str]:
        first = await run("first", book.write, "first")
        second = await run("second", slow)
        return [first, second, await promise("answer", str)]

    await w.serve(main)
    source = await w.send()
    await in_step.wait()
    early = await w.client.fork(source, "first")
    with pytest.raises(NotFound, match=r"no call 'second'") as error:
        await w.client.fork(source, "second")
    assert error.value.code == "STEP_NOT_FOUND"
    assert error.value.hint == "it has: first#1"
    go_on.set()
    for intent in (source, early):
        await w.until(intent, Status.WAITING)
    late = await w.client.fork(source, "second")
    await w.until(late, Status.WAITING)
    for intent in (source, early, late):
        await w.client.resolve(intent, "answer", intent[:1])
    results = [await w.result(intent) for intent in (source, early, late)]
    assert results[0][0] == results[2][0] != results[1][0]
    assert len({result[1] for result in results}) == 3
    await check_all(w.store)


async def test_the_same_name_again_branches_and_what_is_called_inside_a_step(w: World, book: Book) -> None:
    @step
    async def inner(what: str) -> str:
        return book.write(what)

    @step
    async def tool() -> str:
        return await inner("x") + await inner("y")

    async def branch(name: str) -> str:
        return await inner(name)

    async def main(payload: None) -> Any:
        first = [await inner("one"), await inner("two")]
        both = await asyncio.gather(branch("left"), branch("right"))
        return [first, both, await tool()]

    await w.serve(main)
    source = await w.send()
    await w.result(source)
    done = book.names

    async def fork(name: str) -> list[str]:
        before = len(book.names)
        await w.result(await w.client.fork(source, name))
        return book.names[before:]

    assert await fork("inner") == done
    assert await fork("inner#1") == done
    assert await fork("inner#2") == done[1:]
    assert await fork("tool") == ["x", "y"], "a step runs anew with all that is inside it"
    assert await fork("tool#1>>/inner#2") == ["y"]
    branches = [entry.scope for entry in await w.entries(source, StepDone) if "branch" in entry.scope]
    assert await fork(f"{branches[-1]}/inner#1") == [done[3], "x", "y"]


async def test_chance_and_time_up_to_the_step_are_what_they_were_and_then_its_own(w: World) -> None:
    async def main(payload: None) -> Any:
        drawn: list[Any] = [random(), str(uuid4()), now().isoformat()]
        # what is drawn decides what is called
        await run(f"step {drawn[0]:.9f}", nothing)
        drawn += [random(), now().isoformat()]
        await run(f"then {drawn[3]:.9f}", nothing)
        await run("cut", nothing)
        again(3 if payload else 1)
        return drawn, random(), str(uuid4()), now().isoformat()

    await w.serve(main)
    source = await w.send()
    first = await w.result(source)
    forked = await w.client.fork(source, "cut")
    other = await w.result(forked)
    assert other[0] == first[0]
    assert [one == two for one, two in zip(first[1:], other[1:], strict=True)] == [False] * 3
    twice = await w.client.fork(forked, "cut")
    third = await w.result(twice)
    assert third[0] == first[0]
    assert third[1] not in (first[1], other[1])
    earlier = await w.client.fork(forked, f"then {first[0][3]:.9f}")
    assert (await w.result(earlier))[0] == first[0], "what lies before a fork's own beginning is of the first still"


async def test_timers_keep_their_due_time_and_promises_their_values(w: World, book: Book) -> None:
    async def main(payload: None) -> Any:
        nap = asyncio.create_task(sleep(3600))
        name = await promise("name", str)
        await run("greet", book.write, f"hello_{name}")
        answer = await promise("answer", str)
        won = await race(nap=nap, later=promise("later", str))
        return [name, answer, won.name]

    await w.serve(main)
    source = await w.send()
    await w.client.resolve(source, "name", "ada")
    await w.until(source, Status.WAITING)
    await w.client.resolve(source, "answer", "yes")
    forked = await w.client.fork(source, "greet")
    info = await w.until(forked, Status.WAITING)
    (timer,) = await w.entries(forked, TimerSet)
    assert [timer] == await w.entries(source, TimerSet)
    assert info.wake == timer.due
    with pytest.raises(WrongState) as error:
        await w.client.resolve(forked, "name", "grace")
    assert error.value.code == "ALREADY_RESOLVED"
    await w.client.resolve(forked, "name", "ada")
    await w.client.resolve(forked, "answer", "no")
    await w.client.resolve(forked, "later", "now")
    assert await w.result(forked) == ["ada", "no", "later"]
    assert book.names == ["hello_ada", "hello_ada"]
    of_promise = await w.client.fork(source, "name")
    await w.until(of_promise, Status.WAITING)
    await w.client.resolve(of_promise, "name", "grace")
    await w.client.resolve(of_promise, "answer", "yes")
    await w.client.resolve(of_promise, "later", "now")
    assert await w.result(of_promise) == ["grace", "yes", "later"]
    await w.client.kill(source)
    await check_all(w.store)


@pytest.mark.parametrize("from_step", ["ok", "after", "beside"])
async def test_a_promise_with_a_time_limit_is_asked_for_anew(w: World, book: Book, from_step: str) -> None:
    async def main(payload: None) -> list[str]:
        await run("before", book.write, "before")

        async def beside() -> None:
            await run("beside", book.write, "beside")

        answer, _ = await asyncio.gather(promise("ok", str).wait(timeout=3600), beside())
        await run("after", book.write, "after")
        return [answer, (await approval("fine", reminders=[3600])).outcome]

    await w.serve(main)
    source = await w.send()
    await w.until(source, Status.WAITING)
    if from_step != "beside":
        await w.client.resolve(source, "ok", "yes")
        while not await w.client.approvals():
            await asyncio.sleep(0.01)
    forked = await w.client.fork(source, from_step)
    if from_step != "after":
        await w.until(forked, Status.WAITING)
        await w.client.resolve(forked, "ok", "mine")
    while forked not in {asked.intent for asked in await w.client.approvals()}:
        await asyncio.sleep(0.01)
    await w.client.answer(forked, "fine", "approve")
    assert await w.result(forked) == ["yes" if from_step == "after" else "mine", "approve"]
    again = await w.client.fork(forked, "fine")
    while again not in {asked.intent for asked in await w.client.approvals()}:
        await asyncio.sleep(0.01)
    await w.client.answer(again, "fine", "reject")
    assert (await w.result(again))[1] == "reject"
    for intent in (source, forked, again):
        await w.client.kill(intent)
    await check_all(w.store)


async def two_called(w: World, intent: str) -> None:
    """Return once both children have been called."""
    async with asyncio.timeout(30):
        while len(await w.entries(intent, Called)) < 2:
            await asyncio.sleep(0.005)


async def test_children_that_ended_are_kept_and_open_ones_are_called_again(w: World, book: Book) -> None:
    @handler(queue="child")
    async def child(payload: str) -> str:
        await run("begin", book.write, payload)
        return await promise("end", str) if payload == "slow" else payload

    async def main(payload: None) -> Any:
        quick = await call(child, "quick")
        slow = asyncio.create_task(call(child, "slow"))
        await asyncio.sleep(0)
        await run("between", book.write, "between")
        return [quick, await slow]

    await w.serve(main)
    await w.serve_specs(spec_of(child))
    source = await w.send()
    await two_called(w, source)
    forked = await w.client.fork(source, "between")
    await two_called(w, forked)
    mine, others = await w.entries(forked, Called), await w.entries(source, Called)
    assert mine[0] == others[0]
    assert mine[1].child != others[1].child
    for slow, value in ((others[1].child, "his"), (mine[1].child, "mine")):
        await w.until(slow, Status.WAITING)
        await w.client.resolve(slow, "end", value)
    assert await w.result(source) == ["quick", "his"]
    assert await w.result(forked) == ["quick", "mine"]
    assert sorted(book.names) == ["between", "between", "quick", "slow", "slow"]


async def test_the_outcome_of_a_child_that_was_never_said_to_be_called_is_kept(w: World, book: Book) -> None:
    """The parent's process died between the child's beginning and its own word of it."""

    @handler(queue="child")
    async def child(payload: None) -> str:
        return book.write("child") if payload else "done"

    async def main(payload: None) -> Any:
        got = await call(child)
        await run("after", book.write, "after")
        return got

    await w.serve(main)
    await w.serve_specs(spec_of(child))
    source = await w.send()
    assert await w.result(source) == "done"
    record = await w.client.export(source)
    record["journal"] = [entry for entry in record["journal"] if entry["kind"] != "Called"]
    await w.client.delete(source)
    await w.client.import_(record)
    forked = await w.client.fork(source, "after")
    assert await w.result(forked) == "done"
    (arrived,) = await w.entries(forked, Arrived)
    assert not await w.entries(forked, Called)
    assert arrived == (await w.entries(source, Arrived))[0]


async def test_one_of_a_session_goes_to_the_end_of_its_line(w: World, book: Book) -> None:
    go_on = asyncio.Event()

    async def main(payload: str) -> Any:
        seen = await state.get("seen", of=list[str], default=[])
        await run("work", book.write, payload)
        if payload == "holder":
            await run("hold", go_on.wait)
        await state.set("seen", [*await state.get("seen", of=list[str], default=[]), payload])
        return seen

    await w.serve(main)
    source = await w.send("source", key="k")
    assert await w.result(source) == []
    await w.send("holder", key="k")
    last = await w.send("last", key="k")
    forked = await w.client.fork(source, "work", idempotency_key="once")
    assert (await w.client.sessions.get("q", "k")).waiting == 2
    assert (await w.get(forked)).session == "k"
    go_on.set()
    assert await w.result(last) == ["source", "holder"]
    assert await w.result(forked) == [], "what was read before the step is what was read then"
    assert book.names == ["source", "holder", "last", "source"]
    await check_all(w.store)


async def test_a_turn_is_forked_by_itself(w: World, book: Book) -> None:
    async def main(payload: int) -> Any:
        drawn = [random(), now().isoformat()]
        await run("a", book.write, f"a{payload}")
        await run("b", book.write, f"b{payload}")
        if payload < 3:
            continue_as_new(payload + 1)
        return [payload, drawn, random()]

    await w.serve(main)
    source = await w.send(1)
    payload, drawn, own = await w.result(source)
    forked = await w.client.fork(source, "b")
    other = await w.result(forked)
    assert other[:2] == [payload, drawn]
    assert other[2] != own
    assert book.names == ["a1", "b1", "a2", "b2", "a3", "b3", "b3"]
    assert (await w.get(forked)).turn == 1


async def test_sealed_values_stay_sealed_and_are_opened(w: World) -> None:
    codec = AesGcm({"k": bytes(32)}.get, current="k")

    async def main(payload: str) -> Any:
        first = await run("first", str.upper, payload)
        return [payload, first, await run("second", str.lower, first)]

    await w.serve(main, vault=Vault([codec]))
    async with Client(w.url, namespace=w.namespace, codec=codec) as client:
        source = await client.send("q", "Secret")
        assert await client.wait_for(source, 30) == ["Secret", "SECRET", "secret"]
        forked = await w.client.fork(source, "second")  # by one who has no codec
        assert await client.wait_for(forked, 30) == ["Secret", "SECRET", "secret"]
        other = await client.fork(source, "second", payload="Other")
        assert await client.wait_for(other, 30) == ["Other", "SECRET", "secret"]
        kept = [await w.store.mux.command("LRANGE", w.store.keys_of(i).journal(i), 0, 0) for i in (source, forked)]
        assert kept[0] == kept[1]
        envelopes = [await w.store.mux.command("GET", w.store.keys_of(i).envelope(i)) for i in (source, forked, other)]
        assert b"ecret" not in envelopes[1]
        assert b"Other" not in envelopes[2]


async def test_what_a_cancel_made_it_do_is_not_kept(w: World, book: Book) -> None:
    async def main(payload: None) -> Any:
        await run("before", book.write, "before")
        try:
            await promise("never")
        except asyncio.CancelledError:
            await run("tidy", book.write, "tidy")
            raise

    await w.serve(main)
    source = await w.send()
    await w.until(source, Status.WAITING)
    await w.client.cancel(source)
    assert (await w.failure(source)).status == "CANCELED"
    with pytest.raises(NotFound, match="tidy") as error:
        await w.client.fork(source, "tidy")
    assert error.value.hint == "it has: before#1"
    forked = await w.client.fork(source, "before")
    await w.until(forked, Status.WAITING)
    await w.client.resolve(forked, "never", 1)
    assert await w.result(forked) is None
    assert book.names == ["before", "tidy", "before"]


async def test_an_operators_retry_before_it_leaves_no_trace(w: World, book: Book) -> None:
    broken = True

    async def pay() -> str:
        if broken:
            raise TerminalError("broke")
        return book.write("pay")

    async def main(payload: None) -> Any:
        await run("order", book.write, "order")
        await run("pay", pay)
        return await run("ship", book.write, "ship")

    await w.serve(main)
    source = await w.send()
    await w.failure(source)
    broken = False
    await w.client.retry(source)
    await w.result(source)
    assert await w.result(await w.client.fork(source, "pay")) == "ship 5"
    assert await w.result(await w.client.fork(source, "ship")) == "ship 6"
    assert book.names == ["order", "pay", "ship", "pay", "ship", "ship"]


async def test_forked_twice_with_a_key_it_is_one(w: World, book: Book) -> None:
    async def main(payload: None) -> str:
        return await run("a", book.write, "a")

    await w.serve(main)
    source = await w.send()
    await w.result(source)
    ids = await asyncio.gather(*(w.client.fork(source, "a", idempotency_key="k") for _ in range(5)))
    assert len(set(ids)) == 1
    assert await w.result(ids[0]) == "a 2"
    assert await w.client.fork(source, "a", idempotency_key="k") == ids[0]
    assert (await w.get(ids[0])).idempotency_key == "k"
    for other in ({"payload": 1}, {"payload": None}):
        with pytest.raises(IdempotencyConflict):
            await w.client.fork(source, "a", idempotency_key="k", **other)
    assert len({await w.client.fork(source, "a") for _ in range(2)}) == 2


async def test_it_ends_and_moves_as_any_other(w: World, book: Book) -> None:
    async def main(payload: None) -> str:
        await run("a", book.write, "a")
        return await promise("end", str)

    worker = await w.serve(main)
    source = await w.send()
    await w.until(source, Status.WAITING)
    await w.stop(worker)
    never = await w.client.fork(source, "a")
    assert await w.client.cancel(never) == "CANCELED", "it never ran"
    paused = await w.client.fork(source, "a")
    assert await w.client.pause(paused) == "PAUSED"
    moved = await w.client.fork(source, "a")
    record = await w.client.export(moved)
    await w.client.kill(moved)
    await w.client.delete(moved)
    await w.client.import_(record)
    await w.client.resume(paused)
    await w.serve(main)
    for intent in (source, paused, moved):
        await w.client.resolve(intent, "end", "end")
        assert await w.result(intent) == "end"
    await w.client.delete(source)
    assert (await w.get(moved)).forked == source, "it needs the other no more"
    await check_all(w.store)


@pytest.mark.parametrize("name", ["", "b", "a#2", "a#1#1", "x/a#1", "call child", "A"])
async def test_a_step_that_is_not_there_is_refused_with_those_that_are(w: World, book: Book, name: str) -> None:
    async def main(payload: None) -> str:
        return await run("a", book.write, "a")

    await w.serve(main)
    source = await w.send()
    await w.result(source)
    with pytest.raises(NotFound) as error:
        await w.client.fork(source, name)
    assert (error.value.code, error.value.hint) == ("STEP_NOT_FOUND", "it has: a#1")
    assert len(await w.client.list()) == 1


async def test_what_cannot_be_forked_is_refused(w: World) -> None:
    for unknown in ("0190a5ae-0000-7000-8000-000000000000", "nonsense"):
        with pytest.raises(NotFound) as error:
            await w.client.fork(unknown, "a")
        assert error.value.code == "INTENT_NOT_FOUND"
    fresh = await w.send()
    with pytest.raises(NotFound) as error:
        await w.client.fork(fresh, "a")
    assert error.value.hint == "it has: nothing yet"


async def test_a_payload_that_does_not_fit_fails_the_fork_at_its_start(w: World, book: Book) -> None:
    async def main(payload: dict[str, int]) -> str:
        await run("a", book.write, "a")
        await run("b", book.write, "b")
        return await promise("go", str)

    await w.serve(main)
    source = await w.send({"n": 1})
    await w.until(source, Status.WAITING)
    for at in ("a", "b"):
        forked = await w.client.fork(source, at, payload={"n": "one"})
        failure = await w.failure(forked)
        assert failure.error.code == "TYPE_MISMATCH"
        assert "does not fit dict[str, int]: [...]: expected int, got str" in failure.error.message
        assert f"what was forked from {source} was given this: fork it again with" in failure.error.message
    assert book.names == ["a", "b"]
    fits = await w.client.fork(source, "b", payload={"n": 2})
    await w.until(fits, Status.WAITING)
    assert (await w.get(source)).status is Status.WAITING
