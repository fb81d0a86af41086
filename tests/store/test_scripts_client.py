"""The verbs of producers and operators: submit, schedule, cancel, redrive, wake, watch."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.errors import NotFound, WrongState
from redurable.ids import new_id
from redurable.model import (
    CancelRequested,
    Compensating,
    ErrorInfo,
    Reopened,
    Status,
    StepDone,
    StepFailedEntry,
    StepTried,
    decode_entry,
    encode_entry,
)
from redurable.store.journals import failures_of, undone_of
from redurable.store.server import PrivateServer
from tests.store.conftest import answers, plain
from tests.store.world import BODY, FAILURE, FINAL, NOW_MS, OPEN, QUEUE, STATES, STEP, World, result_of
from tests.support.invariants import check

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("verb", ["submit", "schedule"])
class TestSubmitAndSchedule:
    async def test_it_stores_all_that_was_said(self, world: World, verb: str) -> None:
        await world.bring("GONE")
        first, second = await world.twice(verb, deadline="+90000", max=5, digest="d1", reply="c7")
        assert (first, second) == ("OK", "EXISTS")
        assert await world.status() == ("SUBMITTED" if verb == "submit" else "CREATED")
        fields = {name: await world.field(name) for name in ("queue", "reply", "digest", "max", "created", "deadline")}
        assert fields == {
            "queue": QUEUE, "reply": "c7", "digest": "d1", "max": "5", "created": str(NOW_MS),
            "deadline": str(NOW_MS + 90_000),
        }  # fmt: skip
        assert await world.mux.command("GET", world.keys.envelope(world.id)) == BODY

    @pytest.mark.parametrize("state", [s for s in STATES if s != "GONE"])
    async def test_the_first_stands_in_every_state(self, world: World, verb: str, state: str) -> None:
        await world.bring(state, digest="d1")
        before = await world.dump()
        assert await world.call(verb) == "EXISTS"
        assert await world.call(verb, digest="d1") == "EXISTS"
        assert await world.call(verb, digest="other") == "CONFLICT"
        assert await world.dump() == before

    async def test_a_deadline_is_a_timer(self, world: World, verb: str) -> None:
        await world.bring("GONE")
        await world.call(verb, deadline=str(NOW_MS + 10))
        assert await world.keeper.due(NOW_MS, 9) == ({}, NOW_MS + 10)


async def test_a_new_stream_is_found_by_those_who_look_for_streams(world: World) -> None:
    await world.call("submit")
    assert await world.keeper.all_streams() == [world.keys.stream(QUEUE, "q:normal")]


async def test_a_new_earliest_timer_is_told_and_a_later_one_is_not(world: World, real: PrivateServer) -> None:
    with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
        hearing.subscribe(world.keys.timers)
        hearing.get_message(timeout=10)
        for start in ("+5000", "+6000", "+4000"):
            world.id = new_id(0)
            await world.call("schedule", start=start)
        heard = [hearing.get_message(timeout=10) for _ in range(2)]
        assert [m["data"] for m in heard if m] == [b"%d" % (NOW_MS + 5000), b"%d" % (NOW_MS + 4000)]
        assert hearing.get_message(timeout=0.05) is None


class TestCancel:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        ("CREATED", {}, "CANCELED", "CANCELED"),
        ("SUBMITTED", {}, "CANCELED", "CANCELED"),
        ("DELIVERED", {}, "CANCELED", "CANCELED"),
        ("IN_PROGRESS", {}, "REQUESTED", "IN_PROGRESS"),
        ("WAITING", {}, "REQUESTED", "SUBMITTED"),
        *[(state, {}, state, state) for state in FINAL],
        ("SUBMITTED", {"at": "c:-/1-1"}, "AGAIN", "SUBMITTED"),
        ("WAITING", {"at": "c:-/1-1"}, "AGAIN", "WAITING"),
    )
    async def test_it_ends_what_never_ran_and_asks_what_did(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({} if state == "GONE" else {"deadline": "+90000"}))
        assert await world.twice("cancel", **given) == (reply, reply)
        assert await world.status() == after
        assert await world.field("canceling") == ("CANCELED" if reply == "REQUESTED" else None)

    @pytest.mark.parametrize("state", OPEN)
    async def test_the_request_is_one_entry_however_often_it_is_made(self, world: World, state: str) -> None:
        await world.bring(state)
        words = {await world.store.cancel(world.id, "enough") for _ in range(3)}
        found = [decode_entry(raw) for raw in await world.journal()]
        if words == {"CANCELED"}:
            assert found == []
        else:
            assert words == {"REQUESTED"}
            assert [type(entry) for entry in found] == [CancelRequested]
            assert found[0].note == "enough"  # type: ignore[union-attr]  # its type is asserted above

    async def test_one_that_ran_before_and_is_queued_again_meets_it_in_its_journal(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.call("release")
        assert await world.call("cancel") == "REQUESTED"
        (world.lease,) = await world.claim()
        assert [type(decode_entry(e)).__name__ for e in world.lease.entries] == [
            "StepDone", "CancelRequested", "Claimed",
        ]  # fmt: skip
        assert await world.call("record", k=0) == 4

    async def test_the_owner_is_told_at_once(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS")
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.hints("w1"))
            hearing.get_message(timeout=10)
            await world.store.cancel(world.id)
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == world.id.encode()

    async def test_it_takes_the_deadline_away(self, world: World) -> None:
        await world.bring("IN_PROGRESS", deadline="+50")
        await world.call("cancel")
        assert await world.keeper.due(NOW_MS + 99, 9) == ({}, None)

    async def test_it_finds_the_entry_wherever_it_moved(self, world: World) -> None:
        await world.bring("SUBMITTED")
        command = world.mux.command
        moved = False

        def read(*words: Any) -> Any:  # between the reading and the script the intent moves on
            nonlocal moved
            answer = command(*words)
            if words[0] == "HMGET" and not moved:
                moved = True
                world.mux.call(*[*_claim_words(world)])
            return answer

        world.mux.command = read  # type: ignore[method-assign]
        try:
            assert await world.store.cancel(world.id) == "REQUESTED"
        finally:
            world.mux.command = command  # type: ignore[method-assign]
        assert await world.status() == "IN_PROGRESS"

    async def test_an_unknown_id_is_not_found(self, world: World) -> None:
        with pytest.raises(NotFound):
            await world.store.cancel(new_id(0))
        with pytest.raises(NotFound):
            await world.store.cancel("nonsense")
        with pytest.raises(NotFound):
            await world.store.cancel(new_id(7))  # a partition that this namespace does not have


def _claim_words(world: World) -> tuple[Any, ...]:
    """What `Keeper.claim` sends, to be sent without waiting."""
    from redurable.store.scripts import load
    from tests.store.world import CLAIMED

    streams = [*world.streams, world.solo]
    args = ("w1", 1, 1, world.keys.prefix, CLAIMED, "", "", len(streams), *[""] * len(streams), 0, 0)
    return load("claim"), 0, (world.keys.workers, world.keys.versions, *streams), args


class TestRedrive:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        *[(state, {}, "WRONG_STATE", state) for state in ("CREATED", "SUBMITTED", "IN_PROGRESS", "WAITING")],
        ("COMPLETED", {}, "WRONG_STATE", "COMPLETED"),
        *[(state, {}, "OK", "SUBMITTED") for state in FINAL if state != "COMPLETED"],
        ("FAILED", {"seen": 7}, "AGAIN", "FAILED"),
    )
    async def test_it_reopens_what_failed(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        assert await world.twice("redrive", **given) == (reply, reply)
        assert await world.status() == after

    async def test_the_journal_is_kept_and_its_failures_are_voided(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2, deadline="+90000")
        await world.call("record", entries=[FAILURE])
        assert world.lease is not None
        world.lease.k = 3
        await world.call("settle", status="FAILED", view_key=world.keys.failed, result=result_of("FAILED"))
        await world.store.redrive(world.id)
        (world.lease,) = await world.claim()
        assert world.lease.attempt == 2
        assert world.lease.deadline is None
        entries = [decode_entry(e) for e in world.lease.entries]
        assert [type(e).__name__ for e in entries] == ["StepDone", "StepDone", "AttemptFailed", "Reopened", "Claimed"]
        assert isinstance(entries[3], Reopened)
        assert entries[3].voided == [3]
        assert failures_of(world.lease.entries) == []

    async def test_one_that_was_canceled_before_it_ran_is_replayed_as_a_second_attempt(self, world: World) -> None:
        await world.bring("SUBMITTED")
        await world.store.cancel(world.id)
        await world.store.redrive(world.id)
        (world.lease,) = await world.claim()
        assert world.lease.attempt == 2
        assert [type(decode_entry(e)).__name__ for e in world.lease.entries] == ["Reopened", "Claimed"]
        (again,) = await world.claim(number=world.numbers)
        assert (again.id, again.started) == (world.id, world.lease.started)

    async def test_it_can_be_canceled_and_redriven_again(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        for _ in range(3):
            assert await world.store.cancel(world.id) == "REQUESTED"
            if world.lease is None:
                (world.lease,) = await world.claim()
            assert await world.lease.settle("CANCELED", result_of("CANCELED"), 1000) == b"OK"
            await world.store.redrive(world.id)
            assert await check(world.store, world.id) == "SUBMITTED"
            assert await world.field("canceling") is None
            world.lease = None
        assert failures_of(await world.journal()) == []

    async def test_what_cannot_be_redriven_says_why(self, world: World) -> None:
        with pytest.raises(NotFound):
            await world.store.redrive(world.id)
        await world.bring("SUBMITTED")
        with pytest.raises(WrongState, match="SUBMITTED"):
            await world.store.redrive(world.id)


def test_undo_work_is_told_and_a_failure_before_it_is_found() -> None:
    begun = encode_entry(Compensating(at=1, status=Status.FAILED))
    value = decode_entry(STEP).value  # type: ignore[union-attr]  # it is a StepDone
    info = ErrorInfo("E", "no")
    work = [
        StepDone("compensate", "refund", 1, 1, code=b"12345678", value=value),
        StepTried("compensate", "free", 1, 1, error=info, tries=1, due=2),
        StepFailedEntry("compensate", "free", 1, 1, code=b"12345678", error=info, tries=2),
        StepDone("compensate/free#1>>", "inner", 1, 1, code=b"12345678", value=value),
        StepTried("compensate", "give back", "x", 1, error=info, tries=1, due=2),
    ]
    entries = [STEP, FAILURE, begun]
    assert undone_of(entries[:2]) is None
    assert undone_of(entries) == []
    entries += map(encode_entry, work)
    assert undone_of(entries) == ["refund#1", "free#1 (failed)", "give back#x (not ended)"]
    entries.append(encode_entry(Reopened(at=2, voided=list(range(2, len(entries) + 1)))))
    assert undone_of(entries) is None
    assert failures_of(entries) == []
    entries += [FAILURE]
    assert failures_of(entries) == [len(entries)]


class TestWake:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        ("WAITING", {}, "OK", "SUBMITTED"),
        ("SUBMITTED", {}, "OK", "SUBMITTED"),
        ("DELIVERED", {}, "OK", "SUBMITTED"),
        *[(state, {}, "WRONG_STATE", state) for state in ("CREATED", "IN_PROGRESS", *FINAL)],
    )
    async def test_it_continues_what_waits(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        assert await world.twice("wake", **given) == (reply, reply)
        assert await world.status() == after

    async def test_its_timer_goes_but_its_deadline_stays(self, world: World) -> None:
        await world.bring("IN_PROGRESS", deadline="+90000")
        await world.call("park", wake="+100")
        assert await world.store.wake(world.id) == "OK"
        assert await world.keeper.due(NOW_MS, 9) == ({}, NOW_MS + 90_000)


class TestWatch:
    @pytest.mark.parametrize("state", STATES)
    async def test_it_answers_the_status_and_asks_open_ones_for_news(self, world: World, state: str) -> None:
        await world.bring(state)
        expected = {"GONE": "NOT_FOUND", "DELIVERED": "SUBMITTED"}.get(state, state)
        assert await world.twice("watch") == (expected, expected)
        told = state in OPEN
        assert await world.field("watch") == (world.keys.news(world.id) if told else None)

    @pytest.mark.parametrize("verb", ["record", "park", "retry", "settle", "cancel"])
    async def test_each_of_these_is_news(self, world: World, real: PrivateServer, verb: str) -> None:
        await world.bring("IN_PROGRESS")
        await world.store.watch(world.id)
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.news(world.id))
            hearing.get_message(timeout=10)
            await world.call(verb)
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == world.id.encode() + (b"" if verb == "settle" else b"+")
