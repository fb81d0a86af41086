"""The verbs of workers about anybody's intents: claim, recover, fire, expire, mend, sweep, open, dismiss."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from redurable.ids import new_id
from redurable.model import Claimed, Outcome, Status, StepDone, decode_entry, encode_entry
from redurable.store.keeper import Keeper, renewal
from redurable.store.keys import GROUP, SOLO
from redurable.store.multiplexer import Multiplexer
from redurable.store.server import PrivateServer
from tests.store.conftest import answers, plain
from tests.store.world import CLAIMED, DAY, FINAL, NOW, NOW_MS, QUEUE, STATES, STEP, World, result_of
from tests.support.invariants import check, check_all

pytestmark = pytest.mark.anyio


async def reader_blocks(world: World) -> None:
    """Return once a client of the server waits in a blocking read."""
    while b"blocked_clients:0" in await world.mux.command("INFO", "clients"):
        await asyncio.sleep(0.01)


class TestClaim:
    @pytest.mark.parametrize("size", [100, 3_000, 100_000, 1_000_000])
    async def test_it_answers_no_more_of_a_journal_than_is_good(self, world: World, size: int) -> None:
        count = 4_000_000 // size + 1 if size > 100 else 5000
        entry = encode_entry(StepDone("", "s", 1, NOW_MS, b"", msgspec.Raw(msgspec.msgpack.encode(b"x" * size))))
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        for _ in range(0, count, 50):
            assert await world.lease.record([entry] * 50)
            world.lease.k += 50
        length = len(await world.journal())
        await world.lease.release()
        (lease,) = await world.claim()
        assert lease.base == length + 1
        assert 262_144 <= sum(map(len, lease.entries)) < 262_144 + len(entry)
        assert set(lease.entries) == {entry}

    async def test_it_answers_all_that_an_attempt_needs(self, world: World) -> None:
        await world.bring("SUBMITTED", deadline="+5000")
        world.advance(7)
        (lease,) = await world.claim()
        assert (lease.id, lease.queue, lease.lane, lease.attempt, lease.base) == (world.id, QUEUE, "q:normal", 1, 0)
        assert lease.fence == f"{NOW + 7000}:w1:1".encode()
        assert (lease.epoch, lease.created, lease.started) == (NOW + 7000, NOW_MS, NOW_MS + 7)
        assert lease.deadline == NOW_MS + 5000
        assert (lease.body, lease.entries) == (await lease.read_body(), [])
        assert await check(world.store, world.id) == "IN_PROGRESS"

    async def test_behind_a_blocking_read_it_takes_the_first_that_is_delivered(self, world: World) -> None:
        streams = world.streams
        await world.keeper.open(streams)
        reader = Multiplexer(world.store.topology, eager=False)
        await reader.start()
        try:
            new = [">"] * len(streams)
            read = reader.command("XREADGROUP", "GROUP", GROUP, "w1", "BLOCK", 8000, "STREAMS", *streams, *new)
            behind = {"marks": ["0"] * len(streams), "mux": reader}
            claim = world.keeper.claiming(streams, [""] * len(streams), 1, 1, CLAIMED, [], **behind)
            await reader_blocks(world)
            ids = [await world.submit(new_id(0)) for _ in range(3)]
            ((_, ((entry, (_, intent)),)),) = await read
            (lease,) = world.keeper.leases(streams, await claim, 0.0)
        finally:
            await reader.close()
        assert (lease.id, lease.entry, lease.attempt) == (ids[0], entry, 1)
        assert intent.decode() == ids[0]
        assert [await world.state_of(intent) for intent in ids] == ["IN_PROGRESS", "SUBMITTED", "SUBMITTED"]
        assert [a.id for a in await world.claim(9, number=2)] == ids[1:]

    async def test_behind_a_read_it_takes_what_comes_after_the_marks(self, world: World) -> None:
        first, second = await world.submit(new_id(0)), await world.submit(new_id(0))
        await world.keeper.open([*world.streams, world.solo])
        place, entry, _ = await world.deliver()
        everywhere = ["0"] * (len(world.streams) + 1)
        marks = [*everywhere[: place - 1], entry.decode(), *everywhere[place:]]
        assert await world.claim(marks=marks) == []  # nothing more was delivered, and it reads nothing itself
        assert await world.mux.command("HGETALL", world.keys.workers) == []
        await world.deliver()
        (lease,) = await world.claim(5, number=7, marks=marks)
        assert lease.id == second
        (again,) = await world.claim(5, number=7, marks=marks)
        assert (again.id, again.fence) == (second, lease.fence)
        assert [a.id for a in await world.claim(5, number=8, marks=everywhere)] == [first]

    @pytest.mark.parametrize("why", ["its max", "the queue's max", "a loss"])
    async def test_behind_a_read_it_leaves_what_one_more_loss_would_make_a_suspect(
        self, world: World, why: str
    ) -> None:
        limits = ["2" if why == "the queue's max" else ""] * (len(world.streams) + 1)
        if why == "a loss":
            await world.bring("IN_PROGRESS")
            assert await world.call("recover") == "OK"
        else:
            await world.submit(max_losses=2 if why == "its max" else None)
            await world.keeper.open([*world.streams, world.solo])
        place, entry, intent = await world.deliver()
        assert await world.claim(marks=["0"] * len(limits), limits=limits) == []
        assert await world.state_of(world.id) == "SUBMITTED"
        assert [a.id for a in await world.claim(given=[place, entry, intent], limits=limits)] == [world.id]

    @pytest.mark.parametrize("state", [s for s in STATES if s not in ("SUBMITTED", "GONE")])
    async def test_only_submitted_intents_are_taken(self, world: World, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.claim(worker="w2") == []
        after = await world.dump()
        for dump in (before, after):
            dump.pop(world.keys.workers, None)
        assert after == before

    async def test_sent_again_with_its_number_it_answers_the_same(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(5):
            await world.submit(new_id(0))
        leases = await world.claim(3)
        before = await world.dump()
        again = await world.claim(3, number=world.numbers)
        assert await world.dump() == before
        assert [(a.id, a.fence, a.entry, a.base, a.body) for a in again] == [
            (a.id, a.fence, a.entry, a.base, a.body) for a in leases
        ]
        assert await leases[0].settle("COMPLETED", b"", DAY) == b"OK"
        assert [a.id for a in await world.claim(3, number=world.numbers)] == [a.id for a in leases[1:]]

    async def test_two_claims_sent_again_in_a_row_take_nothing_more(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(6):
            await world.submit(new_id(0))
        first, second = await world.claim(2), await world.claim(2)
        again = [await world.claim(2, number=number) for number in (1, 2)]
        assert [[a.id for a in some] for some in again] == [[a.id for a in some] for some in (first, second)]
        assert len(await world.claim(9)) == 2

    async def test_claims_of_one_turn_are_not_mixed_up(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        ids = [await world.submit(new_id(0)) for _ in range(2)]
        fast = await world.submit(new_id(0), lane="q:high")
        other = Keeper(world.store, 0, "w2")
        normal, high = [world.keys.stream(QUEUE, lane) for lane in ("q:normal", "q:high")]
        one, two = await asyncio.gather(
            world.keeper.claim([normal], [""], 5, 1, CLAIMED, []), other.claim([high], [""], 5, 1, CLAIMED, [])
        )
        assert ([a.id for a in one], [a.id for a in two]) == (ids, [fast])

    async def test_streams_are_read_in_their_order(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        low, high = await world.submit(new_id(0), lane="q:low"), await world.submit(new_id(0), lane="q:high")
        await world.call("release")
        assert [a.id for a in await world.claim(9)] == [world.id, high, low]

    async def test_what_a_blocking_read_delivered_is_taken_first(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        ids = [await world.submit(new_id(0)) for _ in range(3)]
        place, entry, intent = await world.deliver()
        assert intent.decode() == ids[0]
        leases = await world.claim(2, given=[place, entry, intent])
        assert [a.id for a in leases] == ids[:2]
        assert leases[0].stream_index == place

    async def test_what_was_given_twice_is_taken_once_and_kept(self, world: World) -> None:
        await world.bring("SUBMITTED")
        given = list(await world.deliver())
        assert [a.id for a in await world.claim(given=given)] == [world.id]
        assert await world.claim(given=given) == []
        assert await check(world.store, world.id) == "IN_PROGRESS"

    @pytest.mark.parametrize("ends", ["cancel", "gone"])
    async def test_an_entry_that_is_nobodys_is_dropped(self, world: World, ends: str) -> None:
        await world.bring("SUBMITTED")
        given = list(await world.deliver())
        if ends == "cancel":
            await world.store.cancel(world.id)
        else:
            await world.mux.command("DEL", world.keys.head(world.id), world.keys.envelope(world.id))
        assert await world.claim(given=given) == []
        assert await world.keeper.pending(world.streams[given[0] - 1]) == []
        await check_all(world.store)

    async def test_what_fails_is_skipped_and_the_rest_is_kept(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        ids = [await world.submit(new_id(0)) for _ in range(3)]
        head = world.keys.head(ids[1])
        await world.mux.command("RENAME", head, "aside")
        await world.mux.command("SET", head, "not a hash")
        assert [a.id for a in await world.claim(9)] == [ids[0], ids[2]]
        await world.mux.command("RENAME", "aside", head)
        (delivered,) = [p for p in await world.keeper.pending(world.streams[2]) if p.entry == await _at(world, ids[1])]
        assert await world.keeper.recover(delivered) == "OK"  # and the skipped one is not lost

    async def test_the_epoch_rises_though_the_clock_falls(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        old = world.lease.epoch
        await world.call("release")
        world.advance(-3_600_000)
        (lease,) = await world.claim()
        assert lease.epoch == old + 1

    async def test_a_second_attempt_gets_the_journal_with_its_claim_at_the_end(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=70)
        assert world.lease is not None
        await world.call("release")
        world.advance(1)
        (lease,) = await world.claim()
        assert (len(lease.entries), lease.base, lease.attempt, lease.started) == (71, 71, 2, world.lease.started)
        assert decode_entry(lease.entries[-1]) == Claimed("w1", "3.11", "2", str(NOW + 1000))
        assert lease.entries[:70] == [STEP] * 70

    async def test_a_journal_beyond_the_limit_is_read_on_by_the_attempt(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        big = STEP[:-1] + b"\xc5\xff\xff" + b"x" * 65535
        await world.call("record", entries=[big] * 70)
        await world.call("release")
        (world.lease,) = await world.claim()
        assert world.lease.base == 71
        assert len(world.lease.entries) < 71
        rest = await world.lease.read(len(world.lease.entries), 71)
        assert [*world.lease.entries[:70], *rest[:-1]] == [big] * 70
        await world.mux.command("DEL", world.keys.journal(world.id))  # it is no real entry
        await world.call("settle", k=-71)

    async def test_a_batch_beyond_the_limit_leaves_bodies_to_be_read(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        body = msgspec.msgpack.encode(["", b"x" * 1_000_000])
        for _ in range(6):
            assert await world.store.submit(new_id(0), body, QUEUE, "q:normal") == b"OK"
        leases = await world.claim(6)
        assert [lease.body is None for lease in leases] == [False] * 5 + [True]
        assert await leases[5].read_body() == body
        await world.mux.command("DEL", *[world.keys.envelope(lease.id) for lease in leases])
        await world.mux.command("DEL", *[world.keys.head(lease.id) for lease in leases], *world.streams)

    async def test_a_handlers_limit_holds_unless_the_sender_set_one(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        mine, theirs = await world.submit(), await world.submit(new_id(0), max_losses=9)
        await world.claim(2, limits=["", "", "5", "", ""])
        assert await world.mux.command("HGET", world.keys.head(mine), "max") == b"5"
        assert await world.mux.command("HGET", world.keys.head(theirs), "max") == b"9"

    async def test_a_stream_that_nobody_opened_is_passed_over(self, world: World) -> None:
        await world.submit()
        assert await world.claim() == []
        assert await world.claim(number=world.numbers) == []
        await world.keeper.open(world.streams)
        assert len(await world.claim()) == 1


async def _at(world: World, intent: str) -> bytes:
    at = await world.mux.command("HGET", world.keys.head(intent), "at")
    return bytes(at.split(b"/")[1])


class TestRecover:
    @answers(
        ("DELIVERED", {}, "OK", "SUBMITTED"),
        ("DELIVERED", {"owner": "w2"}, "GONE", "SUBMITTED"),
        ("DELIVERED", {"idle": 60_000}, "ALIVE", "SUBMITTED"),
        ("SUBMITTED", {}, "GONE", "SUBMITTED"),
        ("IN_PROGRESS", {}, "OK", "SUBMITTED"),
        ("IN_PROGRESS", {"owner": "w2"}, "GONE", "IN_PROGRESS"),
        ("IN_PROGRESS", {"idle": 60_000}, "ALIVE", "IN_PROGRESS"),
        ("IN_PROGRESS", {"liveness": "nobody"}, "OK", "SUBMITTED"),
        ("IN_PROGRESS", {"counted": 0}, "OK", "SUBMITTED"),
        ("WAITING", {}, "GONE", "WAITING"),
        *[(state, {}, "GONE", state) for state in FINAL],
        ("CREATED", {}, "GONE", "CREATED"),
        ("GONE", {}, "GONE", None),
    )
    async def test_it_takes_what_a_dead_owner_holds(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        first, second = await world.twice("recover", **given)
        # the entry of the first call is gone: a second looker, or a repeated call, finds nothing to take
        assert (first, second) == (reply, "GONE" if reply == "OK" else reply)
        assert await world.status() == after

    async def test_an_owner_that_listens_is_alive(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS")
        before = await world.dump()
        with plain(real) as client, client.pubsub() as hearing:
            hearing.subscribe("t:l:w1")
            hearing.get_message(timeout=10)
            assert await world.call("recover", liveness="t:l:w1") == "ALIVE"
        assert await world.dump() == before

    @answers(
        ("IN_PROGRESS", {"counted": 1}, "OK", "1"),
        ("IN_PROGRESS", {"counted": 0}, "OK", None),
        ("DELIVERED", {"counted": 1}, "OK", None),
    )
    async def test_only_what_ran_is_counted(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        assert await world.call("recover", **given) == reply
        assert await world.field("losses") == after

    @pytest.mark.parametrize(
        ("most", "words"),
        [
            ("", ["OK", "SUSPECT", "FAILED"]),
            ("1", ["FAILED"]),
            ("2", ["SUSPECT", "FAILED"]),
            ("3", ["OK", "SUSPECT", "FAILED"]),
            ("5", ["OK", "SUSPECT", "SUSPECT", "SUSPECT", "FAILED"]),
        ],
    )
    async def test_a_poison_intent_is_run_alone_before_it_is_given_up(
        self, world: World, most: str, words: list[str]
    ) -> None:
        await world.bring("SUBMITTED", max_losses=int(most) if most else None)
        found = []
        for _ in words:
            (world.lease,) = await world.claim()
            assert world.lease.lane == (SOLO if "SUSPECT" in found else "q:normal" if not found else "c:-")
            found.append(await world.call("recover"))
        assert found == words
        assert await world.status() == "FAILED"
        assert await world.claim() == []

    async def test_what_did_not_run_alone_is_not_given_up(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("recover")
        (world.lease,) = await world.claim()
        assert await world.call("recover") == "SUSPECT"
        (world.lease,) = await world.claim()
        assert await world.call("park") == "OK"
        assert await world.call("wake") == "OK"  # now it is among others again
        (world.lease,) = await world.claim()
        assert world.lease.lane == "c:-"
        assert await world.call("recover") == "SUSPECT"
        (world.lease,) = await world.claim()
        assert world.lease.lane == SOLO
        assert await world.call("recover") == "FAILED"

    async def test_an_innocent_suspect_that_makes_progress_is_none_any_more(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        for _ in range(2):
            await world.call("recover")
            (world.lease,) = await world.claim()
        assert world.lease is not None
        assert world.lease.lane == SOLO
        await world.call("record")
        assert await world.call("recover") == "OK"
        assert await world.field("losses") == "1"
        (world.lease,) = await world.claim()
        assert world.lease.lane == "c:-"

    async def test_a_suspect_that_was_only_delivered_stays_one(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("recover")
        (world.lease,) = await world.claim()
        await world.call("recover")
        await world.deliver()
        assert await world.call("recover") == "OK"
        assert (await world.field("at") or "").startswith(SOLO)

    async def test_progress_from_outside_is_none(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("recover")
        (world.lease,) = await world.claim()
        await world.store.cancel(world.id)
        await world.call("recover")
        assert await world.field("losses") == "2"

    async def test_an_entry_that_is_not_its_intents_is_dropped(self, world: World) -> None:
        await world.bring("DELIVERED")
        lane = await world.field("at") or ""
        other = await world.mux.command("XADD", world.streams[0], "*", "i", world.id)
        await world.mux.command("HSET", world.keys.head(world.id), "at", f"c:-/{other.decode()}")
        assert await world.call("recover", entry=lane.split("/")[1], lane="q:normal",
                                stream_key=world.streams[2]) == "STALE"  # fmt: skip
        await check_all(world.store)

    async def test_the_keeper_names_the_last_worker_and_step(self, world: World) -> None:
        await world.bring("SUBMITTED", max_losses=1)
        (world.lease,) = await world.claim()
        await world.call("record")
        # its step is progress: the loss is the first since
        (entry,) = await world.keeper.pending(world.lease.stream)
        assert await world.keeper.recover(entry) == "FAILED"
        raw = await world.mux.command("GET", world.keys.outcome(world.id))
        outcome = msgspec.msgpack.decode(raw, type=Outcome)
        assert outcome.status is Status.FAILED
        assert outcome.error is not None
        assert outcome.error.code == "DELIVERY_ATTEMPTS_EXHAUSTED"
        assert "worker w1" in outcome.error.message
        assert "step fetch#0" in outcome.error.message

    async def test_the_keeper_tells_what_is_gone_from_what_is_pending(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        (entry,) = await world.keeper.pending(world.lease.stream, owner="w1")
        assert await world.keeper.pending(world.lease.stream, owner="w2") == []
        assert await world.keeper.pending(world.lease.stream, idle=60_000) == []
        assert await world.keeper.pending(world.keys.stream("unknown", "q:low")) == []
        await world.mux.command("XDEL", world.lease.stream, world.lease.entry)
        assert await world.keeper.recover(entry) == "STALE"
        assert await world.keeper.pending(world.lease.stream) == []
        assert await world.keeper.mend(world.id) == "MENDED"

    async def test_who_looks_for_suspects_is_told(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS", max_losses=2)
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.timers)
            hearing.get_message(timeout=10)
            assert await world.call("recover") == "SUSPECT"
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == b"solo"


class TestFire:
    @answers(
        ("GONE", {}, "STALE", None),
        *[(state, {}, "STALE", state) for state in ("SUBMITTED", "IN_PROGRESS", "WAITING", *FINAL)],
        ("CREATED", {}, "OK", "SUBMITTED"),
        ("CREATED", {"expected": "WAITING"}, "AGAIN", "CREATED"),
    )
    async def test_it_starts_what_is_due(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({"delay_ms": 10} if state == "CREATED" else {}))
        world.advance(10)
        assert await world.twice("fire", **given) == (reply, "STALE" if reply == "OK" else reply)
        assert await world.status() == after

    async def test_a_waiting_intent_goes_on_when_its_wake_is_due(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("park", wake="+500", reason="TIME")
        assert await world.call("fire") == "EARLY"
        world.advance(500)
        assert await world.call("fire") == "OK"
        assert (await world.field("at") or "").startswith("c:-/")
        assert await world.keeper.due(NOW_MS + 999, 9) == ({}, None)

    async def test_one_second_early_is_early(self, world: World) -> None:
        await world.bring("CREATED")
        world.advance(59_999)
        assert await world.keeper.fire(world.store, world.id) == "EARLY"
        world.advance(1)
        assert await world.keeper.fire(world.store, world.id) == "OK"
        assert (await world.field("at") or "").startswith("q:normal/")

    async def test_it_keeps_the_lane_that_it_was_sent_with(self, world: World) -> None:
        await world.submit(lane="q:high", delay_ms=5)
        world.advance(5)
        assert await world.keeper.fire(world.store, world.id) == "OK"
        assert (await world.field("at") or "").startswith("q:high/")

    @pytest.mark.parametrize("state", FINAL)
    async def test_an_intent_that_ended_meanwhile_gets_no_timer(self, world: World, state: str) -> None:
        await world.bring(state, deadline="+50")
        for _ in range(2):
            await world.keeper.fire(world.store, world.id)
            assert await world.keeper.due(NOW_MS + DAY, 9) == ({}, None)
            world.advance(100)

    async def test_a_timer_that_the_head_knows_nothing_of_goes(self, world: World) -> None:
        await world.bring("SUBMITTED")
        await world.mux.command("ZADD", world.keys.timers, NOW_MS, world.id)
        assert await world.keeper.fire(world.store, world.id) == "STALE"
        assert await world.keeper.due(NOW_MS, 9) == ({}, None)

    async def test_the_timer_of_an_intent_that_is_gone_goes(self, world: World) -> None:
        await world.mux.command("ZADD", world.keys.timers, NOW_MS, world.id)
        assert await world.keeper.fire(world.store, world.id) == "STALE"
        assert await world.keeper.due(NOW_MS, 9) == ({}, None)


class TestExpire:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        ("CREATED", {}, "TIMED_OUT", "TIMED_OUT"),
        ("SUBMITTED", {}, "TIMED_OUT", "TIMED_OUT"),
        ("DELIVERED", {}, "TIMED_OUT", "TIMED_OUT"),
        ("IN_PROGRESS", {}, "REQUESTED", "IN_PROGRESS"),
        ("WAITING", {}, "REQUESTED", "SUBMITTED"),
        *[(state, {}, state, state) for state in FINAL],
        ("SUBMITTED", {"at": "c:-/1-1"}, "AGAIN", "SUBMITTED"),
    )
    async def test_it_ends_what_never_ran_and_tells_what_did(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({} if state == "GONE" else {"deadline": "+50"}))
        world.advance(50)
        assert await world.twice("expire", **given) == (reply, reply)
        assert await world.status() == after
        assert await world.field("canceling") == ("TIMED_OUT" if reply == "REQUESTED" else None)

    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED", "DELIVERED", "IN_PROGRESS", "WAITING"])
    async def test_before_its_deadline_nothing_happens(self, world: World, state: str) -> None:
        await world.bring(state, deadline="+50")
        world.advance(49)
        before = await world.dump()
        assert await world.call("expire") == "EARLY"
        assert await world.dump() == before

    async def test_without_a_deadline_nothing_happens(self, world: World) -> None:
        await world.bring("WAITING")
        before = await world.dump()
        assert await world.call("expire") == "EARLY"
        assert await world.dump() == before

    async def test_the_servers_clock_decides_not_the_workers(self, world: World) -> None:
        # the clock of these scripts is years behind this process's: nothing may be thought due, or never due
        await world.bring("SUBMITTED", deadline="+50")
        assert await world.keeper.fire(world.store, world.id) == "EARLY"
        world.advance(50)
        assert await world.keeper.fire(world.store, world.id) == "TIMED_OUT"

    async def test_a_start_before_the_deadline_is_fired_first(self, world: World) -> None:
        await world.bring("CREATED", delay_ms=20, deadline="+50")
        world.advance(60)
        assert await world.keeper.fire(world.store, world.id) == "OK"
        assert await world.keeper.due(NOW_MS + 60, 9) == ({world.id: NOW_MS + 50}, NOW_MS + 50)
        assert await world.keeper.fire(world.store, world.id) == "TIMED_OUT"


class TestMend:
    @pytest.mark.parametrize("state", STATES)
    async def test_what_is_whole_stays_as_it_is(self, world: World, state: str) -> None:
        await world.bring(state, **({} if state == "GONE" else {"deadline": "+50"}))
        before = await world.dump()
        assert await world.keeper.mend(world.id) == ("STALE" if state in ("GONE", *FINAL) else "OK")
        assert await world.dump() == before

    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED", "DELIVERED", "IN_PROGRESS"])
    async def test_a_lost_timer_comes_back(self, world: World, state: str) -> None:
        await world.bring(state, deadline="+50")
        before = await world.dump()
        await world.mux.command("ZREM", world.keys.timers, world.id)
        assert await world.twice("mend") == ("MENDED", "OK")
        assert await world.dump() == before

    async def test_a_lost_wake_comes_back(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("park", wake="+5")
        await world.mux.command("ZREM", world.keys.timers, world.id)
        assert await world.keeper.mend(world.id) == "MENDED"
        assert await world.keeper.due(NOW_MS + 5, 9) == ({world.id: NOW_MS + 5}, NOW_MS + 5)

    @pytest.mark.parametrize("state", ["SUBMITTED", "DELIVERED", "IN_PROGRESS"])
    @pytest.mark.parametrize("lost", ["entry", "stream", "group", "ack"])
    async def test_a_lost_entry_comes_back(self, world: World, state: str, lost: str) -> None:
        await world.bring(state)
        lane, entry = (await world.field("at") or "").split("/")
        stream = world.keys.stream(QUEUE, lane)
        if lost == "entry":
            await world.mux.command("XDEL", stream, entry)
        elif lost == "stream":
            await world.mux.command("DEL", stream)
        elif lost == "group":
            await world.mux.command("XGROUP", "DESTROY", stream, GROUP)
        else:
            await world.mux.command("XACK", stream, GROUP, entry)
        whole = state == "SUBMITTED" and lost in ("group", "ack")  # it is still to be read
        whole = whole or (state == "DELIVERED" and lost == "group")  # a new group reads it again
        assert await world.keeper.mend(world.id) == ("OK" if whole else "MENDED")
        await world.keeper.open([*world.streams, world.solo])
        (lease,) = await world.claim(worker="w2")
        assert (lease.id, lease.attempt) == (world.id, 2 if state == "IN_PROGRESS" else 1)
        await check_all(world.store)

    async def test_an_intent_that_moved_since_it_was_read_is_left_alone(self, world: World) -> None:
        await world.bring("SUBMITTED")
        assert await world.call("mend", at="c:-/1-1") == "STALE"


class TestSweep:
    @answers(
        *[(state, {}, "OK", None) for state in FINAL],
        *[(state, {}, "WRONG_STATE", state) for state in ("CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING")],
        ("GONE", {}, "OK", None),
    )
    async def test_it_removes_what_is_finished_and_nothing_else(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        world.advance(DAY)
        assert await world.twice("sweep", **given) == (reply, reply)
        assert await world.status() == after
        if after is None:
            assert await check(world.store, world.id) is None

    @pytest.mark.parametrize("state", FINAL)
    async def test_not_before_its_retention_is_over(self, world: World, state: str) -> None:
        await world.bring(state)
        world.advance(DAY - 1)
        assert await world.call("sweep") == "EARLY"
        assert await world.keeper.sweep(NOW_MS + DAY - 1, 9) == 0
        assert await world.status() == state

    async def test_the_keeper_removes_in_bounded_parts(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(7):
            await world.submit(new_id(0))
        for n, lease in enumerate(await world.claim(7)):
            status = FINAL[n % 4]
            assert await lease.settle(status, result_of(status), DAY) == b"OK"
        world.advance(DAY)
        assert await world.keeper.sweep(NOW_MS + DAY, 2) == 4  # two of each view
        assert await world.keeper.sweep(NOW_MS + DAY, 9) == 3
        assert await check_all(world.store) == {}


class TestOpenAndDismiss:
    async def test_open_keeps_what_is_there(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        before = await world.dump()
        await world.keeper.open([*world.streams, world.solo])
        assert await world.dump() == before

    async def test_open_reads_from_the_first_entry_on(self, world: World) -> None:
        await world.submit()
        await world.keeper.open(world.streams)
        assert len(await world.claim()) == 1

    async def test_a_worker_that_holds_something_is_not_forgotten(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.mux.command("HSET", world.keys.workers, "w1", b"about w1")
        assert await world.keeper.dismiss("w1") is False
        await world.call("settle")
        assert await world.keeper.dismiss("w1") is True
        assert await world.keeper.dismiss("w1") is True
        assert await world.mux.command("HGETALL", world.keys.workers) == []
        for stream in world.streams:
            assert await world.mux.command("XINFO", "CONSUMERS", stream, GROUP) == []

    async def test_a_stream_without_a_group_holds_nothing(self, world: World) -> None:
        await world.submit()
        assert await world.keeper.dismiss("w1") is True


async def test_one_call_renews_many_leases(world: World) -> None:
    await world.keeper.open([*world.streams, world.solo])
    for _ in range(3):
        await world.submit(new_id(0))
    leases = await world.claim(3)
    await leases[1].settle("COMPLETED", b"", DAY)
    assert await world.mux.command(*renewal(leases, "w1")) == [b"OK", b"LOST", b"OK"]
