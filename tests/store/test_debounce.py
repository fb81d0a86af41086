"""Debounce: one intent for a burst, with what was said last, after quiet or within the longest delay; sent twice."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from redurable.errors import ConfigurationError
from redurable.model import SessionEnvelope
from redurable.options import Debounce
from redurable.runtime.sending import submit
from redurable.store import control, inspection
from redurable.store.bursts import Burst
from tests.store.test_schedules import twice
from tests.store.world import NOW_MS, QUEUE, World

pytestmark = pytest.mark.anyio
QUIET = 5000
_decode = msgspec.msgpack.Decoder(SessionEnvelope).decode


async def send(
    world: World, payload: Any, wish: Any = 5.0, *, to: str = QUEUE, type: str = "", key: Any = None, **o: Any
) -> str:
    burst = Burst(world.store, wish, type, key or "")
    _, answer = submit(world.store, 1 << 20, "c1", to, payload, type=type, key=key, debounce=burst, **o)
    assert await answer == b"OK"
    return burst.intent


async def said(world: World, intent: str) -> Any:
    return msgspec.msgpack.decode(_decode(await world.mux.command("GET", world.keys.envelope(intent))).payload)


async def fire(world: World, intent: str) -> str:
    return await world.keeper.fire(world.store, intent)


async def test_sends_in_quick_succession_are_one_intent_with_the_last_payload(world: World) -> None:
    first = await send(world, 1)
    for n in (2, 3):
        world.advance(QUIET - 1)
        assert await send(world, n) == first
    info = await inspection.info(world.store, first)
    assert (info.status, info.start, info.created) == ("CREATED", NOW_MS + 2 * (QUIET - 1) + QUIET, NOW_MS)
    assert await said(world, first) == 3
    assert await fire(world, first) == "EARLY"
    world.advance(QUIET)
    assert await fire(world, first) == "OK"
    assert await world.state_of(first) == "SUBMITTED"
    second = await send(world, 4)
    assert second != first
    assert await said(world, first) == 3


async def test_the_delay_has_an_end(world: World) -> None:
    first = await send(world, 0, Debounce(5.0, within=12.0))
    for n in (1, 2, 3):
        world.advance(4000)
        assert await send(world, n, Debounce(5.0, within=12.0)) == first
        start = (await inspection.info(world.store, first)).start
        assert start == min(NOW_MS + 4000 * n + QUIET, NOW_MS + 12_000)
    assert await fire(world, first) == "OK"
    assert await said(world, first) == 3
    by_default = await send(world, 0, Debounce(5.0, key="d"))
    assert await world.mux.command("HGET", world.keys.head(by_default), "until") == b"%d" % (NOW_MS + 12_000 + 50_000)


async def test_while_nobody_fires_it_it_takes_more(world: World) -> None:
    first = await send(world, 0)
    world.advance(3_600_000)
    assert await send(world, 1) == first
    assert await fire(world, first) == "OK", "its longest delay is over"


async def test_what_differs_in_queue_type_session_or_key_is_apart(world: World) -> None:
    kinds: list[dict[str, Any]] = [
        {}, {"to": "other"}, {"type": "t"}, {"key": "s"}, {"key": "t"}, {"wish": Debounce(5.0, key="s")},
        {"wish": Debounce(5.0, key="t")}, {"key": "s", "wish": Debounce(5.0, key="t")},
        {"key": "u", "shared": True}, {"key": "v", "shared": True},
    ]  # fmt: skip
    ids = [await send(world, n, **kind) for n, kind in enumerate(kinds)]
    assert len(set(ids)) == len(kinds)
    assert [await send(world, n, **kind) for n, kind in enumerate(kinds)] == ids


async def test_one_of_a_session_takes_its_place_in_line_when_it_starts(world: World) -> None:
    await world.keeper.open([*world.streams, world.solo])
    first = await send(world, 1, key="customer-7")
    holder = await world.enter()
    assert holder == "OK"
    assert await send(world, 2, key="customer-7") == first
    world.advance(QUIET)
    assert await fire(world, first) == "QUEUED"
    assert await world.line() == [world.id, first]
    assert await send(world, 3, key="customer-7") != first


@pytest.mark.parametrize("how", ["cancel", "kill", "pause", "expire"])
async def test_one_that_ended_or_is_paused_takes_nothing_any_more(world: World, how: str) -> None:
    first = await send(world, 1, deadline=1)
    if how == "cancel":
        await world.store.cancel(first)
    elif how == "kill":
        await control.kill(world.store, first)
    elif how == "pause":
        await control.pause(world.store, first)
    else:
        world.advance(1000)
        assert await fire(world, first) == "TIMED_OUT"
    second = await send(world, 2)
    assert second != first
    assert await said(world, first) == 1
    assert await send(world, 3) == second


async def test_the_options_are_those_of_the_last(world: World) -> None:
    first = await send(world, 1, deadline=60, priority="high", max_delivery_attempts=9, labels={"a": "b"})
    assert await send(world, 2, labels={"c": "d"}) == first
    info = await inspection.info(world.store, first)
    assert (info.deadline, info.priority, info.labels) == (None, "normal", {"c": "d"})
    assert await world.mux.command("HGET", world.keys.head(first), "max") is None


async def test_sent_twice_it_is_done_once_whatever_came_between(world: World) -> None:
    (first, word) = await twice(world, send(world, 1))
    assert word == "OK"
    again, word = await twice(world, send(world, 2))
    assert (again, word) == (first, "OK")

    sent: list[tuple[Any, ...]] = []
    call = world.mux.call

    def keep(*args: Any) -> Any:
        sent.append(args)
        return call(*args)

    world.mux.call = keep  # type: ignore[method-assign]  # to send again what was sent
    await send(world, 3)
    world.mux.call = call  # type: ignore[method-assign]
    world.advance(QUIET)
    assert await fire(world, first) == "OK"
    before = await world.dump()
    assert await call(*sent[-1]) == b"OK", "it is in the intent that started meanwhile"
    assert await world.dump() == before


async def test_many_at_once_are_one(world: World) -> None:
    ids = await asyncio.gather(*(send(world, n) for n in range(50)))
    assert len(set(ids)) == 1
    assert await said(world, ids[0]) in range(50)


async def test_the_burst_is_forgotten_in_time(world: World) -> None:
    await send(world, 1)
    (key,) = await world.mux.command("KEYS", f"{world.keys.burst_prefix}*")
    assert 86_400 <= await world.mux.command("TTL", key) <= 86_450


@pytest.mark.parametrize(
    "wish",
    [0, -1, "5s", True, Debounce(0), Debounce(5, within=4), Debounce(5, within=-1), Debounce(5, key="a\n"),
     Debounce(5, key=7), Debounce("x")],
)  # fmt: skip
async def test_a_wish_that_cannot_be(world: World, wish: Any) -> None:
    with pytest.raises(ConfigurationError):
        await send(world, 1, wish)
    assert await world.dump() == {
        f"{world.store.namespace}:meta": (await world.dump())[f"{world.store.namespace}:meta"]
    }


@pytest.mark.parametrize(
    "with_it",
    [{"idempotency_key": "i"}, {"delay": 5}, {"key": "k", "on_busy": "reject"}, {"key": "k", "max_queued": 1}],
)
async def test_what_does_not_go_with_it(world: World, with_it: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="debounce"):
        await send(world, 1, **with_it)
