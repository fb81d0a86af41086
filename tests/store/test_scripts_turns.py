"""The next turn of an intent: one script, whoever holds it, whatever came meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redurable.model import Arrived, Continued, Status, encode_entry
from redurable.store import arrivals
from tests.store.conftest import answers
from tests.store.world import BODY, FINAL, NOW_MS, STALE, STEP, World
from tests.support.invariants import check, check_all

pytestmark = pytest.mark.anyio
FIRST = encode_entry(Continued(NOW_MS, 2, 0))


class TestContinue:
    @answers(
        ("IN_PROGRESS", {}, "OK", "SUBMITTED"),
        ("IN_PROGRESS", {"fence": STALE}, "FENCED", "IN_PROGRESS"),
        ("IN_PROGRESS", {"k": 1}, "REGRESSED", "IN_PROGRESS"),
        ("IN_PROGRESS", {"seen": 7}, "NEWS", "IN_PROGRESS"),
        ("GONE", {}, "NOT_FOUND", None),
        *[(state, {"fence": STALE}, "FENCED", state) for state in ("CREATED", "SUBMITTED", "WAITING", *FINAL)],
        *[(state, {}, "WRONG_STATE", state) for state in ("WAITING", *FINAL)],
    )
    async def test_only_its_owner_begins_it(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        assert await world.twice("continue", **given) == (reply, reply)
        assert await world.status() == after
        await check_all(world.store)

    async def test_the_journal_is_new_and_the_payload_is_too(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=5)
        await world.call("checkpoint")
        await world.call("note", name="long", value="5 entries")
        assert await world.call("continue", body=BODY + b"") == "OK"
        assert await world.journal() == [FIRST]
        assert [await world.field(name) for name in ("turn", "long", "losses")] == ["2", None, None]
        assert not await world.mux.command("EXISTS", world.keys.checkpoint(world.id))
        assert await check(world.store, world.id) == "SUBMITTED"
        held = world.lease
        (lease,) = await world.claim()
        assert (lease.attempt, lease.base, lease.entries[0], len(lease.entries)) == (2, 2, FIRST, 2)
        assert held is not None
        assert lease.epoch > held.epoch
        assert await held.record([STEP]) == b"FENCED", "the turn that is over writes nothing more"

    async def test_more_own_records_than_said_are_a_duplicate(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2)
        assert await world.call("continue", k=1) == "DUPLICATE"
        assert len(await world.journal()) == 2

    async def test_what_came_and_was_not_used_goes_along_and_the_rest_is_forgotten(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        early = arrivals.arrival("early#0", b"\x01")
        assert await arrivals.resolve(world.store, world.id, early) == "OK"
        used = arrivals.arrival("used#0", b"\x02")
        assert await arrivals.resolve(world.store, world.id, used) == "OK"
        entry = encode_entry(Arrived("early#0", NOW_MS, Status.COMPLETED, msgspec.Raw(b"\x01")))
        assert await world.twice("continue", kept=["early#0", entry]) == ("OK", "OK")
        assert await world.journal() == [FIRST, entry]
        assert await arrivals.resolve(world.store, world.id, early) == "OK", "the same again"
        assert len(await world.journal()) == 2
        assert await arrivals.resolve(world.store, world.id, used) == "OK", "a name of the new turn"
        assert len(await world.journal()) == 3
        await check_all(world.store)

    async def test_what_goes_along_counts_once(self, world: World) -> None:
        """A turn that takes three values along has room for as many fewer, not for five fewer."""
        await world.bring("IN_PROGRESS", steps=1)
        kept = [w for n in range(3) for w in (f"early#{n}", encode_entry(arrivals.arrival(f"early#{n}", b"\x01")))]
        assert await world.call("continue", kept=kept) == "OK"
        assert await world.call("resolve", key="x#3", most=4) == "OK"
        assert await world.call("resolve", key="x#4", most=4) == "FULL"

    async def test_a_cancel_that_came_is_news(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.store.cancel(world.id)
        assert await world.call("continue", seen=1) == "NEWS"
        assert await world.status() == "IN_PROGRESS"
        assert len(await world.journal()) == 2

    async def test_one_that_is_to_be_paused_is_paused_between_two_turns(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.mux.command("HSET", world.keys.head(world.id), "paused", 1)
        assert await world.twice("continue") == ("OK", "OK")
        assert (await world.status(), await world.field("paused"), await world.field("turn")) == (
            "PAUSED", "SUBMITTED:c:-", "2"
        )  # fmt: skip
        assert await world.journal() == [FIRST]
        assert await check(world.store, world.id) == "PAUSED"
