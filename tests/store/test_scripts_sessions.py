"""The verbs of sessions: enter, join, reseat, and the second forms of those that end, park or reopen an intent."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from redurable.ids import new_id
from redurable.model import CancelRequested, decode_entry
from redurable.store import archive
from redurable.store.keeper import Pending
from redurable.store.lease import sit
from redurable.store.scripts import SESSION_ARGS, SESSION_KEYS, load, load_all
from tests.store.conftest import answers
from tests.store.world import DAY, FINAL, NOW, NOW_MS, QUEUE, SESSION, STALE, STATES, STEP, World, result_of
from tests.support.invariants import check, check_all

pytestmark = pytest.mark.anyio


async def held(world: World, ran: bool = True) -> str:
    """Let another intent hold the world's session, and that it has begun if it *ran*; return its id."""
    mine, world.id = world.id, new_id(0)
    await world.bring("IN_PROGRESS" if ran else "SUBMITTED", session=True)
    holder, world.id = world.id, mine
    return holder


async def queued(world: World, count: int, **options: Any) -> list[str]:
    """Send *count* intents to the session; return their ids in order."""
    ids = [new_id(0) for _ in range(count)]
    for intent in ids:
        await world.enter(intent, **options)
    return ids


async def states(world: World, ids: list[str]) -> list[str]:
    return [await world.state_of(intent) for intent in ids]


def test_the_second_forms_take_the_session_and_the_first_do_not() -> None:
    second = load_all(session=True)
    assert set(second) >= {"settle", "park", "cancel", "expire", "kill", "recover", "redrive", "skip"}
    for name, script in second.items():
        first = re.sub(r"--.*", "", load(name).source.decode())
        assert not re.search(r"\b(session|moved|leave|stand|save)\b", first)
        source = script.source.decode()
        for word in (*SESSION_KEYS, *(arg.rstrip("*") for arg in SESSION_ARGS)):
            assert f"{word} = next_" in source.split("local session = ")[1].split("\n")[0]


class TestEnter:
    async def test_what_is_free_is_held_at_once_and_the_rest_wait_in_order(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        ids = await queued(world, 4)
        assert await world.line() == ids
        assert await states(world, ids) == ["SUBMITTED", "CREATED", "CREATED", "CREATED"]
        assert [lease.id for lease in await world.claim(9)] == ids[:1]

    @pytest.mark.parametrize("state", STATES)
    async def test_the_first_stands_in_every_state(self, world: World, state: str) -> None:
        if state == "GONE":
            first, second = await world.twice("enter", digest="d1")
            assert (first, second) == ("OK", "EXISTS")
            return
        await world.bring(state, session=True, digest="d1")
        before = await world.dump()
        assert await world.call("enter", digest="d1") == "EXISTS"
        assert await world.call("enter", digest="d2") == "CONFLICT"
        assert await world.dump() == before

    async def test_all_that_was_said_is_kept(self, world: World) -> None:
        await held(world)
        words = await world.twice("enter", deadline="+90000", max=5, digest="d1", reply="c7", lane="q:high")
        assert words == ("QUEUED", "EXISTS")
        names = ("queue", "reply", "digest", "max", "created", "deadline", "lane", "session", "place", "at")
        assert {name: await world.field(name) for name in names} == {
            "queue": QUEUE, "reply": "c7", "digest": "d1", "max": "5", "created": str(NOW_MS),
            "deadline": str(NOW_MS + 90_000), "lane": "q:high", "session": SESSION, "place": str(NOW), "at": None,
        }  # fmt: skip
        assert await world.keeper.due(NOW_MS, 9) == ({}, NOW_MS + 90_000)

    async def test_places_rise_though_the_clock_falls(self, world: World) -> None:
        await held(world)
        ids = await queued(world, 2)
        world.advance(-60_000)
        ids += await queued(world, 2)
        assert (await world.line())[1:] == ids

    async def test_a_session_that_is_not_free_may_be_refused(self, world: World) -> None:
        assert await world.enter(on_busy="reject") == "OK"
        before = await world.dump()
        assert await world.enter(new_id(0), on_busy="reject") == "BUSY"
        assert await world.dump() == before
        assert await world.enter(on_busy="reject") == "EXISTS"

    @pytest.mark.parametrize(("most", "words"), [(0, ["OK", "FULL"]), (2, ["OK", "QUEUED", "QUEUED", "FULL"])])
    async def test_a_line_holds_no_more_than_it_may(self, world: World, most: int, words: list[str]) -> None:
        assert [await world.enter(new_id(0), max_queued=most) for _ in words] == words
        assert len(await world.line()) == most + 1

    async def test_sessions_and_queues_do_not_meet(self, world: World) -> None:
        await held(world)
        assert await world.call("enter", line_key=world.keys.line(QUEUE, "other"), session="other") == "OK"


class TestJoin:
    async def delayed(self, world: World) -> None:
        await world.bring("CREATED", session=True, delay_ms=50)
        assert await world.line() == []

    async def test_a_delayed_intent_takes_its_place_when_it_is_due(self, world: World) -> None:
        await self.delayed(world)
        assert await world.keeper.fire(world.store, world.id) == "EARLY"
        ids = await queued(world, 2)
        world.advance(50)
        assert await world.keeper.fire(world.store, world.id) == "QUEUED"
        ids += await queued(world, 1)
        assert await world.line() == [*ids[:2], world.id, ids[2]]
        assert await world.keeper.due(NOW_MS + DAY, 9) == ({}, None)
        await check_all(world.store)

    async def test_a_free_session_it_holds(self, world: World) -> None:
        await self.delayed(world)
        world.advance(50)
        assert await world.twice("join") == ("OK", "STALE")
        assert await world.line() == [world.id]

    @answers(
        ("GONE", {}, "STALE", None),
        ("CREATED", {}, "EARLY", "CREATED"),
        *[(state, {}, "STALE", state) for state in ("SUBMITTED", "IN_PROGRESS", "WAITING", *FINAL)],
    )
    async def test_nothing_else_joins(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({"session": True} if state != "GONE" else {}))
        assert await world.twice("join", **given) == (reply, reply)
        assert await world.status() == after

    async def test_one_that_waits_in_line_does_not_join_it_again(self, world: World) -> None:
        await held(world)
        await world.enter(deadline="+100")
        world.advance(50)
        assert await world.twice("join") == ("STALE", "STALE")

    async def test_its_deadline_may_come_first(self, world: World) -> None:
        await held(world)
        await world.bring("CREATED", session=True, delay_ms=500, deadline="+50")
        world.advance(50)
        assert await world.keeper.fire(world.store, world.id) == "TIMED_OUT"


class TestSettle:
    @pytest.mark.parametrize("status", FINAL)
    async def test_the_next_begins_in_the_same_step(self, world: World, status: str) -> None:
        await world.bring("IN_PROGRESS", session=True)
        ids = await queued(world, 2)
        view = world.keys.done if status == "COMPLETED" else world.keys.failed
        words = await world.twice("settle", status=status, result=result_of(status), view_key=view)
        assert words == ("OK", "OK")
        assert await world.line() == ids
        assert await states(world, ids) == ["SUBMITTED", "CREATED"]
        assert [lease.id for lease in await world.claim(9)] == ids[:1]

    async def test_it_asks_again_if_another_is_next_now(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        for heir in ([""], await queued(world, 2)):
            before = await world.dump()
            assert await world.call("settle", heir=heir[-1] if heir != [""] else new_id(0)) == "AGAIN"
            assert await world.dump() == before
        assert world.lease is not None
        assert await world.lease.settle("COMPLETED", b"", DAY) == b"OK"
        assert len(await world.line()) == 2

    @pytest.mark.parametrize(("given", "reply"), [({"fence": STALE}, "FENCED"), ({"k": -1}, "DUPLICATE")])
    async def test_a_late_owner_moves_nothing(self, world: World, given: dict[str, Any], reply: str) -> None:
        await world.bring("IN_PROGRESS", session=True, steps=1)
        await queued(world, 2)
        before = await world.dump()
        assert await world.call("settle", **given) == reply
        assert await world.dump() == before

    async def test_a_line_that_grows_and_shrinks_meanwhile_is_never_without_a_holder(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        ids = await queued(world, 20)
        assert world.lease is not None
        lease = world.lease
        await asyncio.gather(
            lease.settle("COMPLETED", b"", DAY), *(world.store.cancel(intent) for intent in ids[:15]), queued(world, 3)
        )
        assert (await world.line())[:5] == ids[15:]
        await check_all(world.store)

    async def test_the_last_leaves_no_line(self, world: World) -> None:
        await world.bring("COMPLETED", session=True)
        assert await world.line() == []

    async def test_the_lane_of_who_waited_is_kept(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        await world.enter(low := new_id(0), lane="q:low")
        assert world.lease is not None
        await world.lease.settle("COMPLETED", b"", DAY)
        (lease,) = await world.claim()
        assert (lease.id, lease.lane) == (low, "q:low")


class TestHolding:
    @pytest.mark.parametrize("verb", ["park", "retry", "release"])
    async def test_who_waits_retries_or_was_handed_back_holds_its_session(self, world: World, verb: str) -> None:
        await world.bring("IN_PROGRESS", session=True)
        ids = await queued(world, 2)
        assert await world.call(verb) == "OK"
        assert await world.line() == [world.id, *ids]
        world.advance(5000)
        if verb != "release":
            assert await world.store.wake(world.id) == "OK"
        (world.lease,) = await world.claim(9)
        assert world.lease.id == world.id

    async def test_a_lost_owner_does_not_lose_the_session(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        ids = await queued(world, 1)
        assert await world.call("recover") == "OK"
        assert await world.line() == [world.id, *ids]
        await check_all(world.store)

    async def test_a_poison_intent_frees_it_in_the_end(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True, max_losses=1)
        ids = await queued(world, 2)
        assert await world.twice("recover") == ("FAILED", "GONE")
        assert await states(world, ids) == ["SUBMITTED", "CREATED"]

    async def test_recovery_asks_again_if_another_is_next_now(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True, max_losses=1)
        assert world.lease is not None
        entry = Pending(world.lease.stream, world.lease.entry, "w1", 0)
        assert await world.call("recover", heir=new_id(0)) == "AGAIN"
        words = await asyncio.gather(world.keeper.recover(entry), queued(world, 2))
        assert words[0] == "FAILED"
        assert await states(world, words[1]) == ["SUBMITTED", "CREATED"]


class TestCancelAndExpire:
    @pytest.mark.parametrize("verb", ["cancel", "expire"])
    async def test_one_that_waits_leaves_the_line(self, world: World, verb: str) -> None:
        holder = await held(world)
        first = await queued(world, 1)
        await world.enter(deadline="+50")
        last = await queued(world, 1)
        world.advance(50)
        status = "CANCELED" if verb == "cancel" else "TIMED_OUT"
        assert await world.twice(verb) == (status, status)
        assert await world.line() == [holder, *first, *last]

    @pytest.mark.parametrize("verb", ["cancel", "expire"])
    async def test_a_holder_that_never_ran_gives_way(self, world: World, verb: str) -> None:
        await world.bring("SUBMITTED", session=True, deadline="+50")
        ids = await queued(world, 2)
        world.advance(50)
        status = "CANCELED" if verb == "cancel" else "TIMED_OUT"
        before = await world.dump()
        assert await world.call(verb, heir=new_id(0)) == "AGAIN"
        assert await world.dump() == before
        assert await world.twice(verb) == (status, status)
        assert await states(world, ids) == ["SUBMITTED", "CREATED"]

    async def test_a_holder_that_runs_holds_it_until_it_has_ended(self, world: World) -> None:
        await world.bring("WAITING", session=True)
        ids = await queued(world, 2)
        assert await world.store.cancel(world.id) == "REQUESTED"
        assert await world.line() == [world.id, *ids]
        (lease,) = await world.claim(9)
        sit(lease, SESSION, shared=False)
        assert await lease.settle("CANCELED", result_of("CANCELED"), DAY) == b"OK"
        assert await states(world, ids) == ["SUBMITTED", "CREATED"]

    async def test_a_delayed_one_has_no_place_to_leave(self, world: World) -> None:
        holder = await held(world)
        await world.bring("CREATED", session=True)
        assert await world.store.cancel(world.id) == "CANCELED"
        assert await world.line() == [holder]


class TestRedrive:
    async def test_a_retried_one_goes_next(self, world: World) -> None:
        await world.bring("FAILED", session=True)
        world.advance(1)
        ids = await queued(world, 3)
        assert await world.twice("redrive") == ("OK", "OK")
        assert await world.status() == "CREATED"
        assert await world.line() == [ids[0], world.id, *ids[1:]]
        assert await world.field("lane") == "c:-"

    async def test_several_go_in_their_first_order(self, world: World) -> None:
        failed = []
        for _ in range(3):
            world.id = new_id(0)
            await world.bring("FAILED", session=True)
            failed.append(world.id)
            world.advance(1)
        ids = await queued(world, 2)
        for intent in (failed[2], failed[0], failed[1]):
            await world.store.redrive(intent)
        assert await world.line() == [ids[0], *failed, ids[1]]

    async def test_a_free_session_it_holds_again(self, world: World) -> None:
        await world.bring("CANCELED", session=True)
        await world.store.redrive(world.id)
        (lease,) = await world.claim()
        assert (lease.id, lease.attempt, lease.lane) == (world.id, 2, "c:-")
        assert await world.line() == [world.id]

    async def test_when_its_turn_comes_it_goes_on(self, world: World) -> None:
        await world.bring("FAILED", session=True, steps=1)
        holder = await held(world)
        lease, world.lease = world.lease, None
        assert lease is not None
        await world.store.redrive(world.id)
        assert await world.line() == [holder, world.id]
        assert await lease.settle("COMPLETED", b"", DAY) == b"OK"
        (world.lease,) = await world.claim()
        assert (world.lease.id, world.lease.lane) == (world.id, "c:-")
        assert world.lease.entries[0] == STEP


class TestMakeWay:
    async def test_interrupt_asks_the_holder_to_end_and_nobody_else(self, world: World) -> None:
        holder = await held(world)
        ids = await queued(world, 1)
        assert await world.enter(on_busy="interrupt") == "QUEUED"
        assert await world.field("busy") == "interrupt"
        for _ in range(2):
            await world.store.make_way(world.id, QUEUE, SESSION, "interrupt")
        found = [decode_entry(e) for e in await world.mux.command("LRANGE", world.keys.journal(holder), 0, -1)]
        assert [type(e) for e in found] == [CancelRequested]
        assert found[0].note == f"interrupted by {world.id}"  # type: ignore[union-attr]  # its type is asserted above
        assert await world.line() == [holder, *ids, world.id]
        assert await world.field("busy") is None

    async def test_a_holder_that_never_ran_is_interrupted_at_once(self, world: World) -> None:
        holder = await held(world, ran=False)
        await world.enter(on_busy="interrupt")
        await world.store.make_way(world.id, QUEUE, SESSION, "interrupt")
        assert await world.state_of(holder) == "CANCELED"
        assert await world.status() == "SUBMITTED"

    async def test_replace_cancels_those_that_wait_and_leaves_the_holder(self, world: World) -> None:
        holder = await held(world)
        ids = await queued(world, 3)
        assert await world.enter(on_busy="replace") == "QUEUED"
        later = await queued(world, 1)
        for _ in range(2):
            await world.store.make_way(world.id, QUEUE, SESSION, "replace")
        assert await world.line() == [holder, world.id, *later]
        assert await states(world, ids) == ["CANCELED"] * 3

    @pytest.mark.parametrize("on_busy", ["interrupt", "replace"])
    async def test_a_free_session_has_nobody_to_give_way(self, world: World, on_busy: str) -> None:
        assert await world.enter(on_busy=on_busy) == "OK"
        assert await world.field("busy") is None
        await world.store.make_way(world.id, QUEUE, SESSION, on_busy)
        assert await world.line() == [world.id]

    async def test_the_reconciler_does_what_a_dead_sender_did_not(self, world: World) -> None:
        await held(world)
        ids = await queued(world, 1)
        await world.enter(on_busy="replace")
        await world.keeper.mend(world.id)
        assert await states(world, ids) == ["CANCELED"]
        assert await world.field("busy") is None


class TestReseat:
    async def lose(self, world: World, intent: str) -> None:
        """Take an intent away as no verb does."""
        keys = world.keys
        at = await world.mux.command("HGET", keys.head(intent), "at")
        if at:
            lane, entry = at.decode().split("/")
            for verb in (("XACK", keys.stream(QUEUE, lane), "rd"), ("XDEL", keys.stream(QUEUE, lane))):
                await world.mux.command(*verb, entry)
        await world.mux.command("DEL", keys.head(intent), keys.envelope(intent), keys.journal(intent))

    @answers(
        ("GONE", {}, "STALE", None),
        *[(state, {}, "OK", state) for state in ("CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING")],
        *[(state, {}, "STALE", state) for state in FINAL],
    )
    async def test_what_is_as_it_should_be_is_left(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({"session": True} if state != "GONE" else {}))
        if state in ("SUBMITTED", "IN_PROGRESS", "WAITING"):
            await queued(world, 1)
        before = await world.dump()
        assert await world.twice("reseat", **given) == (reply, reply)
        assert await world.dump() == before
        assert await world.status() == after

    async def test_a_lost_line_is_made_again(self, world: World) -> None:
        holder = await held(world)
        ids = []
        for _ in range(3):
            ids += await queued(world, 1)
            world.advance(1)
        await world.mux.command("DEL", world.session.line)
        for intent in (holder, *reversed(ids)):
            assert await world.keeper.mend(intent) == "MENDED"
            assert await world.keeper.mend(intent) == "OK"
        assert await world.line() == [holder, *ids]

    async def test_the_first_of_a_line_without_a_holder_begins(self, world: World) -> None:
        holder = await held(world)
        ids = await queued(world, 2)
        await self.lose(world, holder)
        assert await world.session.reseat(ids[1]) == "MENDED"  # the dead one is out, but it is not the first
        assert await world.session.reseat(ids[1]) == "OK"
        world.id = ids[0]
        assert await world.twice("reseat") == ("MENDED", "OK")
        assert await states(world, ids) == ["SUBMITTED", "CREATED"]

    async def test_it_asks_again_if_another_is_first_now(self, world: World) -> None:
        await held(world)
        await world.enter()
        before = await world.dump()
        assert await world.call("reseat", first=new_id(0)) == "AGAIN"
        assert await world.call("reseat", lane="q:low") == "AGAIN"
        assert await world.dump() == before

    async def test_one_that_waits_behind_a_live_holder_is_left(self, world: World) -> None:
        await held(world)
        await world.enter()
        assert await world.twice("reseat") == ("OK", "OK")
        assert await check(world.store, world.id) == "CREATED"


class TestKeep:
    async def state(self, world: World) -> dict[bytes, bytes]:
        flat = await world.mux.command("HGETALL", world.session.state)
        return {name: value for name, value in zip(flat[::2], flat[1::2], strict=True) if name}

    async def test_writes_show_at_park_and_at_settle(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        lease = world.lease
        assert lease is not None
        assert lease.session is not None
        lease.session.writes.put("a", b"\x01")
        lease.session.writes.put("b", b"\x02")
        assert await self.state(world) == {}
        assert await lease.park(0, "TIME", NOW_MS) == b"OK"
        assert await self.state(world) == {b"a": b"\x01", b"b": b"\x02"}
        assert await lease.park(0, "TIME", NOW_MS) == b"OK"  # sent twice
        await world.store.wake(world.id)
        (again,) = await world.claim()
        sit(again, SESSION, shared=False)
        assert again.session is not None
        # the replay makes the first two writes again: they are not news, whatever has happened to them since
        await world.mux.command("HSET", world.session.state, "a", b"\x09")
        for name, value in (("a", b"\x01"), ("b", b"\x02"), ("b", b""), ("c", b"\x03")):
            again.session.writes.put(name, value)
        assert await again.settle("COMPLETED", b"", DAY) == b"OK"
        assert await self.state(world) == {b"a": b"\x09", b"c": b"\x03"}

    @pytest.mark.parametrize("status", FINAL[1:])
    async def test_who_fails_writes_nothing(self, world: World, status: str) -> None:
        await world.bring("IN_PROGRESS", session=True)
        assert world.lease is not None
        assert world.lease.session is not None
        world.lease.session.writes.put("a", b"\x01")
        assert await world.lease.settle(status, result_of(status), DAY) == b"OK"
        assert await self.state(world) == {}

    @pytest.mark.parametrize("verb", ["park", "settle"])
    async def test_a_late_owner_writes_nothing(self, world: World, verb: str) -> None:
        await world.bring("IN_PROGRESS", session=True)
        lease = world.lease
        assert lease is not None
        assert lease.session is not None
        await world.call("recover")
        (newer,) = await world.claim()
        lease.session.writes.put("a", b"\x01")
        word = await (lease.park(0, "TIME", NOW_MS) if verb == "park" else lease.settle("COMPLETED", b"", DAY))
        assert word == b"FENCED"
        assert await self.state(world) == {}
        assert newer.id == world.id

    async def test_the_state_outlives_the_session_for_its_retention(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        (other,) = await queued(world, 1)
        assert world.lease is not None
        assert world.lease.session is not None
        world.lease.session.writes.retention_ms = 60_000
        world.lease.session.writes.put("a", b"\x01")
        await world.lease.settle("COMPLETED", b"", DAY)
        assert await world.mux.command("PTTL", world.session.state) == -1
        assert await world.store.cancel(other) == "CANCELED"
        assert 0 < await world.mux.command("PTTL", world.session.state) <= 60_000
        await world.enter(new_id(0))
        assert await world.mux.command("PTTL", world.session.state) == -1

    async def test_a_state_of_nothing_is_no_key(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        assert world.lease is not None
        assert world.lease.session is not None
        world.lease.session.writes.put("a", b"\x01")
        await world.lease.park(0, "TIME", NOW_MS)
        await world.store.wake(world.id)
        (world.lease,) = await world.claim()
        sit(world.lease, SESSION, shared=False)
        assert world.lease.session is not None
        for value in (b"\x01", b""):
            world.lease.session.writes.put("a", value)
        await world.lease.settle("COMPLETED", b"", DAY)
        assert await world.mux.command("EXISTS", world.session.state) == 0

    async def test_one_that_is_shared_ends_without_touching_the_line(self, world: World) -> None:
        holder = await held(world)
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        sit(world.lease, SESSION, shared=True)
        assert await world.lease.settle("COMPLETED", b"", DAY) == b"OK"
        assert await world.line() == [holder]


class TestArchive:
    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING"])
    async def test_an_imported_open_intent_stands_in_line_again(self, world: World, state: str) -> None:
        await world.bring(state, session=True, **({"delay_ms": 50} if state == "CREATED" else {}))
        record = await archive.export(world.store, world.id)
        await self.clear(world)
        holder = await held(world)
        assert await archive.import_record(world.store, record)
        assert not await archive.import_record(world.store, record)
        assert await world.status() == "CREATED"
        if state == "CREATED":
            world.advance(50)
            assert await world.keeper.fire(world.store, world.id) == "QUEUED"
        assert await world.line() == [holder, world.id]
        assert world.lease is not None
        assert await world.lease.settle("COMPLETED", b"", DAY) == b"OK"
        assert [lease.id for lease in await world.claim()] == [world.id]

    async def test_a_free_session_it_holds_at_once(self, world: World) -> None:
        await world.bring("WAITING", session=True, steps=2)
        record = await archive.export(world.store, world.id)
        await self.clear(world)
        assert await archive.import_record(world.store, record)
        (lease,) = await world.claim()
        assert (lease.id, lease.attempt, lease.entries[:2]) == (world.id, 2, [STEP, STEP])

    async def clear(self, world: World) -> None:
        for name in await world.mux.command("KEYS", f"{world.store.namespace}:*"):
            if not name.endswith(b":meta"):
                await world.mux.command("DEL", name)
        await world.keeper.open([*world.streams, world.solo])
