"""What comes from outside: resolve by anybody; declare and withdraw by the owner."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.errors import NotFound, WrongState
from redurable.forms import Ask
from redurable.ids import new_id
from redurable.model import encode_entry
from redurable.store import arrivals
from tests.store.world import FINAL, NOW_MS, OPEN, STALE, STATES, VALUE, World
from tests.support.invariants import check

pytestmark = pytest.mark.anyio
KEY = "answer#0"


async def field(world: World, key: str = KEY) -> str | None:
    value = await world.mux.command("HGET", world.keys.arrivals(world.id), key)
    return None if value is None else value.decode()


async def waiting(world: World, reason: str = "PROMISE") -> None:
    """Bring the intent to wait for the promise."""
    await world.bring("IN_PROGRESS")
    assert await world.call("declare") == "OK"
    assert await world.call("park", reason=reason) == "OK"


class TestResolve:
    @pytest.mark.parametrize("state", OPEN)
    async def test_it_is_appended_in_every_open_state_and_moves_nobody_who_does_not_wait_for_it(
        self, world: World, state: str
    ) -> None:
        await world.bring(state)
        before = await world.status()
        assert await world.twice("resolve") == ("OK", "OK")
        assert await world.status() == before
        assert (await world.journal())[-1] == VALUE
        await check(world.store, world.id)

    @pytest.mark.parametrize("state", FINAL)
    async def test_an_intent_that_has_ended_takes_none(self, world: World, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.call("resolve") == state
        assert await world.dump() == before

    async def test_an_unknown_intent_has_none(self, world: World) -> None:
        before = await world.dump()
        assert await world.call("resolve") == "NOT_FOUND"
        assert await world.dump() == before
        with pytest.raises(NotFound):
            await arrivals.resolve(world.store, world.id, arrivals.arrival(KEY))

    async def test_it_wakes_who_waits_for_it(self, world: World) -> None:
        await waiting(world)
        assert await world.twice("resolve") == ("OK", "OK")
        assert await world.status() == "SUBMITTED"
        assert await field(world) == "=1:aa"
        (lease,) = await world.claim()
        assert lease.entries[0] == VALUE
        assert lease.base == 2

    async def test_a_backoff_is_waited_out(self, world: World) -> None:
        await waiting(world, "RETRY")
        assert await world.call("resolve") == "OK"
        assert await world.status() == "WAITING"

    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED"])
    async def test_a_first_attempt_reads_what_came_before_it(self, world: World, state: str) -> None:
        await world.bring(state, **({"delay_ms": 10} if state == "CREATED" else {}))
        assert await world.call("resolve") == "OK"
        if state == "CREATED":
            world.advance(20)
            assert await world.keeper.fire(world.store, world.id) == "OK"
        (world.lease,) = await world.claim()
        assert (world.lease.attempt, world.lease.base, world.lease.entries[0]) == (1, 2, VALUE)
        assert await world.call("record", k=0) == 3

    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED"])
    async def test_who_never_ran_is_still_canceled_at_once(self, world: World, state: str) -> None:
        await world.bring(state)
        assert await world.call("resolve") == "OK"
        assert await world.store.cancel(world.id) == "CANCELED"
        await check(world.store, world.id)

    async def test_the_first_wins_the_same_is_answered_alike_another_is_refused(self, world: World) -> None:
        await waiting(world)
        assert await world.call("resolve") == "OK"
        before = await world.dump()
        assert await world.call("resolve") == "OK"
        assert await world.call("resolve", digest="bb") == "ALREADY_RESOLVED"
        assert await world.dump() == before

    async def test_it_is_answered_alike_when_the_intent_has_ended_since(self, world: World) -> None:
        await waiting(world)
        assert await world.call("resolve") == "OK"
        (world.lease,) = await world.claim()
        assert await world.call("settle") == "OK"
        assert await world.call("resolve") == "OK"
        assert await world.call("resolve", digest="bb") == "ALREADY_RESOLVED"

    async def test_as_many_as_allowed_wait_unasked(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        for n in range(3):
            assert await world.call("resolve", key=f"x#{n}") == "OK"
        before = await world.dump()
        assert await world.call("resolve", key="x#3") == "FULL"
        assert await world.dump() == before
        assert await world.call("resolve", key="x#1") == "OK"
        assert await world.call("declare") == "OK"
        assert await world.call("resolve") == "OK"
        assert await world.call("resolve", key="x#3") == "OK"

    async def test_the_owner_hears_of_it_with_its_next_renewal(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("renew") == "OK"
        assert await world.call("resolve") == "OK"
        assert await world.call("renew") == "NEWS"
        assert await world.call("renew", base=1) == "OK"

    async def test_refusals_have_codes(self, world: World) -> None:
        await waiting(world)
        assert await arrivals.resolve(world.store, world.id, arrivals.arrival(KEY, b"\x01")) == "OK"
        with pytest.raises(WrongState) as found:
            await arrivals.resolve(world.store, world.id, arrivals.arrival(KEY, b"\x02"))
        assert found.value.code == "ALREADY_RESOLVED"
        with pytest.raises(WrongState) as found:
            await arrivals.resolve(world.store, world.id, arrivals.arrival("x#1"), most=0)
        assert found.value.code == "TOO_MANY_UNASKED"

    async def test_it_goes_with_the_intent(self, world: World) -> None:
        await waiting(world)
        assert await world.call("resolve") == "OK"
        (world.lease,) = await world.claim()
        assert await world.call("settle", keep=0) == "OK"
        world.advance(1)
        assert await world.keeper.sweep(NOW_MS + 10, 10) == 1
        assert not await world.mux.command("EXISTS", world.keys.arrivals(world.id))


class TestDeclareAndWithdraw:
    @pytest.mark.parametrize("verb", ["declare", "withdraw"])
    @pytest.mark.parametrize("state", STATES)
    async def test_only_the_owner_may(self, world: World, verb: str, state: str) -> None:
        await world.bring(state)
        before = await world.dump()
        assert await world.call(verb, fence=STALE) == ("NOT_FOUND" if state == "GONE" else "FENCED")
        if state != "IN_PROGRESS":
            word = "NOT_FOUND" if state == "GONE" else "WRONG_STATE" if world.lease else "FENCED"
            assert await world.call(verb) == word
        assert await world.dump() == before

    @pytest.mark.parametrize("verb", ["declare", "withdraw"])
    async def test_sent_twice_it_has_one_effect(self, world: World, verb: str) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.twice(verb) == ("OK", "OK")

    async def test_what_came_and_was_not_seen_yet_stays(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("resolve") == "OK"
        assert await world.call("declare", seen=0) == "OK"
        assert await field(world) == "=1:aa"

    async def test_a_child_is_owed_a_cancel_and_promises_stay_counted(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("resolve", key="early#0")
        child = str(new_id(0))
        assert await world.twice("declare", key=child, seen=1) == ("OK", "OK")
        assert await world.field("owes") == "1"
        arrivals = world.keys.arrivals(world.id)
        assert await world.mux.command("HMGET", arrivals, child, "#") == [b"?", b"1"]

    async def test_what_came_and_was_no_good_makes_place(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("resolve") == "OK"
        assert await world.call("declare", seen=1) == "OK"
        assert await field(world) == "?"
        assert await world.call("resolve", digest="bb") == "OK"
        assert await field(world) == "=2:bb"

    async def test_a_withdrawn_one_is_refused(self, world: World) -> None:
        await waiting(world)
        assert await world.store.wake(world.id) == "OK"
        (world.lease,) = await world.claim()
        assert await world.call("withdraw") == "OK"
        before = await world.dump()
        assert await world.call("resolve") == "WITHDRAWN"
        assert await world.dump() == before

    async def test_what_was_resolved_cannot_be_withdrawn(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("resolve") == "OK"
        before = await world.dump()
        assert await world.call("withdraw") == "OK"
        assert await world.dump() == before

    async def test_what_is_known_of_it_is_told(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        ask = Ask("f1")
        given: dict[str, Any] = {"about": encode_entry(ask), "form": "f1", "schema": b'{"type":"string"}'}
        assert await world.call("declare", **given) == "OK"
        assert await arrivals.about(world.store, world.id, KEY) == (True, ask)
        assert await arrivals.schema_of(world.store, world.id, "f1") == {"type": "string"}
        assert await arrivals.about(world.store, world.id, "other#0") == (False, None)


class TestRelayed:
    @pytest.mark.parametrize("state", STATES)
    async def test_only_who_has_ended_owes_nothing_more(self, world: World, state: str) -> None:
        await world.bring(state, **({} if state == "GONE" else {"reply": f"^{world.id}"}))
        before = await world.dump()
        if state in OPEN:
            assert await world.call("relayed") == "WRONG_STATE"
            assert await world.dump() == before
            return
        if state in FINAL:
            assert await world.mux.command("ZSCORE", world.keys.timers, world.id)
            assert await world.field("reply") == f"^{world.id}"
            await check(world.store, world.id)
            world.advance(40 * 86_400_000)
            assert await world.keeper.sweep(NOW_MS + 41 * 86_400_000, 10) == 0  # it would be forgotten
        assert await world.twice("relayed") == ("OK", "OK")
        assert not await world.mux.command("ZSCORE", world.keys.timers, world.id)
        assert await world.field("reply") == (None if state == "GONE" else f"~{world.id}")

    async def test_what_a_later_end_owes_is_not_done_with_an_earlier_one(self, world: World) -> None:
        await world.bring("FAILED", reply=f"^{world.id}")
        await world.mux.command("HSET", world.keys.head(world.id), "redriven", "t1")
        assert await world.call("relayed") == "WRONG_STATE"
        assert await world.field("reply") == f"^{world.id}"
        assert await world.call("relayed", token="t1") == "OK"

    async def test_who_owes_is_seen_to_when_it_is_due(self, world: World) -> None:
        await world.bring("COMPLETED", reply=f"^{world.id}")
        assert await world.keeper.due(NOW_MS, 10) == ({}, NOW_MS + 1000)
        assert await world.keeper.fire(world.store, world.id) == "RELAYED"
        assert await world.keeper.due(NOW_MS + 5000, 10) == ({}, None)

    async def test_approvals_of_an_ended_one_are_listed_no_more(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("declare", about=encode_entry(Ask(outcomes=("yes",))), since=NOW_MS) == "OK"
        assert len(await arrivals.approvals(world.store, 10)) == 1
        assert await world.call("settle") == "OK"
        assert await arrivals.approvals(world.store, 10) == []
        assert await world.keeper.fire(world.store, world.id) == "RELAYED"
        assert not await world.mux.command("EXISTS", world.keys.asked)
