"""Schedules and their scripts: each tick once, whoever fires it; what is made up; overlap; changes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from redurable.errors import CodecError, NotFound, WrongState
from redurable.events import subscribe
from redurable.model import SessionEnvelope
from redurable.schedules import Schedules
from redurable.store import inspection, schedules
from redurable.store.schedules import MARK, fire
from redurable.store.server import PrivateServer
from tests.store.conftest import plain
from tests.store.world import DAY, NOW_MS, QUEUE, World

pytestmark = pytest.mark.anyio
EVERY = 10_000
FIRST = NOW_MS // EVERY * EVERY + EVERY
_decode = msgspec.msgpack.Decoder(SessionEnvelope).decode


@pytest.fixture
async def client(world: World, monkeypatch: pytest.MonkeyPatch) -> Schedules:
    """A client's schedules on the world's store, by the world's clock."""

    async def now(store: Any) -> int:
        return int(world.mux.clock) // 1000

    async def store() -> Any:
        return world.store

    monkeypatch.setattr(schedules, "server_ms", now)
    await world.keeper.open([*world.streams, world.solo])
    return Schedules(store, None)


async def put(client: Schedules, **options: Any) -> Any:
    return await client.put("nightly", to=QUEUE, payload={"n": 1}, **({"every": EVERY / 1000} | options))


def to(world: World, ms: int) -> None:
    world.mux.clock = str(ms * 1000)


async def timers(world: World) -> dict[str, int]:
    flat = await world.mux.command("ZRANGE", world.keys.timers, 0, -1, "WITHSCORES")
    return {name.decode(): int(float(at)) for name, at in zip(flat[::2], flat[1::2], strict=True)}


async def sent(world: World) -> list[tuple[str, str]]:
    """(tick, status) of every intent of the schedule, in the order of ticks."""
    found = await inspection.intents(world.store, label=("schedule", "nightly"), limit=5000)
    return sorted((info.labels.get("tick", "by hand"), info.status.value) for info in found)


async def end(world: World, status: str = "COMPLETED") -> None:
    """Run what is deliverable."""
    for lease in await world.claim(50):
        assert await lease.settle(status, b"", DAY) == b"OK"


async def twice(world: World, work: Any) -> Any:
    """Do *work*, and send its last call again byte for byte; nothing changes, and the answer is the same."""
    made: list[tuple[Any, ...]] = []
    call = world.mux.call

    def keep(*args: Any) -> Any:
        made.append(args)
        return call(*args)

    world.mux.call = keep  # type: ignore[method-assign]  # to send again what was sent
    try:
        answer = await work
    finally:
        world.mux.call = call  # type: ignore[method-assign]
    before = await world.dump()
    word = (await call(*made[-1])).decode()
    assert await world.dump() == before
    return answer, word


class TestTick:
    async def test_it_sends_once_and_moves_on(self, world: World, client: Schedules) -> None:
        await put(client)
        assert await timers(world) == {"@nightly": FIRST}
        to(world, FIRST)
        assert await twice(world, fire(world.store, "nightly")) == ("OK", "OK")
        assert await timers(world) == {"@nightly": FIRST + EVERY}
        info = await client.get("nightly")
        assert (info.fired, info.tick, info.next, info.status) == (1, FIRST, FIRST + EVERY, "SUBMITTED")
        assert info.last is not None
        envelope = _decode(await world.mux.command("GET", world.keys.envelope(info.last)))
        assert msgspec.msgpack.decode(envelope.payload) == {"n": 1}
        assert envelope.labels == {"schedule": "nightly", "tick": "2023-11-14T22:13:30+00:00"}
        assert (await world.claim())[0].id == info.last

    async def test_many_workers_fire_it_once(self, world: World, client: Schedules) -> None:
        await put(client)
        told: list[Any] = []
        end_it = subscribe(lambda name, fields: told.append(fields), ["schedule.fired"])
        for n in range(5):
            to(world, FIRST + n * EVERY)
            words = await asyncio.gather(*(fire(world.store, "nightly") for _ in range(20)))
            assert sorted(words) == [*["EARLY"] * 19, "OK"]
        end_it()
        assert (await client.get("nightly")).fired == len(await sent(world)) == len(told) == 5

    async def test_before_its_time_it_does_nothing(self, world: World, client: Schedules) -> None:
        await put(client)
        to(world, FIRST - 1)
        before = await world.dump()
        assert await fire(world.store, "nightly") == "EARLY"
        assert await fire(world.store, "nightly", FIRST) == "EARLY"  # the server's clock decides
        assert await world.dump() == before

    async def test_who_read_an_older_revision_is_refused(self, world: World, client: Schedules) -> None:
        await put(client)
        stored = await schedules.read(world.store, "nightly")
        assert stored is not None
        to(world, FIRST)
        await put(client, labels={"new": "yes"})
        todo = schedules.due(stored.plan.rhythm, "nightly", FIRST, FIRST, "one", DAY)
        assert await schedules._call(world.store, stored, todo, FIRST) == "AGAIN"
        await client.delete("nightly")
        assert await schedules._call(world.store, stored, todo, FIRST) == "AGAIN"
        assert await sent(world) == []

    async def test_a_tick_whose_intent_was_removed_is_not_sent_by_who_comes_late(
        self, world: World, client: Schedules
    ) -> None:
        await put(client)
        stored = await schedules.read(world.store, "nightly")
        assert stored is not None
        to(world, FIRST)
        await fire(world.store, "nightly")
        (lease,) = await world.claim()
        await lease.settle("COMPLETED", b"", 0)
        world.advance(1)
        assert await world.keeper.sweep(FIRST + 1, 9) == 1
        todo = schedules.due(stored.plan.rhythm, "nightly", FIRST, FIRST, "one", DAY)
        assert await schedules._call(world.store, stored, todo, FIRST) == "AGAIN"
        assert await sent(world) == []

    async def test_a_schedule_made_anew_does_not_send_a_tick_again(self, world: World, client: Schedules) -> None:
        await put(client)
        to(world, FIRST)
        await fire(world.store, "nightly")
        await client.delete("nightly")
        to(world, NOW_MS)  # a clock that went back
        await put(client)
        to(world, FIRST)
        assert await fire(world.store, "nightly") == "EXISTS"
        assert len(await sent(world)) == 1
        assert (await client.get("nightly")).next == FIRST + EVERY

    async def test_the_timers_loop_finds_it(self, world: World, client: Schedules) -> None:
        await put(client)
        to(world, FIRST)
        due, _ = await world.keeper.due(FIRST, 10)
        assert due == {"@nightly": FIRST}
        assert await world.keeper.fire(world.store, "@nightly") == "TICK"
        assert await world.keeper.fire(world.store, "@nightly") == "EARLY"
        assert (await client.get("nightly")).fired == 1

    async def test_a_timer_without_a_schedule_is_dropped(self, world: World, client: Schedules) -> None:
        await world.mux.command("ZADD", world.keys.timers, NOW_MS, MARK + "ghost")
        assert await fire(world.store, "ghost") == "STALE"
        assert await timers(world) == {}

    async def test_one_that_cannot_be_read_here_is_told_of_and_put_off(self, world: World, client: Schedules) -> None:
        await put(client)
        key = world.keys.schedule("nightly")
        what = await world.mux.command("HGET", key, "what")
        await _hset(world, key, "what", b"\x01")
        told: list[Any] = []
        end_it = subscribe(lambda name, fields: told.append(fields["error"]), ["schedule.failed"])
        to(world, FIRST)
        assert await fire(world.store, "nightly") == "STALE"
        end_it()
        assert [error.code for error in told] == ["SCHEDULE_UNREADABLE"]
        assert await timers(world) == {"@nightly": FIRST + 5000}
        with pytest.raises(CodecError):
            await client.get("nightly")
        await client.put("other", to=QUEUE, every=60)
        await _hset(world, world.keys.schedule("other"), "what", b"\x01")
        await client.delete("other")
        await _hset(world, key, "what", what)
        to(world, FIRST + 5000)
        assert await fire(world.store, "nightly") == "OK"

    async def test_what_is_said_of_its_intents(self, world: World, client: Schedules) -> None:
        await put(client, deadline=60, priority="high", max_delivery_attempts=7, labels={"team": "a"}, key="k")
        to(world, FIRST)
        assert await fire(world.store, "nightly") == "OK"
        last = (await client.get("nightly")).last
        assert last is not None
        info = await inspection.info(world.store, last)
        assert (info.deadline, info.priority, info.session) == (FIRST + 60_000, "high", "k")
        assert info.labels["team"] == "a"
        assert await world.mux.command("HGET", world.keys.head(last), "max") == b"7"

    async def test_a_jitter_delays_the_timer_not_the_tick(self, world: World, client: Schedules) -> None:
        await put(client, jitter=5)
        stored = await schedules.read(world.store, "nightly")
        assert stored is not None
        assert stored.next == FIRST
        assert stored.wake == FIRST + stored.plan.rhythm.late("nightly", FIRST)
        to(world, stored.wake)
        assert await fire(world.store, "nightly") == "OK"
        assert (await client.get("nightly")).tick == FIRST


async def _hset(world: World, key: str, field: str, value: bytes) -> None:
    """Write a field as no verb of ours would."""
    await world.mux.command("HDEL", key, field)
    await world.mux.command("HSETNX", key, field, value)


class TestCatchUp:
    @pytest.mark.parametrize(
        ("catch_up", "down", "fired", "missed"),
        [
            ("one", 4, [4], 4),
            ("all", 4, [0, 1, 2, 3, 4], 0),
            ("none", 4, [4], 4),
            ("one", 0, [0], 0),
            ("none", 0, [0], 0),
        ],
    )
    async def test_after_a_downtime(
        self, world: World, client: Schedules, catch_up: Any, down: int, fired: list[int], missed: int
    ) -> None:
        await put(client, catch_up=catch_up)
        to(world, FIRST + down * EVERY + 1)
        while (await timers(world))["@nightly"] <= FIRST + down * EVERY:
            await fire(world.store, "nightly")
        info = await client.get("nightly")
        assert (info.fired, info.missed, info.next) == (len(fired), missed, FIRST + (down + 1) * EVERY)
        assert info.tick == FIRST + fired[-1] * EVERY
        assert len(await sent(world)) == len(fired)

    async def test_with_none_a_tick_that_is_too_late_is_missed(self, world: World, client: Schedules) -> None:
        await put(client, catch_up="none", window=3)
        to(world, FIRST + 5000)
        assert await twice(world, fire(world.store, "nightly")) == ("PASSED", "PASSED")
        info = await client.get("nightly")
        assert (info.fired, info.missed, info.next) == (0, 1, FIRST + EVERY)
        to(world, FIRST + EVERY + 2000)
        assert await fire(world.store, "nightly") == "OK"


class TestOverlap:
    async def test_allowed(self, world: World, client: Schedules) -> None:
        await put(client)
        for n in range(3):
            to(world, FIRST + n * EVERY)
            await fire(world.store, "nightly")
        assert [status for _, status in await sent(world)] == ["SUBMITTED"] * 3

    async def test_skipped_until_the_one_before_has_ended(self, world: World, client: Schedules) -> None:
        await put(client, overlap="skip")
        to(world, FIRST)
        assert await fire(world.store, "nightly") == "OK"
        (lease,) = await world.claim()
        to(world, FIRST + EVERY)
        assert await twice(world, fire(world.store, "nightly")) == ("SKIPPED", "SKIPPED")
        await lease.settle("COMPLETED", b"", DAY)
        to(world, FIRST + 2 * EVERY)
        assert await fire(world.store, "nightly") == "OK"
        info = await client.get("nightly")
        assert (info.fired, info.skipped, info.missed) == (2, 1, 0)

    async def test_queued_one_after_another_in_their_order(self, world: World, client: Schedules) -> None:
        await put(client, overlap="queue")
        words = []
        for n in range(3):
            to(world, FIRST + n * EVERY)
            words.append(await twice(world, fire(world.store, "nightly")))
        assert words == [("OK", "OK"), ("QUEUED", "QUEUED"), ("QUEUED", "QUEUED")]
        for n in range(3):
            assert [status for _, status in await sent(world)] == ["COMPLETED"] * n + ["SUBMITTED"] + ["CREATED"] * (
                2 - n
            )
            await end_one(world)

    async def test_replaced(self, world: World, client: Schedules) -> None:
        await put(client, overlap="replace")
        to(world, FIRST)
        await fire(world.store, "nightly")
        to(world, FIRST + EVERY)
        await fire(world.store, "nightly")
        assert [status for _, status in await sent(world)] == ["CANCELED", "SUBMITTED"]
        (lease,) = await session_claim(world)
        for n in (2, 3):  # the holder undoes its work meanwhile; who waits behind it is replaced as well
            to(world, FIRST + n * EVERY)
            await fire(world.store, "nightly")
        assert [status for _, status in await sent(world)] == ["CANCELED", "IN_PROGRESS", "CANCELED", "CREATED"]
        assert (await inspection.info(world.store, lease.id)).canceling
        lease.base += 1
        await lease.settle("CANCELED", b"\x91\xa8CANCELED", DAY)
        assert [status for _, status in await sent(world)][-1] == "SUBMITTED"

    async def test_what_the_firer_did_not_live_to_cancel_the_reconciler_cancels(
        self, world: World, client: Schedules, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await put(client, overlap="replace")
        to(world, FIRST)
        await fire(world.store, "nightly")

        async def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "make_way", dies)
            to(world, FIRST + EVERY)
            with pytest.raises(KeyboardInterrupt):
                await fire(world.store, "nightly")
        assert [status for _, status in await sent(world)] == ["SUBMITTED", "CREATED"]
        last = (await client.get("nightly")).last
        assert last is not None
        await world.keeper.mend(last)
        assert [status for _, status in await sent(world)] == ["CANCELED", "SUBMITTED"]


async def session_claim(world: World) -> list[Any]:
    from redurable.store.lease import sit

    leases = await world.claim(1)
    for lease in leases:
        sit(lease, "schedule:nightly", shared=False)
    return leases


async def end_one(world: World) -> None:
    (lease,) = await session_claim(world)
    assert await lease.settle("COMPLETED", b"", DAY) == b"OK"


class TestChanges:
    async def test_the_same_put_again_moves_nothing(self, world: World, client: Schedules) -> None:
        await put(client)
        to(world, FIRST)
        await fire(world.store, "nightly")
        world.advance(3)
        before = await client.get("nightly")
        assert await put(client) == before

    async def test_other_times_begin_now_other_words_at_the_next_tick(self, world: World, client: Schedules) -> None:
        await put(client)
        to(world, FIRST + 1)
        info = await put(client, labels={"a": "b"})
        assert info.next == FIRST, "it is due, and is not lost by the change"
        info = await put(client, every=7)
        assert info.next == (FIRST + 1) // 7000 * 7000 + 7000
        assert await timers(world) == {"@nightly": info.next}

    async def test_paused_it_fires_nothing_and_makes_up_nothing(self, world: World, client: Schedules) -> None:
        await put(client, catch_up="all")
        for _ in range(2):
            await client.pause("nightly")
        assert await timers(world) == {}
        to(world, FIRST + 3 * EVERY + 1)
        assert await fire(world.store, "nightly") == "STALE"
        assert (await client.get("nightly")).paused
        await put(client, catch_up="all")
        assert (await client.get("nightly")).paused, "a put does not resume"
        for _ in range(2):
            await client.resume("nightly")
        info = await client.get("nightly")
        assert (info.next, info.fired, info.missed, info.paused) == (FIRST + 4 * EVERY, 0, 0, False)

    async def test_by_hand_its_ticks_stay(self, world: World, client: Schedules) -> None:
        await put(client)
        await client.pause("nightly")
        first = await client.trigger("nightly")
        await client.resume("nightly")
        second = await client.trigger("nightly")
        assert first != second
        info = await client.get("nightly")
        assert (info.fired, info.next, info.last, info.tick) == (2, FIRST, second, None)
        assert await sent(world) == [("by hand", "SUBMITTED")] * 2

    async def test_by_hand_it_does_not_overlap_either(self, world: World, client: Schedules) -> None:
        await put(client, overlap="skip")
        await client.trigger("nightly")
        with pytest.raises(WrongState) as caught:
            await client.trigger("nightly")
        assert caught.value.code == "SCHEDULE_BUSY"
        to(world, FIRST)
        assert await fire(world.store, "nightly") == "SKIPPED"

    async def test_deleted_nothing_is_left_of_it(self, world: World, client: Schedules) -> None:
        await put(client)
        _, word = await twice(world, client.delete("nightly"))
        assert word == "OK"
        assert await timers(world) == {}
        assert await client.list() == []

    @pytest.mark.parametrize("verb", ["get", "pause", "resume", "trigger", "delete"])
    async def test_an_unknown_name_is_not_found(self, client: Schedules, verb: str) -> None:
        with pytest.raises(NotFound) as caught:
            await getattr(client, verb)("nobody")
        assert caught.value.code == "SCHEDULE_NOT_FOUND"

    async def test_two_who_change_it_at_once_both_do(self, world: World, client: Schedules) -> None:
        await asyncio.gather(*(put(client, labels={"n": str(n)}) for n in range(10)), return_exceptions=False)
        await asyncio.gather(client.pause("nightly"), put(client, every=20))
        info = await client.get("nightly")
        assert (info.paused, info.every) == (True, 20.0)

    async def test_a_plan_sent_twice_is_done_once(self, world: World, client: Schedules) -> None:
        for work in (put(client), client.pause("nightly"), client.resume("nightly")):
            _, word = await twice(world, work)
            assert word == "OK"

    async def test_a_lost_timer_is_put_back(self, world: World, client: Schedules) -> None:
        await put(client)
        await client.put("paused", to=QUEUE, every=60)
        await client.pause("paused")
        before = await world.dump()
        await world.mux.command("ZREM", world.keys.timers, "@nightly")
        await schedules.mend(world.store)
        assert await world.dump() == before

    async def test_a_put_wakes_workers_if_it_is_the_first_of_all(
        self, world: World, client: Schedules, real: PrivateServer
    ) -> None:
        with plain(real) as other, other.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.timers)
            hearing.get_message(timeout=10)
            await put(client)
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == str(FIRST).encode()
