"""The verbs of operators that go over a handler's head: kill, pause, resume."""

from __future__ import annotations

from typing import Any

import pytest

from redurable.errors import ConfigurationError, NotFound, WrongState
from redurable.ids import new_id
from redurable.store import archive, control, inspection
from redurable.store.server import PrivateServer
from tests.store.conftest import answers, plain
from tests.store.world import FINAL, NOW, NOW_MS, OPEN, QUEUE, STEP, World, result_of
from tests.support.invariants import check

pytestmark = pytest.mark.anyio


class TestKill:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        *[(state, {}, "CANCELED", "CANCELED") for state in OPEN],
        *[(state, {}, state, state) for state in FINAL],
        *[(state, {"at": "c:-/1-1"}, "AGAIN", "SUBMITTED" if state == "DELIVERED" else state) for state in OPEN],
    )
    async def test_it_ends_what_is_open(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({} if state == "GONE" else {"deadline": "+90000"}))
        assert await world.twice("kill", **given) == (reply, reply)
        assert await world.status() == after
        if reply == "CANCELED":
            assert await world.keeper.due(NOW_MS + 99_000_000, 9) == ({}, None)
            assert await world.claim() == []

    @pytest.mark.parametrize("was", ["CREATED", "SUBMITTED", "WAITING"])
    async def test_it_ends_what_is_paused(self, world: World, was: str) -> None:
        await world.bring("PAUSED", paused=was)
        assert await world.twice("kill") == ("CANCELED", "CANCELED")

    @pytest.mark.parametrize("verb", ["record", "checkpoint", "note", "park", "retry", "release", "settle"])
    async def test_its_owner_is_fenced(self, world: World, verb: str) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert await control.kill(world.store, world.id) == "CANCELED"
        before = await world.dump()
        assert await world.call(verb) == "WRONG_STATE"
        assert await world.dump() == before

    async def test_its_owner_is_told_at_once(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS")
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.hints("w1"))
            hearing.get_message(timeout=10)
            await control.kill(world.store, world.id)
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == b"!" + world.id.encode()

    async def test_it_says_why_and_keeps_the_journal(self, world: World) -> None:
        await world.bring("WAITING", steps=2)
        await control.kill(world.store, world.id, "it hangs")
        error = (await inspection.info(world.store, world.id)).error
        assert error is not None
        assert (error.code, error.message) == ("KILLED", "it hangs")
        assert await world.journal() == [STEP, STEP]

    @pytest.mark.parametrize("state", ["IN_PROGRESS", "WAITING"])
    async def test_one_that_is_being_canceled_does_not_go_on(self, world: World, state: str) -> None:
        await world.bring(state)
        assert await world.store.cancel(world.id) == "REQUESTED"
        assert await control.kill(world.store, world.id) == "CANCELED"
        assert await check(world.store, world.id) == "CANCELED"
        assert await world.store.cancel(world.id) == "CANCELED"

    async def test_a_retry_takes_it_up_again(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        old = world.lease
        assert old is not None
        await control.kill(world.store, world.id)
        await world.store.redrive(world.id)
        (world.lease,) = await world.claim()
        assert world.lease.entries[0] == STEP
        assert await old.settle("COMPLETED", b"", 1000) == b"FENCED"
        assert await world.lease.settle("FAILED", result_of("FAILED"), 1000) == b"OK"

    async def test_an_unknown_id_is_not_found(self, world: World) -> None:
        for unknown in (new_id(0), "nonsense", new_id(7)):
            with pytest.raises(NotFound):
                await control.kill(world.store, unknown)


PAUSABLE = ("CREATED", "SUBMITTED", "DELIVERED", "WAITING")


class TestPause:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        *[(state, {}, "PAUSED", "PAUSED") for state in PAUSABLE],
        ("IN_PROGRESS", {}, "REQUESTED", "IN_PROGRESS"),
        *[(state, {}, "WRONG_STATE", state) for state in FINAL],
        ("SUBMITTED", {"at": "c:-/1-1"}, "AGAIN", "SUBMITTED"),
        ("WAITING", {"at": "c:-/1-1"}, "AGAIN", "WAITING"),
    )
    async def test_it_keeps_what_is_open(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state, **({} if state == "GONE" else {"deadline": "+90000"}))
        assert await world.twice("pause", **given) == (reply, reply)
        assert await world.status() == after

    @pytest.mark.parametrize("state", PAUSABLE)
    async def test_nobody_takes_it_up_and_no_time_passes(self, world: World, state: str) -> None:
        await world.bring("PAUSED", paused=state, deadline="+500")
        world.advance(100_000)
        assert await world.claim() == []
        assert await world.keeper.due(NOW_MS + 100_000, 9) == ({}, None)
        assert await world.store.wake(world.id) == "WRONG_STATE"
        for late in ("fire", "expire"):  # a look at the timers that began before the pause
            world.mux.clock = str(NOW)
            assert await world.call(late) in ("STALE", "EARLY")
        assert await world.status() == "PAUSED"

    @pytest.mark.parametrize("verb", ["park", "retry", "release"])
    async def test_what_runs_is_paused_when_its_attempt_ends(self, world: World, verb: str) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        assert await world.call("pause") == "REQUESTED"
        assert (await inspection.info(world.store, world.id)).paused
        assert await world.call("record") == 2
        assert world.lease is not None
        world.lease.k = 2
        assert await world.twice(verb) == ("OK", "OK")
        assert await check(world.store, world.id) == "PAUSED"
        await control.resume(world.store, world.id)
        assert await world.status() == ("SUBMITTED" if verb == "release" else "WAITING")

    async def test_what_runs_is_paused_when_its_owner_is_lost(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("pause")
        assert await world.call("recover") == "OK"
        assert await check(world.store, world.id) == "PAUSED"
        await control.resume(world.store, world.id)
        assert len(await world.claim()) == 1

    async def test_what_runs_may_end(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("pause")
        assert await world.call("settle") == "OK"
        assert await check(world.store, world.id) == "COMPLETED"

    async def test_its_owner_is_told_at_once(self, world: World, real: PrivateServer) -> None:
        await world.bring("IN_PROGRESS")
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.hints("w1"))
            hearing.get_message(timeout=10)
            assert await control.pause(world.store, world.id) == "REQUESTED"
            heard = hearing.get_message(timeout=10)
        assert heard is not None
        assert heard["data"] == b"|" + world.id.encode()

    @pytest.mark.parametrize("state", ["CREATED", "SUBMITTED"])
    async def test_a_cancel_ends_what_never_ran(self, world: World, state: str) -> None:
        await world.bring("PAUSED", paused=state)
        assert await world.twice("cancel") == ("CANCELED", "CANCELED")

    async def test_a_cancel_of_what_ran_waits_for_the_resume(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=1)
        await world.call("park", wake="+500000")
        await world.call("pause")
        assert await world.twice("cancel") == ("REQUESTED", "REQUESTED")
        assert await world.status() == "PAUSED"
        await control.resume(world.store, world.id)
        assert await check(world.store, world.id) == "SUBMITTED"
        (lease,) = await world.claim()
        assert len(lease.entries) == 3

    async def test_what_cannot_be_paused_says_why(self, world: World) -> None:
        for verb in (control.pause, control.resume):
            for unknown in (new_id(0), "nonsense", new_id(7)):
                with pytest.raises(NotFound):
                    await verb(world.store, unknown)
        await world.bring("COMPLETED")
        for verb in (control.pause, control.resume):
            with pytest.raises(WrongState, match="COMPLETED"):
                await verb(world.store, world.id)


class TestResume:
    @answers(
        ("GONE", {}, "NOT_FOUND", None),
        ("PAUSED", {}, "OK", "WAITING"),
        ("PAUSED", {"back": "WAITING:7"}, "AGAIN", "PAUSED"),
        *[(state, {}, "OK", "SUBMITTED" if state == "DELIVERED" else state) for state in OPEN],
        *[(state, {}, "WRONG_STATE", state) for state in FINAL],
    )
    async def test_it_lets_go_on_what_is_paused(
        self, world: World, state: str, given: dict[str, Any], reply: str, after: str | None
    ) -> None:
        await world.bring(state)
        assert await world.twice("resume", **given) == (reply, reply)
        assert await world.status() == after

    @pytest.mark.parametrize("lane", ["q:high", "q:low"])
    async def test_what_was_fresh_is_fresh_again(self, world: World, lane: str) -> None:
        await world.keeper.open([*world.streams, world.solo])
        await world.submit(lane=lane)
        await world.call("pause")
        assert (await inspection.info(world.store, world.id)).priority == lane[2:]
        assert await world.twice("resume") == ("OK", "OK")
        (lease,) = await world.claim()
        assert (lease.lane, lease.attempt) == (lane, 1)

    async def test_a_suspect_stays_one(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        assert await world.call("recover") == "OK"
        (world.lease,) = await world.claim()
        assert await world.call("recover") == "SUSPECT"
        await world.call("pause")
        await control.resume(world.store, world.id)
        assert [lease.lane for lease in await world.claim()] == ["c:!solo"]

    @pytest.mark.parametrize(("state", "due"), [("CREATED", NOW_MS + 60_000), ("WAITING", NOW_MS + 5000)])
    async def test_its_timers_are_those_it_had(self, world: World, state: str, due: int) -> None:
        if state == "CREATED":
            await world.bring("CREATED")
        else:
            await world.bring("IN_PROGRESS", deadline="+90000")
            await world.call("park", wake="+5000")
        await world.call("pause")
        world.advance(70_000)
        await control.resume(world.store, world.id)
        assert await check(world.store, world.id) == state
        assert (await world.keeper.due(due, 9))[0] == {world.id: due}
        assert await world.keeper.fire(world.store, world.id) == "OK"

    async def test_a_deadline_that_passed_meanwhile_takes_effect(self, world: World) -> None:
        await world.bring("PAUSED", paused="SUBMITTED", deadline="+500")
        world.advance(1000)
        await control.resume(world.store, world.id)
        assert await world.keeper.fire(world.store, world.id) == "TIMED_OUT"

    async def test_a_pause_that_was_not_met_is_taken_back(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("pause")
        assert await world.twice("resume") == ("OK", "OK")
        assert await world.call("release") == "OK"
        assert await world.status() == "SUBMITTED"

    @pytest.mark.parametrize("was", [*PAUSABLE, "IN_PROGRESS"])
    async def test_an_import_goes_on(self, world: World, was: str) -> None:
        await world.bring(was, steps=1 if was in ("IN_PROGRESS", "WAITING") else 0)
        await world.call("pause")
        record = await archive.export(world.store, world.id)
        await control.kill(world.store, world.id)
        await archive.delete(world.store, world.id)
        assert await archive.import_record(world.store, record)
        again = "SUBMITTED" if was in ("DELIVERED", "IN_PROGRESS") else was
        assert await check(world.store, world.id) == again


class TestGate:
    async def test_workers_are_told_and_it_is_kept(self, world: World, real: PrivateServer) -> None:
        with plain(real) as client, client.pubsub(ignore_subscribe_messages=True) as hearing:
            hearing.subscribe(world.keys.timers)
            hearing.get_message(timeout=10)
            for closed, there in ((True, [b"mail"]), (True, [b"mail"]), (False, []), (False, [])):
                await control.gate(world.store, QUEUE, closed)
                assert await world.mux.command("SMEMBERS", world.keys.paused) == there
                heard = hearing.get_message(timeout=10)
                assert heard is not None
                assert heard["data"] == b"queues"

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 129])
    async def test_a_name_that_no_queue_can_have_is_refused(self, world: World, name: str) -> None:
        with pytest.raises(ConfigurationError):
            await control.gate(world.store, name, closed=True)


class TestPausedSession:
    async def test_one_in_line_keeps_its_place_and_is_paused_when_its_turn_comes(self, world: World) -> None:
        holder, last = new_id(0), new_id(0)
        await world.keeper.open([*world.streams, world.solo])
        for intent in (holder, world.id, last):
            await world.enter(intent)
        assert await world.twice("pause") == ("PAUSED", "PAUSED")
        assert (await inspection.info(world.store, world.id)).paused
        assert await world.status() == "CREATED"
        await control.kill(world.store, holder)
        assert await check(world.store, world.id) == "PAUSED"
        assert await world.line() == [world.id, last]
        assert await world.claim() == []
        assert await world.twice("resume") == ("OK", "OK")
        assert [lease.id for lease in await world.claim()] == [world.id]

    async def test_one_in_line_that_is_resumed_in_time_goes_on_as_if_nothing_was(self, world: World) -> None:
        holder = new_id(0)
        await world.keeper.open([*world.streams, world.solo])
        await world.enter(holder)
        await world.enter(lane="q:high")
        await world.call("pause")
        assert await world.twice("resume") == ("OK", "OK")
        await control.kill(world.store, holder)
        assert [lease.lane for lease in await world.claim()] == ["q:high"]

    async def test_the_reconciler_gives_a_paused_one_its_turn_too(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        holder = new_id(0)
        await world.enter(holder)
        await world.enter()
        await world.call("pause")
        head = world.keys.head(holder)
        for words in (("DEL", head, world.keys.envelope(holder)), ("DEL", world.streams[2])):
            await world.mux.command(*words)  # a failover lost the holder
        await world.keeper.open(world.streams)
        assert await world.keeper.mend(world.id) == "MENDED"
        assert await check(world.store, world.id) == "PAUSED"

    @pytest.mark.parametrize("state", ["SUBMITTED", "WAITING"])
    async def test_a_holder_goes_on_holding(self, world: World, state: str) -> None:
        await world.bring("PAUSED", paused=state, session=True)
        other = new_id(0)
        await world.enter(other)
        assert await world.line() == [world.id, other]
        assert await world.claim() == []
        await control.resume(world.store, world.id)
        assert await check(world.store, world.id) == state


class TestSession:
    @pytest.mark.parametrize("state", ["SUBMITTED", "DELIVERED", "IN_PROGRESS", "WAITING"])
    async def test_the_next_takes_the_place_of_a_holder(self, world: World, state: str) -> None:
        await world.bring(state, session=True)
        heir, last = new_id(0), new_id(0)
        for other in (heir, last):
            await world.enter(other)
        assert await world.twice("kill") == ("CANCELED", "CANCELED")
        assert await world.line() == [heir, last]
        assert [await world.state_of(i) for i in (world.id, heir, last)] == ["CANCELED", "SUBMITTED", "CREATED"]

    async def test_one_in_line_leaves_it(self, world: World) -> None:
        holder = new_id(0)
        await world.keeper.open([*world.streams, world.solo])
        await world.enter(holder)
        await world.enter()
        assert await world.twice("kill") == ("CANCELED", "CANCELED")
        assert await world.line() == [holder]

    async def test_it_asks_again_if_another_is_next_now(self, world: World) -> None:
        await world.bring("IN_PROGRESS", session=True)
        await world.enter(new_id(0))
        before = await world.dump()
        assert await world.call("kill", heir="") == "AGAIN"
        assert await world.dump() == before
        assert await control.kill(world.store, world.id) == "CANCELED"
