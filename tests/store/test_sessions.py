"""What operators see of sessions and do to them, by script and by verb; what would deadlock."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redurable.codec import NIL
from redurable.errors import ConfigurationError, NotFound, UsageError, WrongState
from redurable.ids import new_id
from redurable.model import Envelope, Reason, Status
from redurable.store import sessions
from redurable.store.deadlocks import check_deadlock
from redurable.store.inspection import outcome
from redurable.store.session import Entry
from tests.store.conftest import answers
from tests.store.world import DAY, FINAL, QUEUE, SESSION, World, result_of

pytestmark = pytest.mark.anyio


class TestSkip:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        ("CREATED", {}, "WRONG_STATE", "CREATED"),
        ("SUBMITTED", {}, "OK", "FAILED"),
        ("DELIVERED", {}, "OK", "FAILED"),
        ("IN_PROGRESS", {}, "WRONG_STATE", "IN_PROGRESS"),
        ("WAITING", {}, "OK", "FAILED"),
        *[(state, {}, "OK" if state == "FAILED" else "WRONG_STATE", state) for state in FINAL],
        ("SUBMITTED", {"at": "c:-/1-1"}, "AGAIN", "SUBMITTED"),
        ("WAITING", {"heir": new_id(0)}, "AGAIN", "WAITING"),
    )
    async def test_it_ends_what_holds_and_is_not_run(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({"session": True} if state != "GONE" else {}))
        other = new_id(0)
        if reply == "OK" and state != "FAILED":
            await world.enter(other)
        assert await world.twice("skip", **given) == (reply, reply)
        assert await world.status() == after
        if reply == "OK" and state != "FAILED":
            assert await world.line() == [other]
            assert await world.state_of(other) == "SUBMITTED"

    async def test_what_was_delivered_is_not_run(self, world: World) -> None:
        await world.bring("SUBMITTED", session=True)
        given = list(await world.deliver())
        assert await sessions.skip(world.store, QUEUE, SESSION) == world.id
        assert await world.claim(given=given) == []

    async def test_its_outcome_says_so_and_a_retry_goes_on(self, world: World) -> None:
        await world.bring("WAITING", session=True, steps=2)
        assert await sessions.skip(world.store, QUEUE, SESSION, "stuck") == world.id
        ended = await outcome(world.store, world.id)
        assert ended is not None
        assert ended.error is not None
        assert (ended.error.code, ended.error.message) == ("SESSION_SKIPPED", "stuck")
        await world.store.redrive(world.id)
        (lease,) = await world.claim()
        assert (lease.id, lease.attempt) == (world.id, 2)

    async def test_a_head_that_runs_is_left(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        with pytest.raises(WrongState, match="is being run"):
            await sessions.skip(world.store, QUEUE, SESSION)
        with pytest.raises(NotFound, match="nobody holds"):
            await sessions.skip(world.store, QUEUE, "other")


class TestAmend:
    async def read(self, world: World) -> bytes | None:
        return await world.session.read("a")

    async def test_an_operator_writes_while_the_session_is_free(self, world: World) -> None:
        args = {"name": "a", "value": b"\x01", "retention": 60_000, "force": ""}
        assert await world.twice("amend", **args) == ("OK", "OK")
        assert await self.read(world) == b"\x01"
        assert 0 < await world.mux.command("PTTL", world.session.state) <= 60_000
        assert await world.twice("amend", **args | {"value": ""}) == ("OK", "OK")
        assert await world.mux.command("EXISTS", world.session.state) == 0

    async def test_while_it_has_intents_it_has_to_be_forced(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        before = await world.dump()
        with pytest.raises(WrongState) as caught:
            await sessions.amend(world.store, QUEUE, SESSION, "a", b"\x01")
        assert caught.value.code == "SESSION_BUSY"
        assert await world.dump() == before
        await sessions.amend(world.store, QUEUE, SESSION, "a", b"\x01", force=True)
        assert await self.read(world) == b"\x01"
        assert await world.mux.command("PTTL", world.session.state) == -1


class TestInfo:
    async def test_it_tells_the_holder_the_line_and_the_state(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        assert world.lease is not None
        ids = [new_id(0) for _ in range(3)]
        for intent in ids:
            await world.enter(intent)
        await sessions.amend(world.store, QUEUE, SESSION, "a", b"\x01", force=True)
        await world.lease.retry(0, 1000, b"\x93\x07\x00\xc0")
        found = await sessions.info(world.store, QUEUE, SESSION, line=2)
        assert (found.holder, found.status, found.reason) == (world.id, Status.WAITING, Reason.RETRY)
        assert (found.waiting, found.line, found.names) == (3, tuple(ids[:2]), 1)
        assert found.bytes > 0
        assert found.oldest_seconds is not None
        await world.mux.command("DEL", world.keys.journal(world.id))  # it was no real entry

    async def test_what_has_neither_intents_nor_a_state_is_not_there(self, world: World) -> None:
        with pytest.raises(NotFound) as caught:
            await sessions.info(world.store, QUEUE, SESSION)
        assert caught.value.code == "SESSION_NOT_FOUND"
        for queue, key in (("a b", "k"), (QUEUE, ""), (QUEUE, "a\nb"), (QUEUE, "x" * 257)):
            with pytest.raises(ConfigurationError):
                await sessions.info(world.store, queue, key)

    async def test_the_longest_lines_are_listed_first(self, world: World) -> None:
        for key, count in (("short", 1), ("long", 4), ("middle", 2)):
            for _ in range(count):
                await world.store.submit(new_id(0), world_body(), QUEUE, "q:normal", entry=Entry(key))
        await sessions.amend(world.store, QUEUE, "kept:alone", "a", b"\x01")
        await world.store.submit(new_id(0), world_body(), "other", "q:normal", entry=Entry("x"))
        found = await sessions.sessions(world.store, queue=QUEUE)
        assert [(s.key, s.waiting) for s in found] == [("long", 3), ("middle", 1), ("short", 0), ("kept:alone", 0)]
        assert [s.queue for s in await sessions.sessions(world.store, limit=2)] == [QUEUE, QUEUE]
        assert {s.queue for s in await sessions.sessions(world.store)} == {QUEUE, "other"}

    async def test_the_last_that_failed_is_found(self, world: World) -> None:
        assert await sessions.last_failed(world.store, QUEUE, SESSION) is None
        failed = []
        for status in ("FAILED", "FAILED", "CANCELED"):
            world.id = new_id(0)
            await world.bring(status, session=True)
            failed.append(world.id)
            world.advance(5)
        world.id = new_id(0)
        await world.bring("FAILED")
        assert await sessions.last_failed(world.store, QUEUE, SESSION) == failed[1]


def world_body(parent: str = "") -> bytes:
    return msgspec.msgpack.encode(Envelope(type="", payload=msgspec.Raw(NIL), parent=parent))


class TestDeadlock:
    async def child(self, world: World, parent: str, **options: Any) -> str:
        intent = new_id(0)
        reply = f"^{parent}" if options.pop("waited", True) else ""
        await world.store.submit(intent, world_body(parent), "other", "q:normal", reply=reply, **options)
        return intent

    async def test_what_was_sent_one_way_holds_nobody_up(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        child = await self.child(world, world.id, waited=False)
        await check_deadlock(world.store, child, QUEUE, SESSION)

    async def test_waiting_for_ones_own_session_is_refused(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        with pytest.raises(UsageError, match="it holds session 'customer-7'") as caught:
            await check_deadlock(world.store, world.id, QUEUE, SESSION)
        assert caught.value.code == "SESSION_DEADLOCK"
        await check_deadlock(world.store, world.id, QUEUE, "other")
        await check_deadlock(world.store, world.id, "other", SESSION)

    async def test_through_children_too(self, world: World) -> None:
        await world.bring("WAITING", session=True)
        child = await self.child(world, world.id)
        grandchild = await self.child(world, child, entry=Entry("x"))
        with pytest.raises(UsageError, match=f"{world.id}, which waits for it, holds"):
            await check_deadlock(world.store, grandchild, QUEUE, SESSION)
        with pytest.raises(UsageError, match="SESSION_DEADLOCK"):
            await check_deadlock(world.store, grandchild, "other", "x")
        await check_deadlock(world.store, child, "other", "x")

    async def test_a_parent_that_has_ended_waits_for_nobody(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        child = await self.child(world, world.id)
        assert world.lease is not None
        assert await world.lease.settle("FAILED", result_of("FAILED"), DAY) == b"OK"
        await check_deadlock(world.store, child, QUEUE, SESSION)
