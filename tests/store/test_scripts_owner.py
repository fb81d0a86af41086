"""The verbs of a lease's owner: record, checkpoint, note, park, shelve, retry, release, settle, renew."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.model import Claimed, decode_entry
from redurable.store import inspection
from redurable.store.keys import SOLO
from redurable.store.server import PrivateServer
from tests.store.conftest import answers, plain
from tests.store.world import DAY, FAILURE, FINAL, NOW_MS, STALE, STATES, STEP, World, result_of
from tests.support.invariants import check

pytestmark = pytest.mark.anyio

FENCED = ("record", "checkpoint", "note", "park", "shelve", "retry", "release", "settle")
COUNTED = ("record", "park", "retry", "settle")
# (verb, state): what this very attempt did before is answered as it was the first time
DONE_BEFORE = {("park", "WAITING"), ("shelve", "WAITING"), ("retry", "WAITING"), ("settle", "COMPLETED")}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", FENCED)
async def test_a_stale_fence_changes_nothing_in_any_state(world: World, verb: str, state: str) -> None:
    await world.bring(state)
    before = await world.dump()
    assert await world.call(verb, fence=STALE) == ("NOT_FOUND" if state == "GONE" else "FENCED")
    assert await world.dump() == before


@pytest.mark.parametrize("state", [s for s in STATES if s != "IN_PROGRESS"])
@pytest.mark.parametrize("verb", FENCED)
async def test_the_last_owner_changes_nothing_once_its_attempt_is_over(world: World, verb: str, state: str) -> None:
    await world.bring(state)
    before = await world.dump()
    if state == "GONE":
        expected = "NOT_FOUND"
    elif world.lease is None:  # never claimed: there is no fence to hold
        expected = "FENCED"
    else:
        expected = "OK" if (verb, state) in DONE_BEFORE else "WRONG_STATE"
    assert await world.call(verb) == expected
    assert await world.dump() == before


@pytest.mark.parametrize("verb", FENCED)
async def test_sent_twice_a_verb_has_one_effect(world: World, verb: str) -> None:
    await world.bring("IN_PROGRESS", steps=2)
    first, second = await world.twice(verb)
    assert first == (3 if verb == "record" else "OK")
    assert second == ("DUPLICATE" if verb == "record" else "OK")


@pytest.mark.parametrize("verb", COUNTED)
async def test_an_attempt_that_miscounts_its_records_changes_nothing(world: World, verb: str) -> None:
    await world.bring("IN_PROGRESS", steps=2)
    before = await world.dump()
    assert await world.call(verb, k=1) == "DUPLICATE"
    assert await world.call(verb, k=3) == "REGRESSED"
    assert await world.dump() == before


@pytest.mark.parametrize("verb", FENCED)
async def test_the_owner_before_a_recovery_is_fenced_off(world: World, verb: str) -> None:
    await world.bring("IN_PROGRESS")
    assert world.lease is not None
    old = world.lease.fence
    assert await world.call("recover") == "OK"
    before = await world.dump()
    # nobody has claimed it yet, so the fence is still the old one; `release` finds its wish fulfilled
    assert await world.call(verb, fence=old) == ("OK" if verb == "release" else "WRONG_STATE")
    assert await world.dump() == before
    (world.lease,) = await world.claim(worker="w2")
    assert await world.call(verb, fence=old) == "FENCED"


async def test_one_failing_item_of_a_batch_leaves_its_neighbours_alone(world: World) -> None:
    await world.bring("IN_PROGRESS")
    ids = [await world.submit(f"01900000-0000-7000-8000-00000000000{n}") for n in range(5)]
    leases = await world.claim(count=5)
    assert [lease.id for lease in leases] == ids
    await world.mux.command("SET", world.keys.journal("x"), "not a list")
    leases[1]._journal = world.keys.journal("x")  # a key of the wrong type: the item raises inside the script
    leases[3].fence = STALE
    before = world.store.mux.connects
    words = [lease.record([STEP]) for lease in leases]
    found: list[Any] = []
    for word in words:
        try:
            found.append(await word)
        except Exception as error:
            found.append(type(error).__name__)
    assert found == [1, "StoreError", 1, b"FENCED", 1]
    assert world.store.mux.connects == before
    await world.mux.command("DEL", world.keys.journal("x"))


class TestRecord:
    async def test_it_answers_the_seq_of_its_last_entry(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("record", entries=[STEP, FAILURE]) == 2
        assert await world.call("record", entries=[STEP], k=2) == 3
        assert await world.journal() == [STEP, FAILURE, STEP]

    async def test_what_came_from_outside_is_a_gap_in_the_seqs_but_not_in_k(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert await world.store.cancel(world.id) == "REQUESTED"
        assert await world.call("record", k=1) == 3

    async def test_nothing_is_a_seq_of_a_second_attempt_but_its_own(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=3)
        assert await world.call("recover") == "OK"
        (world.lease,) = await world.claim()
        assert world.lease.base == 4
        assert isinstance(decode_entry(world.lease.entries[3]), Claimed)
        assert await world.call("record", k=0) == 5

    async def test_many_entries_go_in_one_record(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("record", entries=[STEP] * 5000) == 5000


class TestCheckpoint:
    async def test_it_keeps_the_last_value_by_name(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        for name, value in (("a#0", b"1"), ("b#0", b"2"), ("a#0", b"3")):
            assert await world.call("checkpoint", name=name, value=value) == "OK"
        flat = await world.lease.read_checkpoints()
        assert dict(zip(flat[::2], flat[1::2], strict=True)) == {b"a#0": b"3", b"b#0": b"2"}

    async def test_a_cursor_that_moved_is_progress_and_one_that_did_not_is_none(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("recover")
        (world.lease,) = await world.claim()
        assert await world.field("losses") == "1"
        await world.call("checkpoint", value=b"1")
        assert await world.field("losses") is None
        await world.call("recover")
        (world.lease,) = await world.claim()
        await world.call("checkpoint", value=b"1")
        assert await world.field("losses") == "1"

    async def test_cursors_end_with_the_intent(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("checkpoint")
        await world.call("settle")
        assert await world.mux.command("EXISTS", world.keys.checkpoint(world.id)) == 0


class TestPark:
    async def test_it_waits_without_an_entry(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert await world.call("park", reason="HUMAN") == "OK"
        assert (await world.status(), await world.field("reason")) == ("WAITING", "HUMAN")
        assert await world.mux.command("ZSCORE", world.keys.timers, world.id) is None

    @pytest.mark.parametrize(("wake", "due"), [("+1500", NOW_MS + 1500), (str(NOW_MS + 9), NOW_MS + 9)])
    async def test_a_wake_is_from_now_or_a_moment(self, world: World, wake: str, due: int) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("park", wake=wake, reason="TIME") == "OK"
        assert await world.keeper.due(due - 1, 9) == ({}, due)
        assert await world.keeper.due(due, 9) == ({world.id: due}, due)

    async def test_news_that_the_owner_has_not_seen_refuse_it(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2)
        await world.store.cancel(world.id)
        before = await world.dump()
        assert await world.call("park", seen=2) == "NEWS"
        assert await world.dump() == before
        assert await world.call("park", seen=3) == "OK"

    async def test_a_deadline_before_the_wake_is_the_timer(self, world: World) -> None:
        await world.bring("IN_PROGRESS", deadline="+500")
        assert await world.call("park", wake="+1000") == "OK"
        assert await world.keeper.due(NOW_MS, 9) == ({}, NOW_MS + 500)


class TestShelve:
    async def test_a_first_claim_leaves_no_trace_and_the_next_is_the_first(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.twice("shelve", reason="UNKNOWN_TYPE") == ("OK", "OK")
        assert (await world.status(), await world.field("reason")) == ("WAITING", "UNKNOWN_TYPE")
        assert await world.field("wake") == str(NOW_MS + 1000)
        assert await world.field("attempt") is None
        assert await world.field("started") is None
        await check(world.store, world.id)
        assert await world.store.wake(world.id) == "OK"
        (lease,) = await world.claim()
        assert (lease.attempt, lease.base, await world.journal()) == (1, 0, [])

    async def test_a_later_claim_takes_its_entry_back(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2)
        await world.call("release")
        for _ in range(3):
            (world.lease,) = await world.claim()
            assert (world.lease.attempt, len(await world.journal())) == (2, 3)
            assert await world.call("shelve") == "OK"
            assert await world.journal() == [STEP, STEP]
            assert await world.field("attempt") == "1"
            await world.store.wake(world.id)

    async def test_news_refuse_it_and_stay(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.call("release")
        (world.lease,) = await world.claim()
        await world.store.cancel(world.id)
        assert await world.call("shelve", seen=2) == "NEWS"
        assert await world.call("shelve", seen=3) == "OK"
        kinds = [type(decode_entry(raw)).__name__ for raw in await world.journal()]
        assert kinds == ["StepDone", "Claimed", "CancelRequested"]

    async def test_one_that_was_never_begun_ends_at_once(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("shelve")
        assert await world.store.cancel(world.id) == "CANCELED"
        await check(world.store, world.id)


class TestRetry:
    async def test_it_waits_for_its_time_and_keeps_the_failure(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert await world.call("retry", wake="+1000") == "OK"
        assert (await world.status(), await world.field("reason")) == ("WAITING", "RETRY")
        assert await world.field("wake") == str(NOW_MS + 1000)
        assert await world.journal() == [STEP, FAILURE]

    async def test_unseen_news_start_the_next_attempt_at_once(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.store.cancel(world.id)
        assert await world.call("retry", seen=1, wake="+60000") == "OK"
        assert await world.field("wake") == str(NOW_MS)


class TestRelease:
    async def test_it_goes_to_the_continuations_uncounted(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert world.lease is not None
        assert await world.lease.release() == b"OK"
        assert await world.status() == "SUBMITTED"
        assert (await world.field("at") or "").startswith("c:-/")
        assert await world.field("losses") is None
        (lease,) = await world.claim(worker="w2")
        assert (lease.id, lease.attempt, lease.entries[0]) == (world.id, 2, STEP)

    async def test_a_suspect_stays_one(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("recover")
        (world.lease,) = await world.claim()
        assert await world.call("recover") == "SUSPECT"
        (world.lease,) = await world.claim()
        assert world.lease.lane == SOLO
        assert await world.lease.release() == b"OK"
        assert (await world.field("at") or "").startswith(SOLO)
        assert await world.field("losses") == "2"


@pytest.mark.parametrize("verb", ["park", "retry", "release"])
async def test_progress_before_giving_it_up_forgives_earlier_losses(world: World, verb: str) -> None:
    await world.bring("IN_PROGRESS")
    await world.call("recover")
    (world.lease,) = await world.claim()
    assert await world.field("losses") == "1"
    await world.call("record")
    world.lease.k = 1
    assert await world.call(verb) == "OK"
    assert await world.field("losses") is None


@pytest.mark.parametrize("verb", ["park", "retry", "release"])
async def test_giving_it_up_without_progress_keeps_earlier_losses(world: World, verb: str) -> None:
    await world.bring("IN_PROGRESS")
    await world.call("recover")
    (world.lease,) = await world.claim()
    assert await world.call(verb) == "OK"
    assert await world.field("losses") == "1"


class TestSettle:
    @pytest.mark.parametrize("status", FINAL)
    async def test_it_ends_the_intent_in_one_step(self, world: World, status: str) -> None:
        await world.bring("IN_PROGRESS", steps=1, deadline="+5000", reply="c9")
        assert world.lease is not None
        assert await world.lease.settle(status, result_of(status), DAY) == b"OK"
        assert await check(world.store, world.id) == status
        view = world.keys.done if status == "COMPLETED" else world.keys.failed
        assert await world.mux.command("ZSCORE", view, world.id) == str(NOW_MS + DAY).encode()
        assert await inspection.outcome(world.store, world.id) == inspection.unpack_outcome(result_of(status))

    @pytest.mark.parametrize("size", [0, 16384, 16385])
    async def test_waiters_hear_the_result_or_that_it_is_too_long_to_tell(
        self, world: World, real: PrivateServer, size: int
    ) -> None:
        await world.bring("IN_PROGRESS", reply="c9")
        await world.store.watch(world.id)
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe("t:r:c9", world.keys.news(world.id))
            for _ in range(2):
                hearing.get_message(timeout=10)
            assert await world.call("settle", status="FAILED", view_key=world.keys.failed,
                                    result=b"\x00" * size) == "OK"  # fmt: skip
            heard = {m["channel"]: m["data"] for m in (hearing.get_message(timeout=10) for _ in range(2))}
        news = world.id.encode() + (b"\x00" * size if size <= 16384 else b"?")
        assert heard == {b"t:r:c9": news, world.keys.news(world.id).encode(): news}
        await world.mux.command("HDEL", world.keys.head(world.id), "outcome")
        await world.mux.command("SET", world.keys.outcome(world.id), result_of("FAILED"))  # a real one again

    async def test_without_a_reply_channel_nothing_is_published(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS", reply="")
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.psubscribe("t:r:*")
            hearing.get_message(timeout=10)
            await world.call("settle")
            assert hearing.get_message(timeout=0.05) is None


class TestRenew:
    @answers(
        ("IN_PROGRESS", {}, "OK", "IN_PROGRESS"),
        ("IN_PROGRESS", {"fence": STALE}, "LOST", "IN_PROGRESS"),
        ("DELIVERED", {}, "LOST", "SUBMITTED"),
        *[(state, {}, "LOST", state) for state in STATES if state not in ("IN_PROGRESS", "DELIVERED", "GONE")],
        ("GONE", {}, "LOST", None),
    )
    async def test_only_the_live_owner_renews(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str
    ) -> None:
        await world.bring(state)
        assert await world.twice("renew", **given) == (reply, reply)
        assert await world.status() == after

    async def test_it_resets_the_idle_time(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        # as if the entry had been idle for a minute
        await world.mux.command("XCLAIM", world.lease.stream, "rd", "w1", 0, world.lease.entry, "IDLE", 60_000)
        assert (await world.keeper.pending(world.lease.stream))[0].idle >= 60_000
        assert await world.call("renew") == "OK"
        assert (await world.keeper.pending(world.lease.stream))[0].idle < 10_000

    async def test_it_wins_the_entry_back_for_its_consumer(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        await world.mux.command("XCLAIM", world.lease.stream, "rd", "thief", 0, world.lease.entry, "JUSTID")
        assert await world.call("renew") == "OK"
        assert (await world.keeper.pending(world.lease.stream))[0].owner == "w1"

    async def test_an_owner_taken_for_dead_takes_its_loss_back_once(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("recover", liveness="t:l:w1") == "OK"
        assert await world.field("losses") == "1"
        assert await world.twice("renew") == ("LOST", "LOST")
        assert await world.field("losses") == "0"

    async def test_a_loss_that_progress_forgave_is_not_taken_back_again(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert world.lease is not None
        zombie = world.lease.fence
        await world.call("recover", liveness="t:l:w1")
        (world.lease,) = await world.claim(worker="w2")
        await world.call("record")
        assert await world.call("recover", owner="w2") == "OK"  # by its parent: not asked for its liveness
        assert await world.field("losses") == "1"
        assert await world.call("renew", fence=zombie) == "LOST"
        assert await world.field("losses") == "1"
