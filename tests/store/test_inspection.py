"""What is told of intents, queues and workers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from redurable.errors import CodecError, NotFound, StoreError
from redurable.ids import new_id
from redurable.model import (
    AttemptFailed,
    Envelope,
    ErrorInfo,
    Outcome,
    Priority,
    Reason,
    Status,
    StepDone,
    StepTried,
    decode_entry,
    encode_entry,
)
from redurable.store import deployments, depths, inspection, journals
from redurable.store.inspection import WorkerInfo
from redurable.store.server import PrivateServer
from redurable.store.store import pack_outcome
from redurable.store.walk import walk
from tests.store.conftest import plain
from tests.store.world import DAY, FAILURE, FINAL, NOW_MS, QUEUE, STATES, STEP, World, result_of

pytestmark = pytest.mark.anyio


def body(**fields: Any) -> bytes:
    """Return a packed envelope."""
    return msgspec.msgpack.encode(Envelope(payload=msgspec.Raw(b"\xc0"), **{"type": "", **fields}))


class TestInfo:
    @pytest.mark.parametrize("state", [s for s in STATES if s != "GONE"])
    async def test_it_tells_every_state(self, world: World, state: str) -> None:
        await world.bring(state)
        found = await inspection.info(world.store, world.id)
        assert (found.id, found.queue, found.status) == (world.id, QUEUE, Status(state))
        assert found.created == NOW_MS
        assert (found.finished is not None) == (state in FINAL)
        assert (found.error is not None) == (state in FINAL and state != "COMPLETED")
        assert found.reason is (Reason.PROMISE if state == "WAITING" else None)

    async def test_it_tells_what_the_sender_said(self, world: World) -> None:
        said = body(type="send", labels={"team": "a"}, idempotency_key="k1")
        await world.store.submit(world.id, said, QUEUE, "q:high", deadline="+500", max_losses=2)
        found = await inspection.info(world.store, world.id)
        assert (found.type, found.labels, found.idempotency_key) == ("send", {"team": "a"}, "k1")
        assert (found.priority, found.deadline) == (Priority.HIGH, NOW_MS + 500)

    async def test_it_tells_how_far_it_came(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=3)
        await world.call("note", value="fetch#0,load#1")
        await world.store.cancel(world.id)
        found = await inspection.info(world.store, world.id)
        assert (found.attempt, found.worker, found.entries, found.step) == (1, "w1", 4, "fetch#0")
        assert (found.canceling, found.changed) == (True, ("fetch#0", "load#1"))
        await world.call("recover")
        assert (await inspection.info(world.store, world.id)).losses == 1

    async def test_it_tells_when_it_goes_on(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        await world.call("retry", wake="+700")
        found = await inspection.info(world.store, world.id)
        assert (found.status, found.reason, found.wake) == (Status.WAITING, Reason.RETRY, NOW_MS + 700)
        await world.submit(later := new_id(0), lane="q:low", delay_ms=900)
        found = await inspection.info(world.store, later)
        assert (found.start, found.priority) == (NOW_MS + 900, Priority.LOW)

    async def test_what_is_not_there_is_not_found(self, world: World) -> None:
        for question in (inspection.info, inspection.outcome, journals.history):
            with pytest.raises(NotFound):
                await question(world.store, world.id)
            with pytest.raises(NotFound):
                await question(world.store, "nonsense")

    @pytest.mark.parametrize("damage", [("status", "BOGUS"), ("created", "soon"), ("queue", b"\xff"), None])
    async def test_a_head_that_cannot_be_read_is_told_and_hides_no_other(self, world: World, damage: Any) -> None:
        await world.bring("SUBMITTED")
        bad = new_id(0)
        if damage is None:
            await world.mux.command("SET", world.keys.head(bad), "text")
        else:
            fields = {"status": "WAITING", "queue": QUEUE, "created": str(NOW_MS)} | dict([damage])
            await world.mux.command("HSET", world.keys.head(bad), *[part for pair in fields.items() for part in pair])
        with pytest.raises(StoreError) as refused:
            await inspection.info(world.store, bad)
        assert refused.value.code == ("STORE_ERROR" if damage is None else "HEAD_UNREADABLE")
        assert [one.id for one in await inspection.intents(world.store)] == [world.id]
        if damage in (None, ("status", "BOGUS")):
            assert await deployments.open_intents(world.store, [QUEUE]) == [world.id]
            with pytest.raises(StoreError):
                await inspection.outcome(world.store, bad)
        await world.mux.command("DEL", world.keys.head(bad))

    def test_the_last_step_is_told_even_if_it_was_only_tried(self) -> None:
        tried = StepTried("", "load", 2, NOW_MS, error=ErrorInfo("E", "no"), tries=1, due=NOW_MS)
        assert journals.last_step([STEP, encode_entry(tried), FAILURE]) == "load#2"
        assert journals.last_step([FAILURE]) is None


class TestOutcome:
    @pytest.mark.parametrize("state", ["SUBMITTED", "IN_PROGRESS", "WAITING"])
    async def test_an_open_intent_has_none(self, world: World, state: str) -> None:
        await world.bring(state)
        assert await inspection.outcome(world.store, world.id) is None

    @pytest.mark.parametrize("result", [b"\xc0", b"\x01", msgspec.msgpack.encode("x" * 500)], ids=["none", "1", "long"])
    async def test_a_result_comes_back_whatever_its_size(self, world: World, result: bytes) -> None:
        await world.bring("IN_PROGRESS")
        packed = pack_outcome(Outcome(status=Status.COMPLETED, result=msgspec.Raw(result)))
        assert (packed == b"") == (result == b"\xc0")
        await world.call("settle", result=packed)
        found = await inspection.outcome(world.store, world.id)
        assert found is not None
        assert (found.status, bytes(found.result)) == (Status.COMPLETED, result)

    @pytest.mark.parametrize("state", FINAL)
    async def test_every_end_is_told(self, world: World, state: str) -> None:
        await world.bring(state)
        assert await inspection.outcome(world.store, world.id) == inspection.unpack_outcome(result_of(state))


class TestHistory:
    async def test_it_gives_entries_with_their_seqs(self, world: World) -> None:
        await world.bring("IN_PROGRESS", steps=2)
        await world.call("record", entries=[FAILURE])
        found = await journals.history(world.store, world.id)
        assert [seq for seq, _ in found] == [1, 2, 3]
        assert [type(entry) for _, entry in found] == [StepDone, StepDone, AttemptFailed]
        assert [seq for seq, _ in await journals.history(world.store, world.id, since=2)] == [3]
        assert await journals.history(world.store, world.id, since=3) == []
        assert found[0][1].value == decode_entry(STEP).value  # type: ignore[union-attr]  # both are StepDone

    @pytest.mark.parametrize("count", [3, 4, 5, 4 + 64, 2001])
    async def test_a_long_one_is_read_in_parts(self, world: World, count: int) -> None:
        await world.bring("IN_PROGRESS")
        rows = [encode_entry(msgspec.structs.replace(decode_entry(STEP), n=n)) for n in range(count)]
        for start in range(0, count, 200):
            await world.mux.command("RPUSH", world.keys.journal(world.id), *rows[start : start + 200])
        assert await journals.entries_of(world.store, world.id) == rows
        assert await journals.entries_of(world.store, world.id, count - 1) == rows[-1:]
        assert await journals.entries_of(world.store, world.id, count) == []
        found = await journals.history(world.store, world.id, since=1)
        assert [seq for seq, _ in found] == list(range(2, count + 1))


class TestWalk:
    async def test_it_sees_every_key_in_small_pages(self, world: World) -> None:
        names, prefix = {f"{n:05d}" for n in range(2500)}, world.keys.prefix + "walked:"
        others = [world.keys.prefix + "other:00001", world.keys.prefix + "other:}:walked:00001"]
        await world.mux.command(
            "MSET", *(w for n in others for w in (n, "")), *(w for n in names for w in (prefix + n, ""))
        )
        pages = [page async for page in walk(world.store, "walked:")]
        some = {place async for page in walk(world.store, "walked:", "0000*") for place in page}
        await world.mux.command("UNLINK", *others, *(prefix + n for n in names))
        assert {place for page in pages for place in page} == {(0, name) for name in names}
        assert max(map(len, pages)) < 1000  # the server may add the rest of one place of its table
        assert some == {(0, f"{n:05d}") for n in range(10)}


class TestListing:
    async def test_each_state_lists_its_own(self, world: World) -> None:
        # the submitted come last, or the claims on the way to the other states would take them
        order = [s for s in STATES[1:] if s != "SUBMITTED"] + ["SUBMITTED"]
        ids: dict[str, set[str]] = {}
        for state in order:
            for _ in range(3):
                other = World(world.store)
                other.keeper.worker = f"w-{other.id}"
                await other.bring(state)
                ids.setdefault(state, set()).add(other.id)
        for state in order:
            found = await inspection.intents(world.store, status=Status(state))
            assert {f.id for f in found} == ids[state], state
            assert {f.status for f in found} == {Status(state)}
        every = await inspection.intents(world.store)
        assert {f.id for f in every} == set().union(*ids.values())
        assert len(every) == 27

    @pytest.mark.parametrize("moments", [1, 7, 700])
    async def test_ended_ones_are_paged_by_time_while_others_end_and_go(self, world: World, moments: int) -> None:
        """Each that is there all the while comes once, also of many that ended at one moment."""
        view = world.keys.done
        await world.mux.command("ZADD", view, *(w for n in range(700) for w in (10**9 + n % moments, f"{n:05d}")))
        found: list[str] = []
        async for page in inspection.ids_of(world.store, None, Status.COMPLETED):
            found += page
            await world.mux.command("ZADD", view, *(w for n in range(50) for w in (10**10, f"new-{len(found)}-{n}")))
            gone = [name for name in found if name.startswith("0")][:100]
            await world.mux.command("ZREM", view, *gone)
        await world.mux.command("UNLINK", view)
        assert sorted(found) == [f"{n:05d}" for n in range(700)]

    async def test_filters_go_together(self, world: World) -> None:
        for queue in ("mail", "sms"):
            for team in ("a", "b"):
                await world.store.submit(new_id(0), body(labels={"team": team}), queue, "q:normal")
                await world.store.submit(new_id(0), body(labels={"team": team}), queue, "q:low", delay_ms=1000)

        async def count(**filters: Any) -> int:
            return len(await inspection.intents(world.store, **filters))

        assert await count() == 8
        assert await count(queue="mail") == 4
        assert await count(label=("team", "a")) == 4
        assert await count(label=("team", "c")) == 0
        assert await count(queue="none") == 0
        assert await count(queue="sms", label=("team", "b"), status=Status.SUBMITTED) == 1
        assert await count(queue="sms", label=("team", "b"), status=Status.CREATED) == 1
        assert await count(queue="sms", status=Status.WAITING) == 0

    async def test_long_lists_are_walked_in_pages(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inspection, "_PAGE", 7)
        await world.keeper.open([*world.streams, world.solo])
        ids = {await world.submit(new_id(0)) for _ in range(50)}

        async def listed(**filters: Any) -> set[str]:
            found = [f.id for f in await inspection.intents(world.store, **filters)]
            assert len(found) == len(set(found))
            return set(found)

        assert await listed(status=Status.SUBMITTED) == ids
        assert await listed() == ids
        assert len(await listed(limit=20)) == 20
        leases = await world.claim(30)
        taken = {lease.id for lease in leases}
        assert await listed(status=Status.IN_PROGRESS) == taken
        assert await listed(status=Status.SUBMITTED) == ids - taken
        for lease in leases:
            world.advance(1)
            assert await lease.settle("COMPLETED", b"", DAY) == b"OK"
        newest_first = [f.id for f in await inspection.intents(world.store, status=Status.COMPLETED, limit=25)]
        assert newest_first == [lease.id for lease in reversed(leases)][:25]

    async def test_running_ones_are_found_without_reading_the_backlog(self, world: World, real: PrivateServer) -> None:
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(300):
            await world.submit(new_id(0))
        await world.claim(2)
        with plain(real) as client:
            client.config_resetstat()
            assert len(await inspection.intents(world.store, status=Status.IN_PROGRESS)) == 2
            assert client.info("stats")["total_commands_processed"] < 60

    async def test_a_new_namespace_is_empty(self, world: World) -> None:
        assert await inspection.intents(world.store) == []
        assert await depths.queues(world.store) == []
        assert await inspection.workers(world.store) == []


class TestQueues:
    async def test_it_counts_what_waits_and_what_is_held(self, world: World) -> None:
        await world.bring("IN_PROGRESS")
        for _ in range(3):
            await world.submit(new_id(0))
        await world.store.submit(new_id(0), body(), "sms", "q:low")
        await world.deliver()
        mail, sms = await depths.queues(world.store)
        assert (mail.name, mail.queued, mail.running, mail.suspects, mail.workers) == (QUEUE, 2, 2, 0, 0)
        assert (sms.name, sms.queued, sms.running) == ("sms", 1, 0)

    async def test_suspects_are_counted_apart(self, world: World) -> None:
        await world.bring("IN_PROGRESS", max_losses=2)
        assert await world.call("recover") == "SUSPECT"
        (mail,) = await depths.queues(world.store)
        assert (mail.queued, mail.running, mail.suspects) == (0, 0, 1)

    async def test_the_oldest_is_one_that_waits_not_one_that_runs(self, world: World) -> None:
        await world.keeper.open([*world.streams, world.solo])
        stream = world.streams[2]
        await world.mux.command("XADD", stream, "1000-1", "i", running := new_id(0))
        await world.mux.command("XREADGROUP", "GROUP", "rd", "w1", "STREAMS", stream, ">")
        (mail,) = await depths.queues(world.store)
        assert mail.oldest_seconds is None
        await world.submit()
        (mail,) = await depths.queues(world.store)
        assert mail.oldest_seconds is not None
        assert mail.oldest_seconds < 60
        await world.mux.command("XACK", stream, "rd", "1000-1")
        await world.mux.command("XDEL", stream, "1000-1")
        assert running

    async def test_what_waits_is_told_apart_by_reason_and_what_is_delayed_makes_a_queue(self, world: World) -> None:
        await world.store.submit(new_id(0), body(), "later", "q:normal", delay_ms=DAY)
        (later,) = await depths.queues(world.store)
        assert (later.name, later.delayed, later.queued, later.waiting) == ("later", 1, 0, {})
        for reason in ("UNKNOWN_TYPE", "UNKNOWN_TYPE", "TIME"):
            intent = new_id(0)
            await world.store.submit(intent, body(), "late", "q:normal", delay_ms=DAY)
            await world.mux.command(
                "HSET", head := world.keys.head(intent), "status", "WAITING", "reason", reason, "wake", NOW_MS + DAY
            )  # fmt: skip
            await world.mux.command("HDEL", head, "start", "lane")
        late, _ = await depths.queues(world.store)
        assert (late.name, late.delayed, late.waiting) == ("late", 0, {"TIME": 1, "UNKNOWN_TYPE": 2})
        assert (late.unknown, (await depths.overview(world.store)).timers) == (2, 4)

    async def test_beyond_the_sample_a_part_stands_for_the_whole(self, world: World) -> None:
        many = depths.SAMPLE * 2
        for n in range(many):
            world.store.submit(new_id(0), body(), ("even", "odd")[n % 2], "q:normal", delay_ms=DAY)
        even, odd = await depths.queues(world.store)
        assert even.delayed + odd.delayed == pytest.approx(many, abs=2)
        assert even.delayed == pytest.approx(many / 2, rel=0.2)

    async def test_of_many_queues_the_first_by_name_are_told(self, world: World) -> None:
        for name in ("b", "a", "c"):
            await world.store.submit(new_id(0), body(), name, "q:normal")
        assert [q.name for q in (await depths.overview(world.store, 2)).queues] == ["a", "b"]

    async def test_a_look_costs_as_many_commands_whatever_is_queued(self, world: World, real: PrivateServer) -> None:
        await world.keeper.open([*world.streams, world.solo])
        for _ in range(300):
            await world.submit(new_id(0))
        await world.claim(2)
        with plain(real) as client:
            client.config_resetstat()
            (mail,) = await depths.queues(world.store)
            assert client.info("stats")["total_commands_processed"] < 40
        assert mail.queued + mail.running == 300


class TestWorkers:
    async def test_they_are_told_with_whether_they_live(self, world: World, real: PrivateServer) -> None:
        for name in ("w2", "w1"):
            about = WorkerInfo(
                id=name, queues=(QUEUE,), host="h", pid=7, concurrency=10, running=1, started=NOW_MS, renewed=NOW_MS,
                python="3.11", release="0.1.0",
            )  # fmt: skip
            await world.mux.command("HSET", world.keys.workers, name, msgspec.msgpack.encode(about))
        await world.bring("IN_PROGRESS")  # leaves the number of w1's last claim beside it
        with plain(real) as client, client.pubsub() as hearing:
            hearing.subscribe(world.keys.liveness("w1"))
            hearing.get_message(timeout=10)
            one, two = await inspection.workers(world.store)
            (mail,) = await depths.queues(world.store)
        assert (one.id, one.alive, two.id, two.alive) == ("w1", True, "w2", False)
        assert (one.queues, one.concurrency) == ((QUEUE,), 10)
        assert mail.workers == 1


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x93\x63\x01\x02", "cannot be read: it is of kind 99, which this version does not know"),
        (
            msgspec.msgpack.encode([1, "", "a", 1.5, 3, b"", None]),
            "(StepDone) cannot be read: its n: expected int",
        ),
        (
            msgspec.msgpack.encode([7, 1, ["a", 5], 1]),
            "(AttemptFailed) cannot be read: its error: expected str",
        ),
        (msgspec.msgpack.encode([9, 1, "TOPSECRET"]), "its status: a value that this version does not know"),
        (msgspec.msgpack.encode([1, ""]), "(StepDone) cannot be read: fields are missing"),
        (msgspec.msgpack.encode({"a": 1}), "cannot be read: expected array, got object"),
        (b"\x97\x01", "(StepDone) cannot be read: it is cut short"),
        (b"\x97\x01\xa1\xff\xa1a\x01\x02\xc0\xc0", "(StepDone) cannot be read: a text in it is no UTF-8"),
        (b"", "cannot be read: it is cut short"),
        (b"\xc1TOPSECRET", "cannot be read: it is no MessagePack"),
    ],
)
def test_an_entry_that_cannot_be_read_is_told_by_number_and_field_without_its_values(raw: bytes, why: str) -> None:
    with pytest.raises(CodecError) as refused:
        journals.readable(raw, 7)
    assert refused.value.code == "JOURNAL_UNREADABLE"
    assert refused.value.message.startswith("entry 7 of the journal ")
    assert why in refused.value.message
    assert "TOPSECRET" not in str(refused.value)
    assert "later version" in refused.value.hint
