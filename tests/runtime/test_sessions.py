"""Sessions as handlers and senders see them: order, exclusion, what is done when one is busy, the state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import redurable
from redurable import (
    Client,
    ConfigurationError,
    IdempotencyConflict,
    PayloadTooLarge,
    SerialisationError,
    SessionBusy,
    Status,
    TerminalError,
    UsageError,
    current,
    handler,
    sleep,
    state,
    step,
    sync,
)
from redurable.config import parse_url
from redurable.ids import partition_of
from redurable.model import StepDone
from redurable.runtime import parking
from redurable.runtime.handlers import spec_of
from redurable.store.store import Store
from tests.runtime.world import AT_ONCE, QUEUE, World, again
from tests.support.invariants import check_all

pytestmark = pytest.mark.anyio


class Turns:
    """A handler that takes its turn: it waits for its gate, and tells who was at work beside it."""

    def __init__(self) -> None:
        self.began: list[Any] = []
        self.ended: list[Any] = []
        self.most = 0
        self.gates: dict[Any, asyncio.Event] = {}

    def gate(self, name: Any) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def handle(self, payload: Any) -> Any:
        self.began.append(payload)
        try:
            self.most = max(self.most, len(self.began) - len(self.ended))
            if payload in self.gates:
                await self.gates[payload].wait()
            return payload
        finally:
            self.ended.append(payload)

    async def begun(self, payload: Any) -> None:
        async with asyncio.timeout(30):
            while payload not in self.began:
                await asyncio.sleep(0.002)


@pytest.fixture(autouse=True)
def _parks_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "SHORT", 0.05)


@pytest.fixture
def turns() -> Turns:
    return Turns()


async def serve(w: World, turns: Turns, **options: Any) -> None:
    async def handle(payload: Any) -> Any:
        return await turns.handle(payload)

    await w.serve(handle, **options)


class TestOrder:
    async def test_intents_of_one_key_run_one_at_a_time_in_order_of_sending(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        ids = [await w.send(n, key="a", priority="high" if n % 3 else "low") for n in range(20)]
        assert [await w.result(intent) for intent in ids] == list(range(20))
        assert turns.began == list(range(20))
        assert turns.most == 1
        await check_all(w.store)

    async def test_many_sent_at_once_keep_their_order(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        ids = await w.client.send_many(QUEUE, range(60), key="a")
        await w.result(ids[-1])
        assert turns.began == list(range(60))

    async def test_sessions_do_not_wait_for_each_other_nor_for_those_without_one(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        turns.gate("held")
        held = await w.send("held", key="a")
        await turns.begun("held")
        assert await w.call("other", key="b") == "other"
        assert await w.call("none") == "none"
        waits = await w.send("next", key="a")
        assert (await w.get(waits)).status is Status.CREATED
        assert (await w.get(waits)).session == "a"
        turns.gate("held").set()
        assert [await w.result(i) for i in (held, waits)] == ["held", "next"]

    async def test_a_delayed_intent_takes_its_place_when_it_falls_due(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        for key in "abcdefgh":
            turns.began.clear()
            turns.ended.clear()
            turns.gates["held"] = asyncio.Event()
            await w.send("held", key=key)
            late = await w.send("late", key=key, delay=0.05)
            await w.send("early", key=key)
            in_time = (await w.get(late)).start is not None
            async with asyncio.timeout(30):
                while (await w.get(late)).start is not None:
                    await asyncio.sleep(0.005)
            last = await w.send("last", key=key)
            turns.gate("held").set()
            await w.result(last)
            if in_time:  # else a loaded machine took all the delay to send the early one
                break
        assert turns.began == ["held", "early", "late", "last"]

    async def test_a_waiting_and_a_retrying_head_hold_their_session(self, w: World) -> None:
        seen: list[Any] = []

        async def handle(payload: str) -> None:
            seen.append((payload, current().attempt))
            if payload == "sleeps":
                await sleep(0.1)
            if payload == "raises":
                again()

        await w.serve(handle)
        for payload in ("sleeps", "raises", "last"):
            last = await w.send(payload, key="a")
        await w.result(last)
        assert seen == [("sleeps", 1), ("sleeps", 2), ("raises", 1), ("raises", 2), ("last", 1)]

    async def test_a_failed_head_frees_it_and_a_retried_one_goes_next(self, w: World) -> None:
        seen: list[str] = []
        gate = asyncio.Event()
        broken = True

        async def handle(payload: str) -> None:
            seen.append(payload)
            if payload == "bad" and broken:
                raise TerminalError("no")
            if payload == "held":
                await gate.wait()

        await w.serve(handle)
        bad = await w.send("bad", key="a")
        await w.send("held", key="a")
        last = await w.send("last", key="a")
        await w.failure(bad)
        broken = False
        await w.until((await w.client.list(status=Status.IN_PROGRESS))[0].id, Status.IN_PROGRESS)
        await w.client.retry(bad)
        gate.set()
        await w.result(last)
        assert seen == ["bad", "held", "bad", "last"]
        await w.result(bad)

    async def test_the_next_turn_of_an_intent_holds_its_session(self, w: World) -> None:
        seen: list[Any] = []

        async def handle(payload: int) -> Any:
            turns = await state.get("turns", of=int, default=0)
            seen.append((payload, turns, current().key))
            await state.set("turns", turns + 1)
            if payload in (1, 2):
                redurable.continue_as_new(payload + 1)
            return turns

        await w.serve(handle)
        first = await w.send(1, key="a")
        last = await w.send(9, key="a")
        assert [await w.result(first), await w.result(last)] == [2, 3]
        assert seen == [(1, 0, "a"), (2, 1, "a"), (3, 2, "a"), (9, 3, "a")]
        await check_all(w.store)

    async def test_a_lost_worker_does_not_lose_the_session(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        turns.gate("held")
        held = await w.send("held", key="a")
        last = await w.send("last", key="a")
        await turns.begun("held")
        assert await w.lose(held) == "OK"
        turns.gate("held").set()
        assert await w.result(last) == "last"
        assert turns.began == ["held", "held", "last"]

    async def test_one_that_waits_can_be_cancelled(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        turns.gate("held")
        await w.send("held", key="a")
        ids = [await w.send(n, key="a") for n in range(3)]
        assert await w.client.cancel(ids[1]) == "CANCELED"
        turns.gate("held").set()
        await w.result(ids[2])
        assert turns.began == ["held", 0, 2]

    async def test_a_call_waits_for_its_turn(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        assert await w.client.call(QUEUE, 1, key="a", timeout=30) == 1

    async def test_a_handler_knows_its_key(self, w: World) -> None:
        async def handle() -> Any:
            return current().key

        await w.serve(handle)
        assert [await w.call(key="a"), await w.call()] == ["a", None]


class TestBusy:
    async def test_it_may_be_refused(self, w: World, turns: Turns) -> None:
        assert await w.send(1, key="a", on_busy="reject")
        with pytest.raises(SessionBusy, match="'a' of queue 'q' is not free") as caught:
            await w.send(2, key="a", on_busy="reject")
        assert caught.value.code == "SESSION_BUSY"
        assert await w.send(2, key="b", on_busy="reject")
        with pytest.raises(SessionBusy):
            await w.client.call(QUEUE, 2, key="a", on_busy="reject")

    async def test_its_line_may_be_full(self, w: World) -> None:
        for n in range(3):
            await w.send(n, key="a", max_queued=2)
        with pytest.raises(SessionBusy, match="2 intents wait") as caught:
            await w.send(3, key="a", max_queued=2)
        assert caught.value.code == "SESSION_FULL"
        with pytest.raises(SessionBusy):
            await w.client.send_many(QUEUE, range(5), key="b", max_queued=1)
        assert len(await w.client.list()) == 5

    async def test_the_holder_may_be_interrupted(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        turns.gate("held")
        held = await w.send("held", key="a")
        await turns.begun("held")
        urgent = await w.send("urgent", key="a", on_busy="interrupt")
        assert await w.result(urgent) == "urgent"
        assert (await w.failure(held)).status == "CANCELED"

    async def test_those_that_wait_may_be_replaced(self, w: World, turns: Turns) -> None:
        await serve(w, turns)
        turns.gate("held")
        held = await w.send("held", key="a")
        await turns.begun("held")
        for n in range(5):
            newest = await w.send(n, key="a", on_busy="replace")
        turns.gate("held").set()
        assert await w.result(newest) == 4
        assert await w.result(held) == "held"
        assert turns.began == ["held", 4]

    async def test_an_idempotency_key_is_the_sessions(self, w: World) -> None:
        first = await w.send(1, key="a", idempotency_key="x")
        assert await w.send(1, key="a", idempotency_key="x", on_busy="reject") == first
        assert await w.send(1, key="b", idempotency_key="x") != first
        assert await w.send(1, idempotency_key="x") != first
        with pytest.raises(IdempotencyConflict):
            await w.send(2, key="a", idempotency_key="x")

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"key": ""}, "'' cannot be the key"),
            ({"key": "x" * 257}, "1 to 256"),
            ({"key": "a\nb"}, "printable"),
            ({"key": 7}, "cannot be the key"),
            ({"key": "a", "on_busy": "wait"}, "queue, reject, interrupt, replace"),
            ({"key": "a", "max_queued": -1}, "max_queued"),
            ({"key": "a", "max_queued": "2"}, "max_queued"),
            ({"on_busy": "reject"}, "give its key"),
            ({"max_queued": 1}, "give its key"),
            ({"key": "a", "on_busy": "reject", "delay": 5}, "delay="),
            ({"key": "a", "max_queued": 3, "delay": 5}, "delay="),
            ({"key": "a", "shared": True, "on_busy": "reject"}, "shared"),
        ],
    )
    async def test_what_cannot_be_is_refused(self, w: World, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigurationError, match=says):
            await w.send(1, **options)
        assert await w.client.list() == []


async def test_a_session_is_in_one_partition(w: World) -> None:
    store = Store(parse_url(w.url), w.namespace + "p", partitions=16)
    await store.start()
    async with Client(w.url, namespace=w.namespace + "p") as client:
        ids = [await client.send(QUEUE, n, key=f"k{n % 8}") for n in range(24)]
        places = [partition_of(intent) for intent in ids]
        assert places[:8] == places[8:16] == places[16:]
        assert len(set(places)) > 2
        assert await client.send(QUEUE, 1, key="k0", idempotency_key="x") not in ids
        await check_all(store)
    await store.close()


@dataclass
class Cart:
    items: list[str]


async def held_state(w: World, key: str = "a") -> dict[str, bytes]:
    """Return what the state of a session holds for everybody to see."""
    session = w.store.session(w.store.keys[0], QUEUE, key)
    return {name: await session.read(name) or b"" for name in await session.names()}


class TestState:
    async def test_it_outlives_an_intent_and_is_typed(self, w: World) -> None:
        async def handle(payload: str) -> Any:
            cart = await state.get("cart", of=Cart, default=Cart([]))
            cart.items.append(payload)
            await state.set("cart", cart)
            return [cart.items, await state.get("nothing"), await state.get("nothing", default=7), await state.keys()]

        await w.serve(handle)
        assert await w.call("tea", key="a") == [["tea"], None, 7, ["cart"]]
        assert await w.call("milk", key="a") == [["tea", "milk"], None, 7, ["cart"]]
        assert await w.call("milk", key="b") == [["milk"], None, 7, ["cart"]]

    async def test_what_was_written_is_read_back_and_what_was_deleted_is_gone(self, w: World) -> None:
        async def handle() -> Any:
            await state.set("x", 1)
            await state.set("y", 2)
            before = await state.get("x"), await state.keys()
            await state.delete("x")
            return [*before, await state.get("x", default="none"), await state.keys()]

        await w.serve(handle)
        intent = await w.send(key="a")
        assert await w.result(intent) == [1, ["x", "y"], "none", ["y"]]
        assert await held_state(w) == {"y": b"\x02"}
        assert [e.name for e in await w.entries(intent, StepDone)] == ["state.keys()"] * 2

    async def test_reads_are_journaled(self, w: World) -> None:
        seen: list[Any] = []

        async def handle() -> None:
            seen.append((await state.get("x"), await state.keys()))
            session = w.store.session(w.store.keys[0], QUEUE, "a")
            await w.store.mux.command("HSET", session.state, "x", b"\x05")
            again(3)

        await w.serve(handle)
        await w.call(key="a")
        assert seen == [(None, [])] * 4

    async def test_who_fails_discards_what_it_wrote_since_its_last_park(self, w: World) -> None:
        async def handle(payload: str) -> None:
            await state.set("before", payload)
            await sleep(0.1)
            await state.set("after", payload)
            if payload == "bad":
                raise TerminalError("no")

        await w.serve(handle)
        await w.failure(await w.send("bad", key="a"))
        assert await held_state(w) == {"before": b"\xa3bad"}
        await w.call("ok", key="a")
        assert await held_state(w) == {"before": b"\xa2ok", "after": b"\xa2ok"}

    async def test_a_retried_one_does_not_repeat_what_was_known_already(self, w: World) -> None:
        broken = True

        async def handle(payload: str) -> None:
            await state.set("mark", payload)
            if payload == "first":
                await sleep(0.1)
                if broken:
                    raise TerminalError("no")

        await w.serve(handle)
        first = await w.send("first", key="a")
        await w.failure(first)
        await w.call("second", key="a")
        broken = False
        await w.client.retry(first)
        await w.result(first)
        assert await held_state(w) == {"mark": b"\xa6second"}

    async def test_others_see_it_only_when_the_intent_has_completed(self, w: World) -> None:
        gate = asyncio.Event()

        async def handle() -> None:
            await state.set("x", 1)
            await gate.wait()

        await w.serve(handle)
        intent = await w.send(key="a")
        await w.until(intent, Status.IN_PROGRESS)
        assert await held_state(w) == {}
        gate.set()
        await w.result(intent)
        assert await held_state(w) == {"x": b"\x01"}

    async def test_it_is_kept_for_its_own_time(self, w: World) -> None:
        async def handle() -> None:
            await state.set("x", 1)

        await w.serve(handle, state_retention=0.2)
        await w.call(key="a")
        async with asyncio.timeout(30):
            while await held_state(w):
                await asyncio.sleep(0.02)

    async def test_branches_and_steps_may_read_it(self, w: World) -> None:
        @step
        async def peek() -> Any:
            return await state.get("x")

        async def handle(payload: int) -> Any:
            found = await asyncio.gather(state.get("x"), peek(), state.get("y"))
            await state.set("x", payload)
            again()
            return found

        await w.serve(handle)
        assert await w.call(1, key="a") == [None, None, None]
        assert await w.call(2, key="a") == [1, 1, None]

    async def test_plain_handlers_have_it_too(self, w: World) -> None:
        def handle(payload: int) -> Any:
            before = sync.state.get("x", of=int, default=0)
            sync.state.set("x", before + payload)
            sync.state.set("y", 1)
            sync.state.delete("y")
            return [before, sync.state.keys()]

        await w.serve(handle)
        assert [await w.call(5, key="a"), await w.call(5, key="a")] == [[0, ["x"]], [5, ["x"]]]

    async def test_a_cancelled_handler_may_read_it(self, w: World) -> None:
        gate = asyncio.Event()

        async def handle() -> Any:
            try:
                await asyncio.gather(gate.wait(), state.get("x"))
            finally:
                assert await state.get("x") is None

        await w.serve(handle)
        intent = await w.send(key="a")
        await w.until(intent, Status.IN_PROGRESS)
        await w.client.cancel(intent)
        assert (await w.failure(intent)).status == "CANCELED"


class TestShared:
    async def both(self, w: World, gate: asyncio.Event) -> Callable[..., Any]:
        async def hold(payload: int) -> None:
            await state.set("x", payload)
            await gate.wait()

        async def look(write: bool = False) -> Any:
            if write:
                await state.set("x", 0)
            return await state.get("x")

        handler(queue=QUEUE, type="hold", retry=AT_ONCE)(hold)
        handler(queue=QUEUE, type="look", retry=AT_ONCE, shared=True)(look)
        await w.serve_specs(spec_of(hold), spec_of(look))
        return look

    async def test_one_that_is_shared_runs_beside_the_holder_and_sees_what_is_known(self, w: World) -> None:
        gate = asyncio.Event()
        look = await self.both(w, gate)
        holder = await w.send(1, type="hold", key="a")
        await w.until(holder, Status.IN_PROGRESS)
        assert await w.client.call(look, False, key="a", timeout=30) is None
        gate.set()
        await w.result(holder)
        assert await w.call(False, type="look", key="a", shared=True) == 1

    async def test_it_writes_nothing(self, w: World) -> None:
        look = await self.both(w, asyncio.Event())
        for options in ({"key": "a"}, {"key": "a", "shared": False}):
            intent = await w.client.send(look, True, **options)  # type: ignore[call-overload]  # typed dicts
            failed = await w.failure(intent)
            assert failed.code == "STATE_READ_ONLY"
            assert "runs beside the session's holder" in str(failed)
        assert await held_state(w) == {}

    async def test_one_sent_as_shared_writes_nothing_whatever_its_handler(self, w: World) -> None:
        async def handle() -> None:
            await state.set("x", 1)

        await w.serve(handle)
        assert (await w.failure(await w.send(key="a", shared=True))).code == "STATE_READ_ONLY"


class TestSlips:
    async def test_a_step_cannot_write(self, w: World) -> None:
        @step
        async def write() -> None:
            await state.set("x", 1)

        async def handle() -> None:
            await write()

        await w.serve(handle)
        assert (await w.failure(await w.send(key="a"))).code == "STATE_IN_STEP"

    async def test_an_intent_without_a_key_has_no_state(self, w: World) -> None:
        async def handle(payload: str) -> None:
            await {"get": lambda: state.get("x"), "set": lambda: state.set("x", 1), "keys": state.keys}[payload]()

        await w.serve(handle)
        for payload in ("get", "set", "keys"):
            assert (await w.failure(await w.send(payload))).code == "NO_SESSION"

    async def test_names_and_values_that_cannot_be(self, w: World) -> None:
        async def handle() -> list[str]:
            found = []
            for name in ("", "x" * 257, "a\0b", 7):
                for call in (
                    lambda n=name: state.get(n),
                    lambda n=name: state.set(n, 1),
                    lambda n=name: state.delete(n),
                ):
                    with pytest.raises(ConfigurationError, match="name in a state"):
                        await call()
            for value, kind in ((object(), SerialisationError), ("x" * 2_000_000, PayloadTooLarge)):
                with pytest.raises(kind) as caught:
                    await state.set("x", value)
                found.append(caught.value.code)
            await state.set("x", "text")
            with pytest.raises(SerialisationError, match="'x' in the state"):
                await state.get("x", of=int)
            return [*found, *await state.keys()]

        await w.serve(handle)
        assert await w.call(key="a") == ["NOT_SERIALISABLE", "PAYLOAD_TOO_LARGE", "x"]

    async def test_outside_of_an_intent_there_is_none(self) -> None:
        with pytest.raises(UsageError, match="needs an intent"):
            await state.get("x")
        with pytest.raises(UsageError, match="needs an intent"):
            await state.set("x", 1)


class TestChildren:
    """A handler that does what its payload says: (what, the session key, what the child shall do)."""

    async def serve(self, w: World) -> None:
        async def parent(payload: list[Any]) -> Any:
            verb, key, *rest = payload
            await state.set("by", verb)
            if verb == "call":
                return await redurable.call(QUEUE, rest, key=key)
            if verb == "send":
                return await redurable.send(QUEUE, rest, key=key)
            if verb == "look":
                return await redurable.call(QUEUE, None, type="look", key=key, shared=True)
            return verb

        async def look() -> Any:
            return await state.get("by")

        for function, name, shared in ((parent, "", False), (look, "look", True)):
            handler(queue=QUEUE, type=name, retry=AT_ONCE, shared=shared)(function)
        await w.serve_specs(*(spec_of(function) for function in (parent, look)))

    async def test_calling_ones_own_session_is_refused_instead_of_waiting_for_ever(self, w: World) -> None:
        await self.serve(w)
        failed = await w.failure(await w.send(["call", "a", "end"], key="a"))
        assert failed.code == "SESSION_DEADLOCK"
        assert await w.call(["end", ""], key="a") == "end"
        await check_all(w.store)

    async def test_through_a_child_of_another_session_too(self, w: World) -> None:
        await self.serve(w)
        failed = await w.failure(await w.send(["call", "b", "call", "a", "end", ""], key="a"))
        assert failed.code == "SESSION_DEADLOCK"

    async def test_another_session_is_waited_for(self, w: World) -> None:
        await self.serve(w)
        assert await w.call(["call", "b", "end", ""], key="a") == "end"

    async def test_sending_to_ones_own_session_waits_in_line(self, w: World) -> None:
        await self.serve(w)
        child = await w.call(["send", "a", "end", ""], key="a")
        assert await w.result(child) == "end"

    async def test_what_is_shared_may_be_called_from_its_session(self, w: World) -> None:
        await self.serve(w)
        assert await w.call(["look", "a"], key="a") in (None, "look")  # known once the caller has parked
